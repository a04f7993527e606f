// What bounds the model on a CPU besides matrix products: softmax attention among few tokens, GELU,
// the addition and layer norm between a transformer's layers, each forward and backward; and
// transposition. Biases of the products before them are added here, in passing.
//
// Arrays are float32 or bfloat16, (tokens, sequences, channels), parameters and their gradients
// float32; all arithmetic is float32. `threads` threads share the work. Where gradients by
// parameters are summed, each thread has its own array, zeroed by the caller.
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#define LANES 16
typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t bits __attribute__((vector_size(4 * LANES)));
typedef uint16_t half16 __attribute__((vector_size(2 * LANES)));
typedef float float4 __attribute__((vector_size(16)));
typedef float float8 __attribute__((vector_size(32)));

// 16 numbers from place i on.
static inline lanes get(const void *from, long i, const int is_bf16) {
    if (is_bf16) {
        half16 h;
        memcpy(&h, (const uint16_t *)from + i, sizeof h);
        return (lanes)(__builtin_convertvector(h, bits) << 16);
    }
    lanes v;
    memcpy(&v, (const float *)from + i, sizeof v);
    return v;
}

// As it becomes when it is stored: bfloat16 is rounded to the nearest, to the even one of two.
static inline lanes rounded(lanes value, const int is_bf16) {
    if (!is_bf16) return value;
    const bits b = (bits)value;
    return (lanes)((b + 0x7fff + ((b >> 16) & 1)) & 0xffff0000);
}

static inline void put(void *to, long i, lanes value, const int is_bf16) {
    if (is_bf16) {
#ifdef __AVX512BF16__
        const half16 h = (half16)_mm512_cvtneps_pbh((__m512)value);
#else
        const half16 h = __builtin_convertvector((bits)rounded(value, 1) >> 16, half16);
#endif
        memcpy((uint16_t *)to + i, &h, sizeof h);
    } else {
        memcpy((float *)to + i, &value, sizeof value);
    }
}

static inline void add_to(float *to, long i, lanes value) { put(to, i, get(to, i, 0) + value, 0); }

static inline float total(lanes v) {
    float8 eight[2];
    float4 four[2];
    memcpy(eight, &v, sizeof v);
    eight[0] += eight[1];
    memcpy(four, eight, sizeof four);
    four[0] += four[1];
    return (four[0][0] + four[0][1]) + (four[0][2] + four[0][3]);
}

// a where it holds, else b.
static inline lanes choose(ints holds, lanes a, lanes b) {
    return (lanes)(((ints)a & holds) | ((ints)b & ~holds));
}

// The larger of two; a where a is not a number, so that it spoils the loss and is noticed.
static inline lanes larger(lanes a, lanes b) { return choose(a <= b, b, a); }

// 2^x for x <= 0: the integer part into the exponent's bits, the fraction through e^y, |y| < 0.35.
// Below 2^-60 it is zero: float32 would not notice what it is added to, and products of such
// numbers soon become denormal, on which matrix products take ten times as long.
static inline lanes exp2_lanes(lanes x) {
    const lanes shifted = x + 12582912.0f;  // 1.5 * 2^23 rounds to an integer, kept in the low bits
    const lanes y = (x - (shifted - 12582912.0f)) * 0.69314718f;
    lanes p = y * (1.0f / 5040) + 1.0f / 720;
    p = p * y + 1.0f / 120;
    p = p * y + 1.0f / 24;
    p = p * y + 1.0f / 6;
    p = p * y + 0.5f;
    p = p * y + 1.0f;
    p = p * y + 1.0f;
    return choose(x < -60.0f, (lanes){}, (lanes)((ints)p + ((ints)shifted << 23)));
}

#ifdef __clang__
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PICK(a, b, ...) __builtin_shuffle(a, b, (ints){__VA_ARGS__})
#endif
#define SHUFFLE(a, b, i) \
    PICK(a, b, i, i + 16, i + 1, i + 17, i + 2, i + 18, i + 3, i + 19, i + 4, \
                            i + 20, i + 5, i + 21, i + 6, i + 22, i + 7, i + 23)

// Transpose 16 by 16 numbers: four perfect shuffles of 16 registers.
static inline void transpose16(lanes v[LANES]) {
    lanes shuffled[LANES];
#pragma GCC unroll 4
    for (int round = 0; round < 4; round++) {
#pragma GCC unroll 8
        for (int i = 0; i < LANES / 2; i++) {
            shuffled[2 * i] = SHUFFLE(v[i], v[i + LANES / 2], 0);
            shuffled[2 * i + 1] = SHUFFLE(v[i], v[i + LANES / 2], 8);
        }
        memcpy(v, shuffled, sizeof shuffled);
    }
}

