// Two vectors side by side at every position: what the acoustic encoder and the T-UNet's conditioning take.
//
// The vectors are rows of two arrays: of both codebooks when tokens are decoded; of the features and the codebook of
// their centroids when sound is encoded. A position without sound has no rows: all its values are −1, as the published
// networks were trained to read it. Only row numbers come from the host, not the vectors.

constexpr int THREADS = 128;
constexpr float FILL = -1.0f;

struct alignas(16) Four {
    float at[4];
};

/// rows, others int [count, step], whose first column counts -> out [count, 2 quarters]: row rows[i] of `first`, then row
/// others[i] of `second`, each of `quarters` groups of four values. A negative row stands for FILL, in both
/// halves. One block a position.
extern "C" __global__ void join(const Four* first, const int* rows, const Four* second, const int* others, Four* out,
                                int step, int quarters) {
    const long long place = blockIdx.x;
    const long long row = rows[place * step], other = others[place * step];
    const bool filled = row >= 0 && other >= 0;
    const Four nothing = {{FILL, FILL, FILL, FILL}};
    for (int i = threadIdx.x; i < quarters; i += THREADS) {
        out[place * 2 * quarters + i] = filled ? first[row * quarters + i] : nothing;
        out[(place * 2 + 1) * quarters + i] = filled ? second[other * quarters + i] : nothing;
    }
}
