// Exact nearest centroid: argmin over j of ‖q − c_j‖², the lowest index of equals, for a GPU from sm_80 on.
//
// Three kernels run in order. runtime/cuda/nearest.py launches them; runtime/cuda/screening.py prepares the codebook.
//   prepare   queries [n, D] float32 → scaled float16 about the codebook's mean, and how far screening may be off
//   screen    one pass of tensor-core products over all centroids; only the best score of each group of 16 is kept
//   decide    float64 distances for the groups that may hold the nearest centroid, and for nothing else
// If every group may hold it, because all centroids are equal for example, `decide` compares every centroid. That is
// slower and never wrong.
//
// Why the answer is exact
// -----------------------
// Let m be the codebook's mean in float32, q' = fl(q − m), c' = fl(c − m), u = 2⁻²⁴. Powers of two scale both:
// x_j = 2ᵇ·c'_j with one b for the codebook, y = 2ᵃ·q' with a chosen for each query, so that the largest component is
// in [2¹⁴, 2¹⁵) (a and b are at most 30, so smaller vectors stay below). x̂_j and ŷ are their roundings to float16, zero
// where that would be subnormal.
// In the units of x, with r = 2^(b − a), ‖x − r·y‖² / 2 = ‖r·y‖² / 2 − g, so the nearest centroid has the largest
//     g_j = r·(y·x_j) − ‖x_j‖² / 2,    screened as    t_j = fl(r·acc_j − h_j),    h_j = fl(‖x_j‖² / 2),
// where acc_j is what the tensor cores return for ŷ·x̂_j. The roundings to float16 are not modelled, they are measured:
// with P = r·‖y‖, π = r·‖y − ŷ‖ and, for the 256 centroids of a tile, X = max ‖x_j‖, Δ = max ‖x_j − x̂_j‖, all taken in
// float64 from the values themselves,
//  1. r·|ŷ·x̂_j − y·x_j| = r·|ŷ·(x̂_j − x_j) + (ŷ − y)·x_j| ≤ (P + π)·Δ + π·X       (Cauchy–Schwarz, ‖ŷ‖ ≤ ‖y‖ + ‖y − ŷ‖);
//  2. r·|acc_j − ŷ·x̂_j| ≤ A·(P + π)·(X + Δ), A = 4u·D', D' the width filled up to 64, for accumulation as below;
//  3. u·(P + X)² for rounding t and h: u·(P·X + X²/2) and u·X²/2, as r·acc is exact and the multiply-add is fused;
//  4. u·(P + X)² for centring, which changes q − c by a vector no longer than u·(‖q'‖ + ‖c'‖);
//  5. a third u·(P + X)², of which far less is used, for what is smaller: products of these errors, the float64 sums
//     that decide, off by (D + 2)·2⁻⁵³·(P + X)², and the rounding of P, π, X and Δ themselves. In 3 to 5, P + X becomes
//     P + π + X + Δ, as acc is about ŷ and x̂; and 2⁻¹⁰⁰ is added for underflow of h.
// With E = (P + π)·Δ + π·X + A·(P + π)·(X + Δ) + 3u·(P + π + X + Δ)² + 2⁻¹⁰⁰ of its tile, the centroid that float64 finds
// nearest has t + E ≥ t_k − E_k for every k; so has the best of its group. The codebook is sorted by ‖x‖ before it is
// cut into tiles: one very long vector widens the bound of its own tile only.
// No step overflows: norms are below 10¹⁸ (others are refused), |acc| < 2³⁰·D, and r is in [2⁻⁷⁶, 2⁷⁶].
//
// Accumulation is not specified by NVIDIA. Measured on V100 to B200 (Fasi et al., PeerJ CS 7:e330, 2021; Khattak and
// Mikaitis, arXiv:2512.07004): products of float16 are exact, 4, 8 or 16 of them and the accumulator are aligned to the
// largest of these addends, cut to no fewer than 24 bits, added without further error, and the sum is cut to float32.
// With s products at a time, S = Σ|ŷ_k·x̂_k| ≤ ‖ŷ‖·‖x̂‖ bounds every addend and partial sum, so one addition is off by
// at most (s + 2)·2⁻²³·S, and 16 products by (16 / s)·(s + 2)·2⁻²³·S ≤ 24·2⁻²³·S (s = 4). Over D' / 16 of them that is
// 3u·D'·S; A has a third more, which also covers the growth of partial sums by their own error.
//
// How it works
// ------------
// `screen` computes tiles of 128 queries × 256 centroids: one block on each multiprocessor, tile after tile. The query
// tiles of one centroid tile run side by side, so that each centroid is read from memory about once. cp.async copies
// slices of 64 columns of both operands into a ring of STAGES slots. A row of a slice is 128 bytes, eight chunks of 16;
// chunk c of row i lies at c ^ (i mod 8), so that neither copies nor ldmatrix have bank conflicts. 8 warps, 2 × 4, hold
// 64 × 64 sums each. In each row, thread `lane` of a warp holds columns 8f + 2·(lane mod 4) + {0, 1}, f = 0 … 7,
// of the warp's 64. These 16 are a group, and their best score never leaves the registers of one thread:
//     group 16·tile + 4·w + l holds rows 256·tile + 64·w + 8f + 2l + {0, 1} of the sorted codebook.
// The scores take n × N / 16 floats of memory, 4 MB for 512 queries and 32768 centroids.

