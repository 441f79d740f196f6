// A · Bᵀ + bias with float16 factors and float32 sums, for a GPU from sm_80 on: the input projections of an LSTM, and the
// linear map behind it. runtime/cuda/lstm.py launches it.
//
// A block computes a tile of 128 rows × 256 columns with the layout of `screen` in nearest.cu: cp.async copies slices of
// 64 values of both factors into a ring of STAGES slots, chunk c of row i lies at c ^ (i mod 8), and each of 8 warps holds
// 64 × 64 sums. Blocks that run side by side share their 256 rows of B.

#include "tensor_cores.cuh"

#ifndef STAGES
#define STAGES 2  // slots, as many as the architecture's shared memory holds; runtime/cuda/nearest.py chooses them
#endif

constexpr int TILE_ROWS = 128;
constexpr int TILE_COLUMNS = 256;
constexpr int SLICE = 64;  // values; 128 bytes of float16
constexpr int PARTS = SLICE / 16;
constexpr int THREADS = 256;
constexpr int ROW_BYTES = 2 * SLICE;
constexpr int RIGHT_AT = TILE_ROWS * ROW_BYTES;  // in a slot, after the rows of A
constexpr int SLOT_BYTES = RIGHT_AT + TILE_COLUMNS * ROW_BYTES;
constexpr int SHARED_BYTES = STAGES * SLOT_BYTES;

struct alignas(8) Halves {
    half_bits at[4];
};

/// from [rows, 4·quarters] float32 → to [rows, 4·pitch] float16, with zeros behind. Blocks of THREADS.
extern "C" __global__ void halve(const Four* __restrict__ from, Halves* __restrict__ to, int rows, int quarters,
                                 int pitch) {
    const long long place = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
    const long long row = place / pitch;
    const int column = static_cast<int>(place % pitch);
    if (row >= rows) return;
    Four given = {};
    if (column < quarters) given = from[row * quarters + column];
    Halves rounded;
    for (int i = 0; i < 4; ++i) rounded.at[i] = round_to_half(given.at[i]);
    to[place] = rounded;
}

/// left [rows, 64·slices] and right [256·…, 64·slices] float16, bias [256·…] → out [rows, columns] float32; `columns` is
/// even. A block for each tile: ⌈rows / 128⌉ × ⌈columns / 256⌉. Blocks of THREADS with SHARED_BYTES.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
product(const half_bits* __restrict__ left, const half_bits* __restrict__ right, const float* __restrict__ bias,
        float* __restrict__ out, int rows, int columns, int slices) {
#ifndef EMULATED_GPU
    extern __shared__ __align__(1024) unsigned char shared[];
#endif
    const unsigned ring = find_shared(shared);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int warp_row = 64 * (warp / 4), warp_column = 64 * (warp % 4);
    const int row_tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    const int first_row = static_cast<int>(blockIdx.x) % row_tiles * TILE_ROWS;
    const int first_column = static_cast<int>(blockIdx.x) / row_tiles * TILE_COLUMNS;
    const size_t width = static_cast<size_t>(SLICE) * slices;

    // Copies: this thread's chunk of every 32nd of the 384 rows of a slot. Behind the last row of A it is copied again.
    const int copy_row = threadIdx.x / 8, chunk = threadIdx.x % 8;
    const unsigned copy_to = ring + copy_row * ROW_BYTES + ((chunk ^ copy_row % 8) << 4);
    const auto copy_third = [&](int slice, int third) {  // 0: rows of A; 1, 2: halves of those of B
        if (slice >= slices) return;
        const unsigned to = copy_to + slice % STAGES * SLOT_BYTES + third * TILE_ROWS * ROW_BYTES;
        const half_bits* from = (third == 0 ? left : right) + slice * SLICE + chunk * 8;
#pragma unroll
        for (int i = 0; i < TILE_ROWS / 32; ++i) {
            const int place = copy_row + 32 * i;
            const int row = third == 0 ? min(first_row + place, rows - 1) : first_column + (third - 1) * TILE_ROWS + place;
            copy_chunk(to + i * 32 * ROW_BYTES, from + row * width);
        }
    };

    // Fragments: `a` of 16 rows × 16 values as (rows 0–7, 8–15) × (values 0–7, 8–15), rows first; `b` of 16 columns as
    // (0–7, 8–15), within each (values 0–7, 8–15).
    const unsigned a_row = (warp_row + lane % 16) * ROW_BYTES;
    const unsigned b_row = RIGHT_AT + (warp_column + lane % 8 + lane / 16 * 8) * ROW_BYTES;
    const unsigned a_chunk = (lane / 16 ^ lane % 8) << 4, b_chunk = (lane / 8 % 2 ^ lane % 8) << 4;
    unsigned a[2][4][4], b[2][4][4];
    const auto load_fragments = [&](int slice, int part) {
        const unsigned slot = ring + slice % STAGES * SLOT_BYTES, values = part << 5;  // 16 of them: two chunks
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            load_matrices(a[part % 2][i], slot + a_row + i * 16 * ROW_BYTES + (a_chunk ^ values));
            load_matrices(b[part % 2][i], slot + b_row + i * 16 * ROW_BYTES + (b_chunk ^ values));
        }
    };

    float sums[4][8][4] = {};
    for (int slice = 0; slice < STAGES - 1; ++slice) {
        for (int third = 0; third < 3; ++third) copy_third(slice, third);
        close_copies();
    }
    await_copies<STAGES - 2>();  // this thread's copies of slice 0
    __syncthreads();             // all threads' copies
    load_fragments(0, 0);
    for (int slice = 0; slice < slices; ++slice) {
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            if (part + 1 < PARTS) {
                load_fragments(slice, part + 1);
                copy_third(slice + STAGES - 1, part);  // into the slot of the slice before, which is free
            } else {                                   // this slot is in registers
                close_copies();
                await_copies<STAGES - 2>();  // this thread's copies of the next slice
                __syncthreads();             // all threads' copies; and no thread still reads this slot
                if (slice + 1 < slices) load_fragments(slice + 1, 0);
            }
#pragma unroll
            for (int i = 0; i < 4; ++i) {
#pragma unroll
                for (int f = 0; f < 8; ++f) {
                    const unsigned(&pair)[4] = b[part % 2][f / 2];
                    multiply(sums[i][f], a[part % 2][i], pair[f % 2 * 2], pair[f % 2 * 2 + 1]);
                }
            }
        }
    }
    await_copies<0>();

#pragma unroll
    for (int f = 0; f < 8; ++f) {
        const int column = first_column + warp_column + 8 * f + 2 * (lane % 4);
        if (column >= columns) continue;
        const float offsets[2] = {bias[column], bias[column + 1]};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
            for (int lower = 0; lower < 2; ++lower) {
                const int row = first_row + warp_row + 16 * i + 8 * lower + lane / 4;
                if (row >= rows) continue;
                float* to = out + static_cast<size_t>(row) * columns + column;
                to[0] = sums[i][f][2 * lower] + offsets[0];
                to[1] = sums[i][f][2 * lower + 1] + offsets[1];
            }
        }
    }
}
