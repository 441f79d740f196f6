// The recurrence of an LSTM layer in one launch, both directions at once or one, for a GPU from sm_80 on: the gates of
// position t are W x_t + b, which product.cu has computed for all positions, + R h_(t−1). runtime/cuda/lstm.py packs R
// and launches it.
//
// With gates i, o, f, c of ONNX's LSTM: c_t = σ(f) c_(t−1) + σ(i) tanh(c), h_t = σ(o) tanh(c_t). R and h are float16; sums,
// gates and c are float32. Every sum has one order, whatever the batch and the number of blocks, so the result of a
// window depends on nothing else.
//
// How it works
// ------------
// Every block is on a multiprocessor of its own and stays there for all positions; the launch is cooperative. A block
// owns some units of one direction, four of them a tile: 16 rows of R, row 4u + g for gate g of unit u. R is cut into
// matrices of 16 × 16 in the layout of the tensor core's first operand, so a lane loads its 16 bytes at once. The 8 warps
// of a block share the columns of R: warp w multiplies `rows` neighbouring slices of 16 columns with all TILES tiles of a
// pass, the next pass takes the next tiles, and the warps' sums are added in shared memory. Of the rows of matrices that
// a warp needs, in the order of their use, the first HELD stay in registers, the next `kept` in shared memory, and what
// does not fit is read again for every position.
//
// h goes through global memory in the layout of the tensor core's second operand, in two copies that take turns. A
// block writes its units, counts itself in `arrivals`, and reads the next h when all blocks of its direction have
// counted. A block that is one position ahead writes the copy that the others no longer read: they have counted.

#include "tensor_cores.cuh"

#ifndef SHAPE
#define SHAPE 62  // ten times TILES, and PANELS: of 8 windows; runtime/cuda/lstm.py chooses them
#endif

constexpr int TILES = SHAPE / 10;   // of a pass
constexpr int PANELS = SHAPE % 10;  // columns of 8 windows
constexpr int WINDOWS = 8 * PANELS;
constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr int AHEAD = 2;                       // slices whose h is loaded while earlier ones are multiplied
constexpr int HELD = 24 / TILES / AHEAD * AHEAD;  // rows of TILES matrices: 96 registers at most
constexpr int ROUND = (TILES + 1) / 2;         // tiles whose sums are added at a time
constexpr int ROUNDS = (TILES + ROUND - 1) / ROUND;
constexpr int PANEL = 4 * 32 + 16;  // floats of a panel's sums; the 16 keep its reads free of bank conflicts
constexpr int PARTIAL_BYTES = 4 * WARPS * ROUND * PANELS * PANEL;

static_assert(ROUND * 4 * WINDOWS <= THREADS, "a thread for each unit and window of a round");

/// A lane's part of 16 columns of h, for all windows.
struct alignas(8 * PANELS) Hidden {
    unsigned at[2 * PANELS];
};

/// Sets `matrices` to what fetch(i, tile) gives. A lambda with `auto` in the kernel is no way: NVRTC 13.0 refuses it.
template <typename Fetch>
__device__ __forceinline__ void fetch_all(Quad (&matrices)[AHEAD][TILES], const Fetch& fetch) {
#pragma unroll
    for (int i = 0; i < AHEAD; ++i) {
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) matrices[i][tile] = fetch(i, tile);
    }
}

__device__ __forceinline__ float squash(float value) { return 1 / (1 + expf(-value)); }