#include "tensor_cores.cuh"

#ifndef STAGES
#define STAGES 2  // slots, as many as the architecture's shared memory holds; runtime/cuda/nearest.py chooses them
#endif
#ifndef LISTED
#define LISTED 2048  // groups that `decide` looks through at a time; the tests make it small
#endif

constexpr int TILE_QUERIES = 128;
constexpr int TILE_CENTROIDS = 256;
constexpr int SLICE = 64;  // columns; 128 bytes of float16
constexpr int PARTS = SLICE / 16;
constexpr int GROUP = 16;  // centroids that share a score
constexpr int TILE_GROUPS = TILE_CENTROIDS / GROUP;
constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr int ROW_BYTES = 2 * SLICE;
constexpr int CENTROIDS_AT = TILE_QUERIES * ROW_BYTES;                    // in a slot, after the queries
constexpr int SLOT_BYTES = CENTROIDS_AT + TILE_CENTROIDS * ROW_BYTES;     // 48 KiB
constexpr int FACTOR_BYTES = 4 * (TILE_CENTROIDS + TILE_QUERIES);         // −h of a tile, then r
constexpr int FACTORS_AT = STAGES * SLOT_BYTES;                           // after the slots
constexpr int SHARED_BYTES = FACTORS_AT + STAGES * FACTOR_BYTES;
constexpr int LARGEST_EXPONENT = 30;
constexpr double NORM_LIMIT = 1e18;
constexpr double UNIT_ROUNDOFF = 1.0 / 16777216;        // u
constexpr double TINY = 7.888609052210118e-31;          // 2⁻¹⁰⁰
constexpr int LAST = 0x7fffffff;
constexpr unsigned ALL = 0xffffffffu;

#ifndef EMULATED_GPU
#define LOWEST __int_as_float(0xff800000)  // −∞
#define FURTHEST __longlong_as_double(0x7ff0000000000000LL)
#endif

__device__ __forceinline__ double add_lanes(double value) {
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(ALL, value, step);
    return value;
}

__device__ __forceinline__ float largest_of_lanes(float value) {
    for (int step = 16; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(ALL, value, step));
    return value;
}

/// The nearest float16, but zero for a subnormal one: how tensor cores align those is not known.
__device__ __forceinline__ half_bits round_to_normal_half(float value) {
    const half_bits bits = round_to_half(value);
    return (bits & 0x7fff) < 0x0400 ? 0 : bits;
}

