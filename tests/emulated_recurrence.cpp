// kernels/recurrence.cu on the CPU: all blocks run at once, and wait for each other at every position.
//
//     g++ -O2 -std=c++17 -shared -fPIC -U_FORTIFY_SOURCE -DSHAPE=62 -DKERNELS='"…/recurrence.cu"' emulated_recurrence.cpp -o emulated.so
#include "emulated_gpu.h"

#include KERNELS

extern "C" {

int block_threads() { return THREADS; }

int shared_bytes() { return MOST_SHARED; }

void run_recur(int blocks, int, const Four* gates, const Quad* weights, half_bits* hidden, half_bits* out, int* arrivals,
               int first, int width, int slices, int length, int batch, int tiles, int kept, int pitch) {
    const auto kernel = [=] {
        recur(gates, weights, hidden, out, arrivals, first, width, slices, length, batch, tiles, kept, pitch);
    };
    run_grid(blocks, PARTIAL_BYTES + 16 * tiles * WINDOWS + 4096 * TILES * kept, kernel, true);
}
}
