// A GPU on the CPU, for tests where there is none: every thread of a block is a fiber. emulated_nearest.cpp and others
// include it, then a kernel's source.
//
// A fiber's stack is made with makecontext. After that _setjmp and _longjmp switch, as swapcontext makes two system calls
// each time; _FORTIFY_SOURCE would refuse the jump to another stack.
//
// A warp runs until a barrier stops it. Then the next warp runs, in an order that `configure` chooses; what a kernel
// computes must not depend on that order. Blocks run one after the other, or all at once where the launch is cooperative:
// then a block runs until it waits for another one. Asynchronous copies happen as early or as late as the programming model
// allows: a missing wait or barrier reads stale bytes (shared memory begins as NaN), and a slot that is filled too soon
// loses values that are still needed. The tensor core adds as measured on real ones (Khattak and Mikaitis,
// arXiv:2512.07004): so many products at a time and the sum so far, all cut to 24 bits at the largest, towards zero.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#define EMULATED_GPU
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

namespace {

using std::max;
using std::min;
typedef std::uint16_t half_bits;

constexpr int MOST_SHARED = 232448;
constexpr int STACK_BYTES = 1 << 17;
constexpr int BLOCK = 256;

struct Copy {
    unsigned to;
    const void* from;
};

struct Exchange {  // what the lanes of a warp give each other; two, as some lanes still read the one before
    alignas(16) unsigned char given[2][32][64];
    int arrived = 0, meetings = 0;
};

struct Block;

struct Fiber {
    ucontext_t start;
    jmp_buf place;
    std::unique_ptr<char[]> stack{new char[STACK_BYTES]};
    bool started = false;
    int index = 0;
    Block* block = nullptr;
    bool done = false;
    const int* waits_for = nullptr;  // a counter that must exceed `passed`
    int passed = 0;
    int exchanged = 0;
    std::vector<std::vector<Copy>> sets;  // closed, not yet done
    std::vector<Copy> open;
};

struct Place {
    int x;
};

/// One block that runs: its threads, what its warps exchange, its barrier and its shared memory.
struct Block {
    int index = 0;
    std::vector<Fiber> fibers = std::vector<Fiber>(BLOCK);
    Exchange exchanges[BLOCK / 32];
    int arrived = 0, barriers = 0;
    alignas(1024) unsigned char memory[MOST_SHARED];
};

std::vector<std::unique_ptr<Block>> places;  // of blocks that run at once
Fiber* running = nullptr;
unsigned char* shared = nullptr;  // of the block that runs
jmp_buf scheduler;
const std::function<void()>* kernel_of_grid = nullptr;
int order = 0, late = 1, products = 16, shared_limit = MOST_SHARED;
std::mt19937 generator(0);
Place threadIdx{0}, blockIdx{0}, gridDim{0};

[[noreturn]] void fail(const char* what) {
    std::fprintf(stderr, "emulated GPU: %s (block %d, thread %d)\n", what, blockIdx.x, threadIdx.x);
    std::abort();
}

/// Back to the scheduler, until it resumes this fiber.
void leave_fiber() {
    if (!_setjmp(running->place)) _longjmp(scheduler, 1);
}

void wait_for(const int& counter) {
    running->waits_for = &counter;
    running->passed = counter;
    leave_fiber();
}

bool release_barrier(Block& block) {
    const auto& fibers = block.fibers;
    const auto alive = std::count_if(fibers.begin(), fibers.end(), [](const Fiber& fiber) { return !fiber.done; });
    if (!block.arrived || block.arrived != alive) return false;
    block.arrived = 0;
    ++block.barriers;
    return true;
}

void __syncthreads() {
    ++running->block->arrived;
    wait_for(running->block->barriers);
}

void __threadfence() {}

/// Returns when another block has counted far enough.
void await_count(const int* counter, int target) {
    while (*counter < target) wait_for(*counter);
}

/// What every lane of a warp gave to one `exchange`.
template <class T>
struct Given {
    const unsigned char (*bytes)[64];