// Attention. A register takes the same number from 16 sequences, so no head is too narrow for it.
// Some heads of 16 sequences are read, transposed and worked on in the cache.

typedef struct {
    long heads, channels, tokens, sequences;
    long group;  // heads at a time: together they have 16 channels or more
    float scale;
} Shape;

// Where the 16 channels begin that are read or written together; the last may overlap others.
static inline long next16(long c, long channels) { return c + LANES < channels ? c : channels - LANES; }

// Read heads of `count` sequences, to[channel][token], and add their bias. Missing sequences repeat
// the last one.
static inline void load(lanes *to, const void *from, const float *bias, long row, long first,
                        long count, const Shape *s, const int is_bf16) {
    const long C = s->group * s->channels;
    for (long t = 0; t < s->tokens; t++)
        for (long c = 0; c < C; c += LANES) {
            const long at = next16(c, C);
            lanes v[LANES];
            for (long l = 0; l < LANES; l++)
                v[l] = get(from, (t * s->sequences + first + (l < count ? l : count - 1)) * row + at,
                           is_bf16);
            transpose16(v);
            for (long k = 0; k < LANES; k++)
                to[(at + k) * s->tokens + t] = v[k] + (bias ? bias[at + k] : 0);
        }
}

static inline void store(void *to, const lanes *from, long row, long first, long count,
                         const Shape *s, const int is_bf16) {
    const long C = s->group * s->channels;
    for (long t = 0; t < s->tokens; t++)
        for (long c = 0; c < C; c += LANES) {
            const long at = next16(c, C);
            lanes v[LANES];
            for (long k = 0; k < LANES; k++) v[k] = from[(at + k) * s->tokens + t];
            transpose16(v);
            for (long l = 0; l < count; l++)
                put(to, (t * s->sequences + first + l) * row + at, v[l], is_bf16);
        }
}

// out[i][j] = scale * sum over c of a[c][i] b[c][j]
static inline void pair_block(lanes *out, const lanes *a, const lanes *b, long C, long T,
                              float scale, const int width) {
    lanes sum[4] = {};
    for (long c = 0; c < C; c++)
        for (int k = 0; k < width; k++) sum[k] += a[c * T] * b[c * T + k];
    for (int k = 0; k < width; k++) out[k] = sum[k] * scale;
}

static void pair(lanes *out, const lanes *a, const lanes *b, long C, long T, float scale) {
    for (long i = 0; i < T; i++) {
        long j = 0;
        for (; j + 4 <= T; j += 4) pair_block(out + i * T + j, a + i, b + j, C, T, scale, 4);
        for (; j < T; j++) pair_block(out + i * T + j, a + i, b + j, C, T, scale, 1);
    }
}

// out[c][i] = sum over j of w[i * row + j * column] b[c][j]
static inline void mix_block(lanes *out, const lanes *w, long column, const lanes *b, long T,
                             const int width) {
    lanes sum[4] = {};
    for (long j = 0; j < T; j++)
        for (int k = 0; k < width; k++) sum[k] += w[j * column] * b[k * T + j];
    for (int k = 0; k < width; k++) out[k * T] = sum[k];
}

static void mix(lanes *out, const lanes *w, long row, long column, const lanes *b, long C, long T) {
    for (long i = 0; i < T; i++) {
        long c = 0;
        for (; c + 4 <= C; c += 4) mix_block(out + c * T + i, w + i * row, column, b + c * T, T, 4);
        for (; c < C; c++) mix_block(out + c * T + i, w + i * row, column, b + c * T, T, 1);
    }
}

// Softmax of each row of (T, T) scores, which are already in units of log 2.
static void softmax2(lanes *scores, long T) {
    for (long i = 0; i < T; i++) {
        lanes *row = scores + i * T, highest = row[0], sum = {};
        for (long j = 1; j < T; j++) highest = larger(row[j], highest);
        for (long j = 0; j < T; j++) sum += row[j] = exp2_lanes(row[j] - highest);
        sum = 1.0f / sum;
        for (long j = 0; j < T; j++) row[j] *= sum;
    }
}

