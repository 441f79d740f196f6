// kernels/solver.cu on the CPU: its threads run one after the other. The kernel's barrier is before what its last thread
// alone does, so in this order it has nothing to wait for.
//
//     g++ -O2 -std=c++17 -shared -fPIC -Wl,-Bsymbolic -DKERNELS='"…/solver.cu"' emulated_solver.cpp -o emulated_solver.so
#include <cmath>

#define __global__
#define __device__

namespace {

struct Index {
    unsigned x, y, z;
};

Index blockIdx, threadIdx, gridDim;

void __syncthreads() {}

void __threadfence() {}

unsigned atomicAdd(unsigned* address, unsigned value) {
    const unsigned old = *address;
    *address += value;
    return old;
}

unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned __int128>(a) * b >> 64;
}

}  // namespace

#include KERNELS

extern "C" {

int block_threads() { return THREADS; }

int shared_bytes() { return 0; }

/// The kernel `advance` with columns x rows blocks.
void run_advance(int columns, int rows, const Four* v, Four* latent, long long* steps, Four* xs, Four* vs,
                 const Row* table, const Source* sources, Counter* counter, word domain, int batch) {
    gridDim = {static_cast<unsigned>(columns), static_cast<unsigned>(rows), 1};
    for (blockIdx.y = 0; blockIdx.y < static_cast<unsigned>(rows); ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < static_cast<unsigned>(columns); ++blockIdx.x)
            for (threadIdx.x = 0; threadIdx.x < THREADS; ++threadIdx.x)
                advance(v, latent, steps, xs, vs, table, sources, counter, domain, batch);
}
}
