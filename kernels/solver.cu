// One step of a diffusion solver (runtime/semanticodec/samplers.py) and the noise that it needs, for B windows.
// runtime/semanticodec/coefficients.py shows that a step of every solver is a weighted sum. runtime/cuda/solver.py
// launches the kernel between two calls of the T-UNet.
//
// Each launch takes one row of the table, the one that `counter` names, and counts on. So every step of a loop is the same
// work, recorded once as a CUDA graph: what differs lies in the table, which another preset only overwrites.
// Row 0 draws x_0 = z_T. Row r > 0 follows call r − 1, whose result is `v`:
//     v_(r−1) = v of the only branch, or v_u + s (v_c − v_u) of both (paper, eq. 10, with s = 1 − w),
//     x_r = Σ_j a_j x_(r−1−j) + Σ_j b_j v_(r−1−j) + c n_r.
// The last DEPTH x and v, which later steps use, stay in rings. x_r is also written where the T-UNet reads it, once for
// each branch, together with the next timestep.

constexpr int SIZE = 8 * 256 * 16;  // values of one latent
constexpr int DEPTH = 3;
constexpr int THREADS = 128;
constexpr int QUARTERS = SIZE / 4;          // a thread computes four neighbours of each half of a latent:
constexpr int LANES = QUARTERS / 2;         // one Philox block of radii and one of angles make these eight values
constexpr double TURN = 6.283185307179586;  // 2π

typedef unsigned long long word;

struct alignas(16) Four {
    float at[4];
};

struct Row {
    float latents[DEPTH];     // a
    float velocities[DEPTH];  // b
    float noise;              // c
    float scale;              // s; 1 where only one branch was run
    float step;               // the timestep of the call that follows
};

/// The row that the next launch takes, and the blocks of the present launch that have finished.
struct Counter {
    int row;
    unsigned finished;
};

/// The noise of one window: (seed, window), or the address of SIZE floats for each row of the table.
struct Source {
    word seed, window, address;
};

/// Philox 4x64-10 (Salmon et al. 2011), as in numpy.random.Philox: 53 bits of each word as a double in [0, 1).
__device__ void draw_uniform(double (&uniform)[4], word block, word draw, word window, word seed, word domain) {
    word counter[4] = {block, draw, window, 0}, key[2] = {seed, domain};
    for (int round = 0; round < 10; ++round) {
        const word low0 = 0xD2E7470EE14C6C93ull * counter[0], high0 = __umul64hi(0xD2E7470EE14C6C93ull, counter[0]);
        const word low2 = 0xCA5A826395121157ull * counter[2], high2 = __umul64hi(0xCA5A826395121157ull, counter[2]);
        counter[0] = high2 ^ counter[1] ^ key[0];
        counter[1] = low2;
        counter[2] = high0 ^ counter[3] ^ key[1];
        counter[3] = low0;
        key[0] += 0x9E3779B97F4A7C15ull;
        key[1] += 0xBB67AE8584CAA73Bull;
    }
    for (int i = 0; i < 4; ++i) uniform[i] = static_cast<double>(counter[i] >> 11) * 0x1p-53;
}

/// The same standard normal numbers as noise.SeededNoise: Box–Muller, radii from a latent's first half of words,
/// angles from its second. NumPy counts blocks from 1.
__device__ void draw_normal(Four (&normal)[2], const Source& source, int draw, int lane, word domain) {
    double radii[4], angles[4];
    draw_uniform(radii, 1 + lane, draw, source.window, source.seed, domain);
    draw_uniform(angles, 1 + lane + LANES, draw, source.window, source.seed, domain);
    for (int i = 0; i < 4; ++i) {
        double sine, cosine;
        sincos(TURN * angles[i], &sine, &cosine);
        const double radius = sqrt(-2.0 * log1p(-radii[i]));
        normal[0].at[i] = static_cast<float>(radius * cosine);
        normal[1].at[i] = static_cast<float>(radius * sine);
    }
}

/// v [batch or 2 batch, SIZE]: the unconditional branch first; latent [2 batch, SIZE] and steps [2 batch] of the next
/// call; xs, vs [DEPTH, batch, SIZE]; table [rows]; sources [batch]. Blocks of THREADS, LANES / THREADS x batch of them.
extern "C" __global__ void advance(const Four* v, Four* latent, long long* steps, Four* xs, Four* vs, const Row* table,
                                   const Source* sources, Counter* counter, word domain, int batch) {
    const int lane = blockIdx.x * THREADS + threadIdx.x, window = blockIdx.y;
    const int row = counter->row;
    const Row now = table[row];
    const int all = batch * QUARTERS;  // of one ring entry, and of one branch
    Four noise[2] = {};
    if (now.noise != 0) {
        const Source source = sources[window];
        if (source.address) {
            const Four* drawn = reinterpret_cast<const Four*>(source.address) + static_cast<long long>(row) * QUARTERS;
            noise[0] = drawn[lane];
            noise[1] = drawn[lane + LANES];
        } else {
            draw_normal(noise, source, row, lane, domain);
        }
    }
    for (int half = 0; half < 2; ++half) {
        const int place = window * QUARTERS + half * LANES + lane;
        Four next = {};
        for (int i = 0; i < 4; ++i) next.at[i] = now.noise * noise[half].at[i];
        if (row > 0) {
            Four newest = v[place];
            if (now.scale != 1) {
                const Four given = v[all + place];
                for (int i = 0; i < 4; ++i) newest.at[i] += now.scale * (given.at[i] - newest.at[i]);
            }
            vs[(row - 1) % DEPTH * all + place] = newest;
        }
        for (int j = 0; j < DEPTH && j < row; ++j) {  // nothing older than x_0 is read
            if (now.latents[j] == 0 && now.velocities[j] == 0) continue;
            const int slot = (row - 1 - j) % DEPTH * all + place;
            const Four x = xs[slot], velocity = vs[slot];
            for (int i = 0; i < 4; ++i) next.at[i] += now.latents[j] * x.at[i] + now.velocities[j] * velocity.at[i];
        }
        xs[row % DEPTH * all + place] = next;
        latent[place] = latent[all + place] = next;
    }
    if (lane == 0) steps[window] = steps[batch + window] = static_cast<long long>(now.step);
    // The block that finishes last counts on. All threads of its block and all other blocks have read the row by then.
    __syncthreads();
    if (threadIdx.x == THREADS - 1) {
        __threadfence();
        if (atomicAdd(&counter->finished, 1u) == gridDim.x * gridDim.y - 1) {
            counter->finished = 0;
            counter->row = row + 1;
        }
    }
}