// Gradient of the loss by the scores, from that by the weights p; overwrites it.
static void softmax_backward(lanes *dp, const lanes *p, long T, float scale) {
    for (long i = 0; i < T; i++) {
        lanes mean = {};
        for (long j = i * T; j < i * T + T; j++) mean += p[j] * dp[j];
        for (long j = i * T; j < i * T + T; j++) dp[j] = p[j] * (dp[j] - mean) * scale;
    }
}

// sums[c] += sum over t of from[c][t]
static void add_tokens(lanes *sums, const lanes *from, long C, long T) {
    for (long c = 0; c < C; c++)
        for (long t = 0; t < T; t++) sums[c] += from[c * T + t];
}

// A group of heads, the first of which begins at channel `at`, of up to 16 sequences. Backward, if
// there is a gradient; then 16 sums for each channel of qkv are added to `sums`.
static inline void attend(const void *qkv, const float *bias, const void *gradient, void *out,
                          lanes *sums, const Shape *s, lanes *work, long at, long first, long count,
                          const int is_bf16) {
    const long C = s->channels, T = s->tokens, D = s->heads * C, G = s->group * C, size = is_bf16 ? 2 : 4;
    lanes *q = work, *k = q + G * T, *v = k + G * T, *g = v + G * T, *p = g + G * T, *ds = p + T * T;
    lanes *dq = ds + T * T, *dk = dq + G * T, *dv = dk + G * T, *o = dq;
    load(q, (const char *)qkv + at * size, bias + at, 3 * D, first, count, s, is_bf16);
    load(k, (const char *)qkv + (D + at) * size, bias + D + at, 3 * D, first, count, s, is_bf16);
    load(v, (const char *)qkv + (2 * D + at) * size, bias + 2 * D + at, 3 * D, first, count, s, is_bf16);
    if (gradient) {
        load(g, (const char *)gradient + at * size, NULL, D, first, count, s, is_bf16);
        for (long i = 0; i < G * T; i++)  // of sequences that are missing
            for (long l = count; l < LANES; l++) g[i][l] = 0;
    }
    for (long h = 0; h < G * T; h += C * T) {
        pair(p, q + h, k + h, C, T, s->scale * 1.44269504f);
        softmax2(p, T);
        if (!gradient) {
            mix(o + h, p, T, 1, v + h, C, T);
            continue;
        }
        pair(ds, g + h, v + h, C, T, 1.0f);
        softmax_backward(ds, p, T, s->scale);
        mix(dq + h, ds, T, 1, k + h, C, T);
        mix(dk + h, ds, 1, T, q + h, C, T);
        mix(dv + h, p, 1, T, g + h, C, T);
    }
    if (!gradient) {
        store((char *)out + at * size, o, D, first, count, s, is_bf16);
        return;
    }
    const lanes *parts[] = {dq, dk, dv};
    for (int i = 0; i < 3; i++) {
        add_tokens(sums + i * D + at, parts[i], G, T);
        store((char *)out + (i * D + at) * size, parts[i], 3 * D, first, count, s, is_bf16);
    }
}

// Forward: out (tokens, sequences, dim) from qkv (tokens, sequences, 3 dim) and its bias (3 dim).
// Backward, if `gradient` (tokens, sequences, dim) is not null: out (tokens, sequences, 3 dim), the
// gradient by qkv, and `dbias` (threads, 3 dim). Returns 0, or 1 if memory ran out.
int attention(const void *qkv, const float *bias, const void *gradient, void *out, float *dbias,
              long heads, long channels, long group, long tokens, long sequences, long is_bf16,
              float scale, int threads) {
    const Shape s = {heads, channels, tokens, sequences, group, scale};
    const long dim = heads * channels, registers = 7 * group * channels * tokens + 2 * tokens * tokens;
    int failed = 0;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++) {
        lanes *work = aligned_alloc(sizeof(lanes), (registers + 3 * dim) * sizeof(lanes));
        lanes *sums = work + registers;
        if (!work) {
            failed = 1;
            continue;
        }
        memset(sums, 0, 3 * dim * sizeof(lanes));
        const long groups = heads / group, units = (sequences + LANES - 1) / LANES * groups;
        for (long u = thread * units / threads; u < (thread + 1) * units / threads; u++) {
            const long at = u % groups * group * channels, first = u / groups * LANES;
            const long count = sequences - first < LANES ? sequences - first : LANES;
            if (is_bf16) attend(qkv, bias, gradient, out, sums, &s, work, at, first, count, 1);
            else attend(qkv, bias, gradient, out, sums, &s, work, at, first, count, 0);
        }
        if (gradient)
            for (long c = 0; c < 3 * dim; c++) dbias[thread * 3 * dim + c] = total(sums[c]);
        free(work);
    }
    return failed;
}