    T operator[](int lane) const {
        T value;
        std::memcpy(&value, bytes[lane], sizeof value);
        return value;
    }
};

/// Gives `mine` and waits for the warp. The result is good until the next `exchange` but one.
template <class T>
Given<T> exchange(const T& mine) {
    static_assert(sizeof(T) <= 64, "too much for a lane");
    Exchange& warp = running->block->exchanges[running->index / 32];
    unsigned char(*given)[64] = warp.given[running->exchanged++ % 2];
    std::memcpy(given[running->index % 32], &mine, sizeof mine);
    if (++warp.arrived == 32) {
        warp.arrived = 0;
        ++warp.meetings;
    } else {
        wait_for(warp.meetings);
    }
    return {given};
}

template <class T>
T __shfl_xor_sync(unsigned, T value, int step) {
    return exchange(value)[running->index % 32 ^ step];
}

int atomicAdd(int* at, int amount) {
    const int before = *at;
    *at += amount;
    return before;
}

float __int_as_float(int bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

int __float_as_int(float value) {
    int bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

float __double2float_ru(double value) {
    const float near = static_cast<float>(value);
    return near < value ? std::nextafterf(near, std::numeric_limits<float>::infinity()) : near;
}

half_bits round_to_half(float value) {
    const _Float16 half = static_cast<_Float16>(value);
    half_bits bits;
    std::memcpy(&bits, &half, 2);
    return bits;
}

float widen_half(half_bits bits) {
    static const std::vector<float> table = [] {
        std::vector<float> values(1 << 16);
        for (int i = 0; i < 1 << 16; ++i) {
            const half_bits each = static_cast<half_bits>(i);
            _Float16 half;
            std::memcpy(&half, &each, 2);
            values[i] = static_cast<float>(half);
        }
        return values;
    }();
    return table[bits];
}

unsigned find_shared(const void* pointer) {
    return static_cast<unsigned>(static_cast<const unsigned char*>(pointer) - shared);
}

template <class T>
T load_once(const T* from) {
    if (reinterpret_cast<std::uintptr_t>(from) % sizeof(T)) fail("a load that is not aligned");
    return *from;
}

template <int COUNT>
void load_exchanged(unsigned (&to)[COUNT], const void* from) {
    if (reinterpret_cast<std::uintptr_t>(from) % sizeof to) fail("a load that is not aligned");
    std::memcpy(to, from, sizeof to);
}

void check_chunk(unsigned at) {
    if (at % 16) fail("a chunk of shared memory that is not aligned");
    if (at + 16 > static_cast<unsigned>(shared_limit)) fail("beyond the shared memory asked for");
}

void copy_chunk(unsigned to, const void* from) {
    check_chunk(to);
    if (reinterpret_cast<std::uintptr_t>(from) % 16) fail("a chunk of global memory that is not aligned");
    if (late) {
        running->open.push_back({to, from});
    } else {
        std::memcpy(shared + to, from, 16);
    }
}

void close_copies() {
    running->sets.push_back(std::move(running->open));
    running->open.clear();
}

template <int PENDING>
void await_copies() {
    auto& sets = running->sets;
    while (static_cast<int>(sets.size()) > PENDING) {
        for (const Copy& copy : sets.front()) std::memcpy(shared + copy.to, copy.from, 16);
        sets.erase(sets.begin());
    }
}

void load_matrices(unsigned (&fragment)[4], unsigned row) {
    check_chunk(row);
    const Given<unsigned> rows = exchange(row);
    const int lane = running->index % 32;
    for (int i = 0; i < 4; ++i) std::memcpy(&fragment[i], shared + rows[8 * i + lane / 4] + lane % 4 * 4, 4);
}

/// The exponent of a normal double, below that of any float's product for zero.
int find_exponent(double value) {
    std::uint64_t bits;
    std::memcpy(&bits, &value, 8);
    return static_cast<int>(bits >> 52 & 0x7ff) - 1023;
}

double raise_two(int exponent) {
    const std::uint64_t bits = static_cast<std::uint64_t>(exponent + 1023) << 52;
    double value;
    std::memcpy(&value, &bits, 8);
    return value;
}

/// c + Σ a_k·b_k of 16 products, `products` at a time, as a tensor core adds them.
float add_products(float c, const float* a, const float* b) {
    for (int start = 0; start < 16; start += products) {
        double addends[17] = {c};
        int largest = find_exponent(c);
        for (int k = 0; k < products; ++k) {
            addends[1 + k] = static_cast<double>(a[start + k]) * b[start + k];
            largest = std::max(largest, find_exponent(addends[1 + k]));
        }
        if (largest < -200) continue;  // zeros
        const double down = raise_two(23 - largest);
        double sum = 0;  // of integers below 2²⁴
        for (int k = 0; k <= products; ++k) sum += static_cast<double>(static_cast<std::int64_t>(addends[k] * down));
        const double exact = sum * raise_two(largest - 23);
        c = static_cast<float>(exact);
        if (std::fabs(c) > std::fabs(exact)) c = std::nextafterf(c, 0.0f);
    }
    return c;
}

void multiply(float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    struct Operands {
        unsigned a[4], b[2];
    };
    const Given<Operands> lanes = exchange(Operands{{a[0], a[1], a[2], a[3]}, {b0, b1}});
    const int lane = running->index % 32;
    float left[2][16], right[2][16];
    for (int k = 0; k < 16; k += 2) {
        const Operands of_row = lanes[lane / 4 * 4 + k % 8 / 2];
        for (int i = 0; i < 2; ++i) {
            const unsigned pair = of_row.a[i + k / 8 * 2];
            left[i][k] = widen_half(pair & 0xffff);
            left[i][k + 1] = widen_half(pair >> 16);
            const unsigned of_column = lanes[(lane % 4 * 2 + i) * 4 + k % 8 / 2].b[k / 8];
            right[i][k] = widen_half(of_column & 0xffff);
            right[i][k + 1] = widen_half(of_column >> 16);
        }
    }
    for (int i = 0; i < 4; ++i) sums[i] = add_products(sums[i], left[i / 2], right[i % 2]);
}

/// A thread of one block after another.
void enter_fiber() {
    for (;;) {
        (*kernel_of_grid)();
        running->done = true;
        leave_fiber();
    }
}

/// Let `fiber` run until it waits or is done.
__attribute__((noinline)) void resume(Fiber& fiber) {
    running = &fiber;
    shared = fiber.block->memory;
    blockIdx.x = fiber.block->index;
    threadIdx.x = fiber.index;
    if (_setjmp(scheduler)) return;
    if (fiber.started) _longjmp(fiber.place, 1);
    fiber.started = true;
    setcontext(&fiber.start);
}

/// Let each thread of a warp that need not wait run up to its next wait. Returns whether there was one.
bool run_warp(Block& block, int warp) {
    bool moved = false;
    for (int i = 32 * warp; i < 32 * warp + 32; ++i) {
        Fiber& fiber = block.fibers[i];
        if (fiber.done || (fiber.waits_for && *fiber.waits_for == fiber.passed)) continue;
        fiber.waits_for = nullptr;
        resume(fiber);
        moved = true;
    }
    return moved;
}

/// Give the place to block `index`, whose threads have not begun.
void open_block(Block& block, int index) {
    block.index = index;
    block.arrived = block.barriers = 0;
    std::memset(block.memory, 0xff, shared_limit);  // NaN, as float16 and as float32
    for (Exchange& warp : block.exchanges) warp.arrived = warp.meetings = 0;
    for (int i = 0; i < BLOCK; ++i) {
        Fiber& fiber = block.fibers[i];
        if (!fiber.started) {
            getcontext(&fiber.start);
            fiber.start.uc_stack.ss_sp = fiber.stack.get();
            fiber.start.uc_stack.ss_size = STACK_BYTES;
            fiber.start.uc_link = nullptr;
            makecontext(&fiber.start, enter_fiber, 0);
        }
        fiber.index = i;
        fiber.block = &block;
        fiber.done = false;
        fiber.waits_for = nullptr;
        fiber.exchanged = 0;
        fiber.sets.clear();
        fiber.open.clear();
    }
}

/// Let every warp of a block run once as far as it can, then its barrier. Returns whether anything happened.
bool advance_block(Block& block) {
    constexpr int WARPS_OF_BLOCK = BLOCK / 32;
    int warps[WARPS_OF_BLOCK];
    for (int i = 0; i < WARPS_OF_BLOCK; ++i) warps[i] = order == 1 ? WARPS_OF_BLOCK - 1 - i : i;
    if (order == 2) std::shuffle(warps, warps + WARPS_OF_BLOCK, generator);
    bool moved = false;
    for (const int warp : warps) {
        while (run_warp(block, warp)) moved = true;
    }
    return release_barrier(block) || moved;
}

/// Run `count` blocks from `first` on, all at once. A block runs until it waits for another one, or, in a random order of
/// warps, as long as chance lets it: so some are far ahead of others.
void run_blocks(int first, int count, const std::function<void()>& kernel) {
    kernel_of_grid = &kernel;
    while (static_cast<int>(places.size()) < count) places.push_back(std::make_unique<Block>());
    for (int i = 0; i < count; ++i) open_block(*places[i], first + i);
    std::vector<int> turns(count);
    for (int i = 0; i < count; ++i) turns[i] = order == 1 ? count - 1 - i : i;
    const auto is_alive = [](const Fiber& fiber) { return !fiber.done; };
    for (bool alive = true; alive;) {
        if (order == 2) std::shuffle(turns.begin(), turns.end(), generator);
        bool moved = false;
        alive = false;
        for (const int turn : turns) {
            Block& block = *places[turn];
            while (advance_block(block)) {
                moved = true;
                if (order == 2 && generator() % 8 == 0) break;
            }
            alive |= std::any_of(block.fibers.begin(), block.fibers.end(), is_alive);
        }
        if (alive && !moved) fail("every thread waits");
    }
}

/// A launch of `blocks` blocks with `bytes` of shared memory. With `together` they run at once, as if it is cooperative.
void run_grid(int blocks, int bytes, const std::function<void()>& kernel, bool together = false) {
    if (bytes > MOST_SHARED) fail("more shared memory than a block may have");
    shared_limit = bytes;
    gridDim.x = blocks;
    if (together) return run_blocks(0, blocks, kernel);
    for (int block = 0; block < blocks; ++block) run_blocks(block, 1, kernel);
}

}  // namespace

extern "C" {

/// order of the warps 0 ascending, 1 descending, 2 random; late_copies 0 or 1; products added at a time: 4, 8 or 16.
void configure(int order_of_warps, int late_copies, int products_at_a_time) {
    order = order_of_warps;
    late = late_copies;
    products = products_at_a_time;
}
}
