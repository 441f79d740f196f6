// kernels/product.cu on the CPU.
//
//     g++ -O2 -std=c++17 -shared -fPIC -U_FORTIFY_SOURCE -DSTAGES=4 -DKERNELS='"…/product.cu"' emulated_product.cpp -o emulated.so
#include "emulated_gpu.h"

#include KERNELS

extern "C" {

int block_threads() { return THREADS; }

int shared_bytes() { return SHARED_BYTES; }

void run_halve(int blocks, int, const Four* from, Halves* to, int rows, int quarters, int pitch) {
    run_grid(blocks, 0, [=] { halve(from, to, rows, quarters, pitch); });
}

void run_product(int blocks, int, const half_bits* left, const half_bits* right, const float* bias, float* out, int rows,
                 int columns, int slices) {
    run_grid(blocks, SHARED_BYTES, [=] { product(left, right, bias, out, rows, columns, slices); });
}
}