// GELU. The channels are a multiple of 16.

// 1 / x of x from 1 on, by three of Newton's steps: a division takes twice as long.
static inline lanes reciprocal(lanes x) {
    lanes y = (lanes)(0x7ef311c7 - (ints)x);  // a line through the logarithm: within 12 %
    for (int step = 0; step < 3; step++) y = y * (2.0f - x * y);
    return y;
}

// The standard normal distribution's function of x, and its density: Abramowitz and Stegun, 7.1.26,
// with an error below 1e-7.
static inline lanes normal(lanes x, lanes *density) {
    const lanes size = larger(x, -x) * 0.70710678f, e = exp2_lanes(x * x * -0.72134752f);
    const lanes t = reciprocal(1.0f + 0.3275911f * size);
    lanes p = t * 1.061405429f - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const lanes tail = 0.5f * p * t * e;
    *density = 0.39894228f * e;
    return choose(x < 0, tail, 1.0f - tail);
}

static inline void gelu_rows(const void *x, const float *bias, const void *gradient, void *out,
                             float *dbias, long begin, long end, long channels, const int is_bf16) {
    for (long r = begin; r < end; r++)
        for (long c = 0; c < channels; c += LANES) {
            const long i = r * channels + c;
            const lanes v = get(x, i, is_bf16) + get(bias, c, 0);
            lanes density;
            const lanes below = normal(v, &density);
            if (!gradient) {
                put(out, i, v * below, is_bf16);
                continue;
            }
            const lanes d = get(gradient, i, is_bf16) * (below + v * density);
            put(out, i, d, is_bf16);
            add_to(dbias, c, d);
        }
}

// Forward: out = GELU(x + bias), (rows, channels). Backward, if `gradient` (rows, channels) is not
// null: out, the gradient by x, and `dbias` (threads, channels).
void gelu(const void *x, const float *bias, const void *gradient, void *out, float *dbias, long rows,
          long channels, long is_bf16, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long k = 0; k < threads; k++) {
        const long begin = k * rows / threads, end = (k + 1) * rows / threads;
        float *mine = dbias + k * channels;
        if (is_bf16) gelu_rows(x, bias, gradient, out, mine, begin, end, channels, 1);
        else gelu_rows(x, bias, gradient, out, mine, begin, end, channels, 0);
    }
}

// Addition and layer norm. A row is one token of one sequence; its channels are a multiple of 16.

typedef struct {
    long tokens, sequences, channels;
    long norms;   // one, or one for the first half of the tokens, rounded down, and one for the rest
    long biases;  // of the branch: one, or one for each token
    const float *weight, *bias, *branch_bias, *factor;  // the factor is each row's, or null
} Layer;

static inline long norm_of(const Layer *s, long row) {
    return s->norms == 2 && row / s->sequences >= s->tokens / 2;
}

static inline long bias_of(const Layer *s, long row) {
    return s->biases == 1 ? 0 : row / s->sequences;
}

// sum = x + factor * (branch + its bias), and its norm, of rows from `begin` to `end`.
static inline void add_norm_rows(const Layer *s, long begin, long end, float eps, const void *x,
                                 const void *branch, void *sum, void *norm, float *statistics,
                                 const int is_bf16) {
    const long D = s->channels;
    lanes row[D / LANES];
    for (long r = begin; r < end; r++) {
        const float *weight = s->weight + norm_of(s, r) * D, *bias = s->bias + norm_of(s, r) * D;
        const float *added = s->branch_bias + bias_of(s, r) * D;
        const float scale = s->factor ? s->factor[r] : 1.0f;
        lanes mean = {}, square = {};
        for (long c = 0; c < D; c += LANES) {
            lanes v = get(x, r * D + c, is_bf16);
            if (branch) {
                v += scale * (get(branch, r * D + c, is_bf16) + get(added, c, 0));
                v = rounded(v, is_bf16);
                put(sum, r * D + c, v, is_bf16);
            }
            mean += row[c / LANES] = v;
        }
        const float m = total(mean) / D;
        for (long c = 0; c < D / LANES; c++) square += (row[c] - m) * (row[c] - m);
        const float inverse = 1.0f / sqrtf(total(square) / D + eps);
        for (long c = 0; c < D; c += LANES)
            put(norm, r * D + c,
                (row[c / LANES] - m) * inverse * get(weight, c, 0) + get(bias, c, 0), is_bf16);
        statistics[2 * r] = m;
        statistics[2 * r + 1] = inverse;
    }
}

