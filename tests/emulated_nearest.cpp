// kernels/nearest.cu on the CPU.
//
//     g++ -O2 -std=c++17 -shared -fPIC -U_FORTIFY_SOURCE -DSTAGES=4 -DKERNELS='"…/nearest.cu"' emulated_nearest.cpp -o emulated.so
#include "emulated_gpu.h"

#define LOWEST (-std::numeric_limits<float>::infinity())
#define FURTHEST std::numeric_limits<double>::infinity()

#include KERNELS

extern "C" {

int block_threads() { return THREADS; }

int shared_bytes() { return SHARED_BYTES; }

void run_prepare(int blocks, int, const float* queries, const float* mean, half_bits* halves, float* ratios,
                 float* lengths, int count, int rows, int width, int padded, int exponent) {
    run_grid(blocks, 0, [=] { prepare(queries, mean, halves, ratios, lengths, count, rows, width, padded, exponent); });
}

void run_screen(int blocks, int, const half_bits* queries, const float* ratios, const half_bits* centroids,
                const float* negative_halves, float* best, int query_tiles, int tiles, int slices, int groups) {
    run_grid(blocks, SHARED_BYTES, [=] {
        screen(queries, ratios, centroids, negative_halves, best, query_tiles, tiles, slices, groups);
    });
}

void run_decide(int blocks, int, const float* queries, const float* codebook, const float* best, const float* lengths,
                const int* indices, const float* reaches, const float* residuals, int* nearest, int width, int groups,
                double slope) {
    run_grid(blocks, 0, [=] {
        decide(queries, codebook, best, lengths, indices, reaches, residuals, nearest, width, groups, slope);
    });
}
}