/// gates [batch·length, 2, width] of {i, o, f, c}; weights [2, width / 4, slices, 32] (and `tiles` more tiles);
/// hidden [2 copies, 2, slices, 32, PANELS, 4] float16, zero where no unit is; out [batch·length, pitch] float16 gets h of
/// direction d from column d·width on; arrivals [2] are 0 before and after.
///
/// slices: of 16 columns, filled up with zeros to a multiple of 16. tiles: of a block, a multiple of TILES. kept: even.
/// Blocks of THREADS, ⌈width / 4 / tiles⌉ for each direction from `first` on, all running at once, with PARTIAL_BYTES,
/// 16·tiles·WINDOWS and 4096·TILES·kept bytes.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
recur(const Four* __restrict__ gates, const Quad* __restrict__ weights, half_bits* hidden, half_bits* __restrict__ out,
      int* arrivals, int first, int width, int slices, int length, int batch, int tiles, int kept, int pitch) {
#ifndef EMULATED_GPU
    extern __shared__ __align__(1024) unsigned char shared[];
#endif
    float* partial = reinterpret_cast<float*>(shared);
    float* cells = reinterpret_cast<float*>(shared + PARTIAL_BYTES);  // [4·tiles, WINDOWS]
    Quad* resident = reinterpret_cast<Quad*>(cells + 4 * tiles * WINDOWS);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int all_tiles = width / 4, blocks = (all_tiles + tiles - 1) / tiles;
    const int direction = first + static_cast<int>(blockIdx.x) / blocks;
    const int first_tile = static_cast<int>(blockIdx.x) % blocks * tiles;
    const int rows = slices / WARPS, passes = tiles / TILES;
    const size_t tile_size = static_cast<size_t>(slices) * 32;
    weights += (static_cast<size_t>(direction) * all_tiles + first_tile) * tile_size + warp * rows * 32 + lane;
    int* arrived = arrivals + direction;

    // This lane's matrix of tile i of row `row` of all passes. Behind the last tile of a direction there are others.
    const auto load_matrix = [&](int row, int i) {
        return load_once(weights + (row / rows * TILES + i) * tile_size + row % rows * 32);
    };
    Quad held[HELD][TILES];
#pragma unroll
    for (int row = 0; row < HELD; ++row) {
#pragma unroll
        for (int i = 0; i < TILES; ++i) held[row][i] = load_matrix(min(row, rows - 1), i);
    }
    const int from_registers = min(HELD, rows);
    Quad* mine = resident + (warp * TILES * kept * 32 + lane);
    for (int row = 0; row < kept; ++row) {
        for (int i = 0; i < TILES; ++i) mine[(row * TILES + i) * 32] = load_matrix(from_registers + row, i);
    }

    // The unit and the window whose gates this thread adds up. Neighbouring lanes take units 0 and 2, or 1 and 3.
    const int window = threadIdx.x % WINDOWS, order = threadIdx.x / WINDOWS % 4;
    const int unit_of_tile = order % 2 * 2 + order / 2, tile_of_round = threadIdx.x / (4 * WINDOWS);
    const int from = (tile_of_round * PANELS + window / 8) * PANEL + unit_of_tile % 2 * 64 + window % 8 / 2 * 4 +
                     unit_of_tile / 2 * 2 + window % 2;

    for (int step = 0; step < length; ++step) {
        const int position = direction == 0 ? step : length - 1 - step;
        const size_t copy_size = static_cast<size_t>(2) * slices * 32 * PANELS * 4;
        const size_t side = direction * copy_size / 2;
        const Hidden* before = reinterpret_cast<const Hidden*>(hidden + (step + 1) % 2 * copy_size + side);
        half_bits* after = hidden + step % 2 * copy_size + side;
        before += warp * rows * 32 + lane;

        for (int pass = 0; pass < passes; ++pass) {
            const auto find_unit = [&](int round) {  // −1 if this thread has none in this round
                const int tile = round * ROUND + tile_of_round;
                const int unit = 4 * (first_tile + pass * TILES + tile) + unit_of_tile;
                return tile_of_round < ROUND && tile < TILES && unit < width && window < batch ? unit : -1;
            };
            Four sum[ROUNDS] = {};
            const size_t row_of_gates = (static_cast<size_t>(window) * length + position) * 2 + direction;
#pragma unroll
            for (int round = 0; round < ROUNDS; ++round) {
                const int unit = find_unit(round);
                if (unit >= 0) sum[round] = gates[row_of_gates * width + unit];
            }
            if (step > 0) {
                if (pass == 0) {
                    if (threadIdx.x == 0) await_count(arrived, step * blocks);
                    __syncthreads();
                }
                float sums[TILES][PANELS][4] = {};
                Hidden coming[AHEAD];
#pragma unroll
                for (int i = 0; i < AHEAD; ++i) load_exchanged(coming[i].at, before + i * 32);
                Quad matrices[AHEAD][TILES];
                const auto multiply_rows = [&](int row) {  // AHEAD of them, which are in `matrices`
                    Hidden now[AHEAD];
#pragma unroll
                    for (int i = 0; i < AHEAD; ++i) now[i] = coming[i];
                    if (row + AHEAD < rows) {
#pragma unroll
                        for (int i = 0; i < AHEAD; ++i) load_exchanged(coming[i].at, before + (row + AHEAD + i) * 32);
                    }
#pragma unroll
                    for (int i = 0; i < AHEAD; ++i) {
#pragma unroll
                        for (int tile = 0; tile < TILES; ++tile) {
#pragma unroll
                            for (int panel = 0; panel < PANELS; ++panel) {
                                const unsigned* column = now[i].at + 2 * panel;
                                multiply(sums[tile][panel], matrices[i][tile].at, column[0], column[1]);
                            }
                        }
                    }
                };
                int row = 0;
                if (pass == 0) {
#pragma unroll
                    for (int at = 0; at < HELD; at += AHEAD) {
                        if (at >= rows) continue;
                        fetch_all(matrices, [&](int i, int tile) { return held[at + i][tile]; });
                        multiply_rows(at);
                    }
                    row = from_registers;
                }
                const int before_pass = pass * rows;
                const Quad* inside = mine + (before_pass - from_registers) * TILES * 32;
                for (const int end = min(rows, from_registers + kept - before_pass); row < end; row += AHEAD) {
                    fetch_all(matrices, [&](int i, int tile) { return inside[((row + i) * TILES + tile) * 32]; });
                    multiply_rows(row);
                }
                const Quad* outside = weights + pass * TILES * tile_size;
                for (; row < rows; row += AHEAD) {
                    fetch_all(matrices, [&](int i, int tile) {
                        return load_once(outside + tile * tile_size + (row + i) * 32);
                    });
                    multiply_rows(row);
                }
#pragma unroll
                for (int round = 0; round < ROUNDS; ++round) {
                    if (pass + round > 0) __syncthreads();  // the sums of the round before have been read
#pragma unroll
                    for (int i = 0; i < ROUND; ++i) {
                        if (round * ROUND + i >= TILES) continue;
#pragma unroll
                        for (int panel = 0; panel < PANELS; ++panel) {
                            const float(&four)[4] = sums[round * ROUND + i][panel];
                            float* to = partial + ((warp * ROUND + i) * PANELS + panel) * PANEL + lane * 4;
                            *reinterpret_cast<Four*>(to) = {four[0], four[1], four[2], four[3]};
                        }
                    }
                    __syncthreads();
                    if (find_unit(round) >= 0) {
                        for (int other = 0; other < WARPS; ++other) {
                            const float* given = partial + other * ROUND * PANELS * PANEL + from;
                            for (int gate = 0; gate < 4; ++gate) sum[round].at[gate] += given[gate * 16];
                        }
                    }
                }
            }
#pragma unroll
            for (int round = 0; round < ROUNDS; ++round) {
                const int unit = find_unit(round);
                if (unit < 0) continue;
                const float(&gate)[4] = sum[round].at;
                float* cell = cells + (unit - 4 * first_tile) * WINDOWS + window;
                const float kept_cell = step > 0 ? squash(gate[2]) * *cell : 0.0f;
                const float next = kept_cell + squash(gate[0]) * tanhf(gate[3]);
                *cell = next;
                const half_bits value = round_to_half(squash(gate[1]) * tanhf(next));
                const int lane_of_unit = window % 8 * 4 + unit % 8 / 2;
                after[((unit / 16 * 32 + lane_of_unit) * PANELS + window / 8) * 4 + unit % 16 / 8 * 2 + unit % 2] = value;
                out[(static_cast<size_t>(window) * length + position) * pitch + direction * width + unit] = value;
            }
        }
        __syncthreads();  // all threads have written h
        if (threadIdx.x == 0) {
            __threadfence();
            const int count = atomicAdd(arrived, 1) + 1;
            if (count == length * blocks) *arrived = 0;  // the last block, after the last position: none waits any more
        }
    }
}