// Its gradients: by x into `dx`, by the branch into `dbranch` where there is a factor (else it is
// that by x), by weight, bias and the branch's bias added to `sums`, in this order.
static inline void add_norm_rows_backward(const Layer *s, long begin, long end, const void *sum,
                                          const void *dsum, const void *dnorm,
                                          const float *statistics, void *dx, void *dbranch,
                                          float *sums, const int is_bf16) {
    const long D = s->channels;
    lanes g[D / LANES], z[D / LANES];
    for (long r = begin; r < end; r++) {
        const long n = norm_of(s, r);
        const float *weight = s->weight + n * D;
        float *dweight = sums + n * D, *dbias = dweight + s->norms * D;
        float *dbranch_bias = sums + (2 * s->norms + bias_of(s, r)) * D;
        const float m = statistics[2 * r], inverse = statistics[2 * r + 1];
        lanes mean = {}, product = {};
        for (long c = 0; c < D; c += LANES) {
            const lanes d = get(dnorm, r * D + c, is_bf16);
            const lanes normal = (get(sum, r * D + c, is_bf16) - m) * inverse;
            add_to(dweight, c, d * normal);
            add_to(dbias, c, d);
            z[c / LANES] = normal;
            mean += g[c / LANES] = d * get(weight, c, 0);
            product += g[c / LANES] * normal;
        }
        const float a = total(mean) / D, b = total(product) / D;
        for (long c = 0; c < D; c += LANES) {
            lanes d = (g[c / LANES] - a - z[c / LANES] * b) * inverse;
            if (dsum) d += get(dsum, r * D + c, is_bf16);
            put(dx, r * D + c, d, is_bf16);
            if (s->factor) d *= s->factor[r];
            if (dbranch) put(dbranch, r * D + c, d, is_bf16);
            add_to(dbranch_bias, c, d);
        }
    }
}

// Weight and bias are (norms, channels), the branch's bias (biases, channels), statistics (tokens,
// sequences, 2). Branch and factor (tokens, sequences) may be null; without a branch the sum is not written.
void add_norm(const void *x, const void *branch, const float *branch_bias, const float *factor,
              const float *weight, const float *bias, void *sum, void *norm, float *statistics,
              long norms, long biases, long tokens, long sequences, long channels, long is_bf16,
              float eps, int threads) {
    const Layer s = {tokens, sequences, channels, norms, biases, weight, bias, branch_bias, factor};
    const long rows = tokens * sequences;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long k = 0; k < threads; k++) {
        const long begin = k * rows / threads, end = (k + 1) * rows / threads;
        if (is_bf16) add_norm_rows(&s, begin, end, eps, x, branch, sum, norm, statistics, 1);
        else add_norm_rows(&s, begin, end, eps, x, branch, sum, norm, statistics, 0);
    }
}

// `dparameters` (threads, 2 norms + biases, channels): by weight, bias and the branch's bias. `dsum`
// may be null; `dbranch` is, where there is no factor.
void add_norm_backward(const void *sum, const void *dsum, const void *dnorm, const float *factor,
                       const float *weight, const float *statistics, void *dx, void *dbranch,
                       float *dparameters, long norms, long biases, long tokens, long sequences,
                       long channels, long is_bf16, int threads) {
    const Layer s = {tokens, sequences, channels, norms, biases, weight, NULL, NULL, factor};
    const long rows = tokens * sequences;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long k = 0; k < threads; k++) {
        const long begin = k * rows / threads, end = (k + 1) * rows / threads;
        float *sums = dparameters + k * (2 * norms + biases) * channels;
        if (is_bf16)
            add_norm_rows_backward(&s, begin, end, sum, dsum, dnorm, statistics, dx, dbranch, sums,
                                   1);
        else
            add_norm_rows_backward(&s, begin, end, sum, dsum, dnorm, statistics, dx, dbranch, sums,
                                   0);
    }
}

// Turn bfloat16 (rows, columns) into (columns, rows); both are multiples of 16.
void transpose(const uint16_t *from, uint16_t *to, long rows, long columns, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long r = 0; r < rows; r += LANES)
        for (long c = 0; c < columns; c += LANES) {
            lanes v[LANES];
            for (long i = 0; i < LANES; i++) v[i] = get(from, (r + i) * columns + c, 1);
            transpose16(v);
            for (long i = 0; i < LANES; i++) put(to, (c + i) * rows + r, v[i], 1);
        }
}