/// One warp per row. queries [count, width]; mean [width]; halves [rows, padded] gets ŷ, zeros in rows from `count` on
/// and columns from `width` on; ratios [rows] r; lengths [rows, 2] P + π and π, rounded up, or −1 and −1 for a query
/// that is not finite or too long. codebook_exponent b. Blocks of THREADS, WARPS rows each.
extern "C" __global__ void __launch_bounds__(THREADS)
prepare(const float* __restrict__ queries, const float* __restrict__ mean, half_bits* __restrict__ halves,
        float* __restrict__ ratios, float* __restrict__ lengths, int count, int rows, int width, int padded,
        int codebook_exponent) {
    const int lane = threadIdx.x % 32;
    const int row = blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= rows) return;  // the whole warp
    const float* query = queries + static_cast<size_t>(row) * width;
    half_bits* half = halves + static_cast<size_t>(row) * padded;
    const bool given = row < count;

    float largest = 0;
    double square = 0;  // unscaled, to find values that are not finite: fmaxf ignores NaN
    if (given) {
#pragma unroll 8
        for (int column = lane; column < width; column += 32) {
            const float centred = query[column] - mean[column];
            largest = fmaxf(largest, fabsf(centred));
            square += static_cast<double>(centred) * centred;
        }
    }
    largest = largest_of_lanes(largest);
    const bool valid = given && sqrt(add_lanes(square)) < NORM_LIMIT;
    const int exponent = valid ? min(14 - (__float_as_int(largest) / (1 << 23) - 127), LARGEST_EXPONENT) : 0;
    const float scale = __int_as_float((exponent + 127) << 23);

    double length = 0, rounding = 0;
#pragma unroll 8
    for (int column = lane; column < padded; column += 32) {
        half_bits bits = 0;
        if (valid && column < width) {
            const float centred = query[column] - mean[column];
            bits = round_to_normal_half(centred * scale);
            const double exact = static_cast<double>(centred) * scale;
            const double lost = exact - widen_half(bits);
            length += exact * exact;
            rounding += lost * lost;
        }
        half[column] = bits;
    }
    const double ratio = __int_as_float((codebook_exponent - exponent + 127) << 23);
    length = ratio * sqrt(add_lanes(length));
    rounding = ratio * sqrt(add_lanes(rounding));
    if (lane == 0) {
        ratios[row] = static_cast<float>(ratio);
        lengths[2 * row] = valid ? __double2float_ru(length + rounding) : -1;
        lengths[2 * row + 1] = valid ? __double2float_ru(rounding) : -1;
    }
}

