// kernels/join.cu on the CPU: its threads run one after the other.
//
//     g++ -O2 -std=c++17 -shared -fPIC -Wl,-Bsymbolic -DKERNELS='"…/join.cu"' emulated_join.cpp -o emulated_join.so
#define __global__

namespace {

struct Index {
    unsigned x, y, z;
};

Index blockIdx, threadIdx;

}  // namespace

#include KERNELS

extern "C" {

int block_threads() { return THREADS; }

int shared_bytes() { return 0; }

/// The kernel `join` with columns blocks.
void run_join(int columns, int, const Four* first, const int* rows, const Four* second, const int* others, Four* out,
              int step, int quarters) {
    for (blockIdx.x = 0; blockIdx.x < static_cast<unsigned>(columns); ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < THREADS; ++threadIdx.x) join(first, rows, second, others, out, step, quarters);
}
}
