// PTX instructions that have no function in CUDA C++. tests/emulated_gpu.h emulates them on the CPU.
#pragma once

struct alignas(16) Four {
    float at[4];
};

/// 16 bytes: eight float16, or a lane's part of a 16 × 16 matrix of them.
struct alignas(16) Quad {
    unsigned at[4];
};

#ifndef EMULATED_GPU
typedef unsigned short half_bits;

__device__ __forceinline__ half_bits round_to_half(float value) {
    half_bits bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

__device__ __forceinline__ float widen_half(half_bits bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ __forceinline__ unsigned find_shared(const void* pointer) {
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

/// Begin to copy 16 bytes; both addresses are multiples of 16.
__device__ __forceinline__ void copy_chunk(unsigned to_shared, const void* from_global) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to_shared), "l"(from_global) : "memory");
}

__device__ __forceinline__ void close_copies() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/// Wait until at most `PENDING` of this thread's closed sets of copies are under way.
template <int PENDING>
__device__ __forceinline__ void await_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

/// Four 8 × 8 matrices of float16, whose rows begin at `row_in_shared` of lanes 0–7, 8–15, 16–23, 24–31.
__device__ __forceinline__ void load_matrices(unsigned (&fragment)[4], unsigned row_in_shared) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(row_in_shared)
                 : "memory");
}

/// sums [16, 8] += a [16, 16] · b [16, 8], float16 with float32 sums.
__device__ __forceinline__ void multiply(float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// 16 bytes that no kernel under way writes, past the L1 cache: they are read once.
__device__ __forceinline__ Quad load_once(const Quad* from) {
    Quad value;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(value.at[0]), "=r"(value.at[1]), "=r"(value.at[2]), "=r"(value.at[3])
        : "l"(from));
    return value;
}

/// A number that another block has written, past the L1 cache, which may hold an older one.
__device__ __forceinline__ void load_exchanged(unsigned (&to)[2], const void* from) {
    asm volatile("ld.relaxed.gpu.global.v2.u32 {%0, %1}, [%2];" : "=r"(to[0]), "=r"(to[1]) : "l"(from) : "memory");
}

__device__ __forceinline__ void load_exchanged(unsigned (&to)[4], const void* from) {
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "l"(from)
                 : "memory");
}

/// Wait until `*counter` is at least `target`. What the blocks wrote before they counted can then be read.
__device__ __forceinline__ void await_count(const int* counter, int target) {
    int found;
    do {
        asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(found) : "l"(counter) : "memory");
    } while (found < target);
}
#endif