/// queries [128·query_tiles, 64·slices] float16, centroids [256·…, 64·slices] float16, ratios r, negative_halves −h (−∞
/// for centroids that only fill up the last tile); best [128·query_tiles, groups] gets the largest t of each group.
/// `tiles` in all; gridDim.x ≤ tiles. Blocks of THREADS with SHARED_BYTES.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
screen(const half_bits* __restrict__ queries, const float* __restrict__ ratios,
       const half_bits* __restrict__ centroids, const float* __restrict__ negative_halves, float* __restrict__ best,
       int query_tiles, int tiles, int slices, int groups) {
#ifndef EMULATED_GPU
    extern __shared__ __align__(1024) unsigned char shared[];
#endif
    const unsigned ring = find_shared(shared);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int warp_row = 64 * (warp / 4), warp_column = 64 * (warp % 4);
    const size_t width = static_cast<size_t>(SLICE) * slices;
    const int steps = (tiles - 1 - static_cast<int>(blockIdx.x)) / static_cast<int>(gridDim.x) * slices + slices;

    // Copies: this thread's chunk of every 32nd of the 384 rows of a slot. What is copied beyond the last step is not used.
    const int copy_row = threadIdx.x / 8, chunk = threadIdx.x % 8;
    const unsigned copy_to = ring + copy_row * ROW_BYTES + ((chunk ^ copy_row % 8) << 4);
    int coming_tile = blockIdx.x, coming_slice = 0;
    const half_bits *coming_queries, *coming_centroids;
    const auto find_tile = [&] {
        const size_t at = copy_row * width + chunk * 8;
        coming_queries = queries + coming_tile % query_tiles * TILE_QUERIES * width + at;
        coming_centroids = centroids + coming_tile / query_tiles * TILE_CENTROIDS * width + at;
    };
    const auto copy_third = [&](int step, int third) {  // 0: the queries; 1, 2: halves of the centroids
        const half_bits* from = third == 0 ? coming_queries : coming_centroids + (third - 1) * TILE_QUERIES * width;
        const unsigned to = copy_to + step % STAGES * SLOT_BYTES + third * TILE_QUERIES * ROW_BYTES;
#pragma unroll
        for (int i = 0; i < TILE_QUERIES / 32; ++i) copy_chunk(to + i * 32 * ROW_BYTES, from + i * 32 * width);
    };
    const auto close_slice = [&](int step) {
        coming_queries += SLICE;
        coming_centroids += SLICE;
        if (++coming_slice == slices) {  // the factors come with their tile's last slice
            const unsigned to = ring + FACTORS_AT + step % STAGES * FACTOR_BYTES + threadIdx.x * 16;
            const float* offsets = negative_halves + coming_tile / query_tiles * TILE_CENTROIDS;
            const float* scales = ratios + coming_tile % query_tiles * TILE_QUERIES - TILE_CENTROIDS;
            if (threadIdx.x < FACTOR_BYTES / 16) {
                copy_chunk(to, (threadIdx.x < TILE_CENTROIDS / 4 ? offsets : scales) + 4 * threadIdx.x);
            }
            coming_slice = 0;
            coming_tile += gridDim.x;
            if (coming_tile >= tiles) coming_tile = blockIdx.x;
            find_tile();
        }
        close_copies();
    };

    // Fragments: `a` of 16 rows × 16 columns as (rows 0–7, 8–15) × (columns 0–7, 8–15), rows first; `b` of 16 centroids
    // as (0–7, 8–15), within each (columns 0–7, 8–15). Rows are a multiple of 8 plus lane % 8: so is the swizzle.
    const unsigned a_row = (warp_row + lane % 16) * ROW_BYTES;
    const unsigned b_row = CENTROIDS_AT + (warp_column + lane % 8 + lane / 16 * 8) * ROW_BYTES;
    const unsigned a_chunk = (lane / 16 ^ lane % 8) << 4, b_chunk = (lane / 8 % 2 ^ lane % 8) << 4;

    unsigned a[2][4][4], b[2][4][4];
    const auto load_fragments = [&](int step, int part) {
        const unsigned slot = ring + step % STAGES * SLOT_BYTES, columns = part << 5;  // 16 of them: two chunks
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            load_matrices(a[part % 2][i], slot + a_row + i * 16 * ROW_BYTES + (a_chunk ^ columns));
            load_matrices(b[part % 2][i], slot + b_row + i * 16 * ROW_BYTES + (b_chunk ^ columns));
        }
    };

    float sums[4][8][4] = {};
    find_tile();
    for (int step = 0; step < STAGES - 1; ++step) {
        for (int third = 0; third < 3; ++third) copy_third(step, third);
        close_slice(step);
    }
    await_copies<STAGES - 2>();  // this thread's copies of step 0
    __syncthreads();             // all threads' copies
    load_fragments(0, 0);
    for (int step = 0, slice = 0, tile = blockIdx.x; step < steps; ++step) {
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
            if (part + 1 < PARTS) {
                load_fragments(step, part + 1);
                copy_third(step + STAGES - 1, part);  // into the slot of the step before, which is free
            } else {                                  // this slot is in registers
                close_slice(step + STAGES - 1);
                await_copies<STAGES - 2>();  // this thread's copies of the next step
                __syncthreads();             // all threads' copies; and no thread still reads this slot
                if (step + 1 < steps) load_fragments(step + 1, 0);
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

        if (++slice == slices) {
            slice = 0;
            const int at = FACTORS_AT + step % STAGES * FACTOR_BYTES;
            const float* factors = reinterpret_cast<const float*>(shared + at);
            const int first = 2 * (lane % 4);
            float negative[8][2];
#pragma unroll
            for (int f = 0; f < 8; ++f) {
                negative[f][0] = factors[warp_column + 8 * f + first];
                negative[f][1] = factors[warp_column + 8 * f + first + 1];
            }
            const int group = tile / query_tiles * TILE_GROUPS + warp_column / GROUP + lane % 4;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
#pragma unroll
                for (int lower = 0; lower < 2; ++lower) {
                    const int row = warp_row + 16 * i + 8 * lower + lane / 4;
                    const float ratio = factors[TILE_CENTROIDS + row];
                    float highest = LOWEST;
#pragma unroll
                    for (int f = 0; f < 8; ++f) {
                        highest = fmaxf(highest, fmaf(ratio, sums[i][f][2 * lower], negative[f][0]));
                        highest = fmaxf(highest, fmaf(ratio, sums[i][f][2 * lower + 1], negative[f][1]));
                        sums[i][f][2 * lower] = sums[i][f][2 * lower + 1] = 0;
                    }
                    const size_t query = static_cast<size_t>(tile % query_tiles) * TILE_QUERIES + row;
                    best[query * groups + group] = highest;
                }
            }
            tile += gridDim.x;
            __syncthreads();  // all threads have read the factors
        }
    }
    await_copies<0>();
}

/// E, from P + π, π, X and Δ.
__device__ __forceinline__ double bound_error(double longest, double rounding, double reach, double residual,
                                              double slope) {
    const double sum = longest + reach + residual;
    return longest * residual + rounding * reach + slope * longest * (reach + residual) +
           3 * UNIT_ROUNDOFF * sum * sum + TINY;
}

/// One block per query. queries [n, width] and codebook [N, width] float32, as given; best [n, groups]; lengths [n, 2];
/// order [16·groups] the index in the codebook of each row that was screened, −1 for those that fill up the last tile;
/// reaches and residuals [groups / 16] X and Δ of the tiles, rounded up; slope A; nearest [n] gets the index, −1 for a
/// query that was refused. Blocks of THREADS.
extern "C" __global__ void __launch_bounds__(THREADS)
decide(const float* __restrict__ queries, const float* __restrict__ codebook, const float* __restrict__ best,
       const float* __restrict__ lengths, const int* __restrict__ order, const float* __restrict__ reaches,
       const float* __restrict__ residuals, int* __restrict__ nearest, int width, int groups, double slope) {
    __shared__ int listed[LISTED];
    __shared__ int length;
    __shared__ double highest_of_warp[WARPS];
    __shared__ double distance_of_warp[WARPS];
    __shared__ int index_of_warp[WARPS];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const float* query = queries + static_cast<size_t>(blockIdx.x) * width;
    const float* scores = best + static_cast<size_t>(blockIdx.x) * groups;
    const double longest = lengths[2 * blockIdx.x], rounding = lengths[2 * blockIdx.x + 1];
    if (longest < 0) {  // the whole block
        if (threadIdx.x == 0) nearest[blockIdx.x] = -1;
        return;
    }
    const auto bound_group = [&](int group) {
        const int tile = group / TILE_GROUPS;
        return bound_error(longest, rounding, reaches[tile], residuals[tile], slope);
    };

    double highest = -FURTHEST;  // largest t − E: the nearest centroid has at least this t + E
#pragma unroll 4
    for (int group = threadIdx.x; group < groups; group += THREADS) {
        highest = fmax(highest, scores[group] - bound_group(group));
    }
    for (int step = 16; step > 0; step /= 2) highest = fmax(highest, __shfl_xor_sync(ALL, highest, step));
    if (lane == 0) highest_of_warp[warp] = highest;
    __syncthreads();
    for (int i = 0; i < WARPS; ++i) highest = fmax(highest, highest_of_warp[i]);

    double distance = FURTHEST;
    int index = LAST;
    for (int start = 0; start < groups; start += LISTED) {
        if (threadIdx.x == 0) length = 0;
        __syncthreads();
        const int end = min(start + LISTED, groups);
        for (int group = start + threadIdx.x; group < end; group += THREADS) {
            if (scores[group] + bound_group(group) >= highest) listed[atomicAdd(&length, 1)] = group;
        }
        __syncthreads();
        for (int i = warp; i < length * GROUP; i += WARPS) {
            const int group = listed[i / GROUP], member = i % GROUP;
            const int centroid = order[group / 4 * 64 + member / 2 * 8 + group % 4 * 2 + member % 2];
            if (centroid < 0) continue;
            const float* vector = codebook + static_cast<size_t>(centroid) * width;
            double sum = 0;
#pragma unroll 8
            for (int column = lane; column < width; column += 32) {
                const double difference = static_cast<double>(vector[column]) - query[column];
                sum = fma(difference, difference, sum);
            }
            sum = add_lanes(sum);
            if (sum < distance || (sum == distance && centroid < index)) {
                distance = sum;
                index = centroid;
            }
        }
        __syncthreads();
    }
    if (lane == 0) {
        distance_of_warp[warp] = distance;
        index_of_warp[warp] = index;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 1; i < WARPS; ++i) {
            const bool nearer = distance_of_warp[i] < distance;
            if (nearer || (distance_of_warp[i] == distance && index_of_warp[i] < index)) {
                distance = distance_of_warp[i];
                index = index_of_warp[i];
            }
        }
        nearest[blockIdx.x] = index;
    }
}
