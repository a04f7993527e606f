// Softmax attention for short sequences and narrow heads on the CPU, forward and backward.
//
// A vector register takes the same number from 16 sequences, so no head is too narrow for it. One
// head of 16 sequences is read, transposed and worked on in the cache. Arrays are float32 or
// bfloat16; all arithmetic is float32. The channels of a head are a multiple of four.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 16
typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t bits __attribute__((vector_size(4 * LANES)));
typedef float float4 __attribute__((vector_size(16)));
typedef float float8 __attribute__((vector_size(32)));
typedef uint16_t half4 __attribute__((vector_size(8)));
typedef uint16_t half8 __attribute__((vector_size(16)));
typedef uint16_t half16 __attribute__((vector_size(32)));

#define ALL_OF_TWO 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
// The same choice in each quarter of two registers.
#define QUARTERS(a, b, c, d) \
    a, b, c, d, a + 4, b + 4, c + 4, d + 4, a + 8, b + 8, c + 8, d + 8, a + 12, b + 12, c + 12, d + 12

typedef struct {
    long heads, channels, tokens;
    float scale;
} Shape;

// The larger of two; a where a is not a number, so that it spoils the loss and is noticed.
static inline lanes larger(lanes a, lanes b) {
    ints mask = a <= b;
    return (lanes)(((ints)b & mask) | ((ints)a & ~mask));
}

// 2^x for x <= 0: the integer part into the exponent's bits, the fraction through e^y, |y| < 0.35.
static inline lanes exp2_lanes(lanes x) {
    x = larger(x, (lanes){} - 126.0f);
    lanes shifted = x + 12582912.0f;  // 1.5 * 2^23 rounds to an integer, kept in the low bits
    lanes y = (x - (shifted - 12582912.0f)) * 0.69314718f;
    lanes p = y * (1.0f / 5040) + 1.0f / 720;
    p = p * y + 1.0f / 120;
    p = p * y + 1.0f / 24;
    p = p * y + 1.0f / 6;
    p = p * y + 0.5f;
    p = p * y + 1.0f;
    p = p * y + 1.0f;
    return (lanes)((ints)p + ((ints)shifted << 23));
}

// Four channels of four sequences, as one register.
static inline lanes read4(const char *const at[4], long offset, int is_bf16) {
    if (is_bf16) {
        half4 h[4];
        for (int s = 0; s < 4; s++) memcpy(&h[s], at[s] + offset, sizeof h[s]);
        half8 low = __builtin_shufflevector(h[0], h[1], 0, 1, 2, 3, 4, 5, 6, 7);
        half8 high = __builtin_shufflevector(h[2], h[3], 0, 1, 2, 3, 4, 5, 6, 7);
        half16 all = __builtin_shufflevector(low, high, ALL_OF_TWO);
        return (lanes)(__builtin_convertvector(all, bits) << 16);
    }
    float4 f[4];
    for (int s = 0; s < 4; s++) memcpy(&f[s], at[s] + offset, sizeof f[s]);
    float8 low = __builtin_shufflevector(f[0], f[1], 0, 1, 2, 3, 4, 5, 6, 7);
    float8 high = __builtin_shufflevector(f[2], f[3], 0, 1, 2, 3, 4, 5, 6, 7);
    return __builtin_shufflevector(low, high, ALL_OF_TWO);
}

// The inverse of read4, for the first `count` of four sequences that lie `step` bytes apart.
static inline void write4(char *to, long step, lanes value, long count, int is_bf16) {
    const size_t size = is_bf16 ? 8 : 16;
    char block[sizeof value];
    if (is_bf16) {
        bits b = (bits)value;  // rounded to the nearest even
        half16 h = __builtin_convertvector((b + 0x7fff + ((b >> 16) & 1)) >> 16, half16);
        memcpy(block, &h, sizeof h);
    } else {
        memcpy(block, &value, sizeof value);
    }
    for (long s = 0; s < 4 && s < count; s++) memcpy(to + s * step, block + s * size, size);
}

// Exchange sequences and channels among four registers of read4: v[c] then holds channel c of all
// 16 sequences. Its own inverse.
static inline void transpose4(lanes v[4]) {
    lanes a = __builtin_shufflevector(v[0], v[1], QUARTERS(0, 16, 1, 17));
    lanes b = __builtin_shufflevector(v[0], v[1], QUARTERS(2, 18, 3, 19));
    lanes c = __builtin_shufflevector(v[2], v[3], QUARTERS(0, 16, 1, 17));
    lanes d = __builtin_shufflevector(v[2], v[3], QUARTERS(2, 18, 3, 19));
    v[0] = __builtin_shufflevector(a, c, QUARTERS(0, 1, 16, 17));
    v[1] = __builtin_shufflevector(a, c, QUARTERS(2, 3, 18, 19));
    v[2] = __builtin_shufflevector(b, d, QUARTERS(0, 1, 16, 17));
    v[3] = __builtin_shufflevector(b, d, QUARTERS(2, 3, 18, 19));
}

// Read one head of `count` sequences: to[channel][token]. Missing sequences repeat the last one.
static inline void load(lanes *to, const char *from, const Shape *s, long row, long count,
                        const int is_bf16) {
    const long C = s->channels, T = s->tokens, width = is_bf16 ? 2 : 4;
    for (long t = 0; t < T; t++) {
        const char *at[LANES];
        for (long l = 0; l < LANES; l++)
            at[l] = from + ((l < count ? l : count - 1) * T + t) * row * width;
        for (long c = 0; c < C; c += 4) {
            lanes v[4];
            for (long k = 0; k < 4; k++) v[k] = read4(at + 4 * k, c * width, is_bf16);
            transpose4(v);
            for (long k = 0; k < 4; k++) to[(c + k) * T + t] = v[k];
        }
    }
}

static inline void store(char *to, const lanes *from, const Shape *s, long row, long count,
                         const int is_bf16) {
    const long C = s->channels, T = s->tokens, width = is_bf16 ? 2 : 4;
    for (long t = 0; t < T; t++)
        for (long c = 0; c < C; c += 4) {
            lanes v[4];
            for (long k = 0; k < 4; k++) v[k] = from[(c + k) * T + t];
            transpose4(v);
            for (long k = 0; k < 4; k++)
                write4(to + ((4 * k * T + t) * row + c) * width, T * row * width, v[k],
                       count - 4 * k, is_bf16);
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

// One head of up to 16 sequences; backward if there is a gradient.
static inline void attend(const char *qkv, const char *gradient, char *out, const Shape *s,
                          lanes *work, long head, long first, long count, const int is_bf16) {
    const long C = s->channels, T = s->tokens, D = s->heads * C, rows = C * T;
    const long width = is_bf16 ? 2 : 4, part = D * width;
    const long narrow = (first * T * D + head * C) * width;
    const long wide = (first * T * 3 * D + head * C) * width;
    lanes *q = work, *k = q + rows, *v = k + rows, *o = v + rows, *g = o + rows, *p = g + rows;
    load(q, qkv + wide, s, 3 * D, count, is_bf16);
    load(k, qkv + wide + part, s, 3 * D, count, is_bf16);
    load(v, qkv + wide + 2 * part, s, 3 * D, count, is_bf16);
    pair(p, q, k, C, T, s->scale * 1.44269504f);
    softmax2(p, T);
    if (!gradient) {
        mix(o, p, T, 1, v, C, T);
        store(out + narrow, o, s, D, count, is_bf16);
        return;
    }
    lanes *ds = p + T * T;
    load(g, gradient + narrow, s, D, count, is_bf16);
    pair(ds, g, v, C, T, 1.0f);
    softmax_backward(ds, p, T, s->scale);
    mix(o, ds, T, 1, k, C, T);
    store(out + wide, o, s, 3 * D, count, is_bf16);
    mix(o, ds, 1, T, q, C, T);
    store(out + wide + part, o, s, 3 * D, count, is_bf16);
    mix(o, p, 1, T, g, C, T);
    store(out + wide + 2 * part, o, s, 3 * D, count, is_bf16);
}

// Forward: out (sequences, tokens, dim) from qkv (sequences, tokens, 3 dim). Backward, if `gradient`
// (sequences, tokens, dim) is not null: out (sequences, tokens, 3 dim), the gradient by qkv.
// Returns 0, or 1 if memory ran out.
int attention(const void *qkv, const void *gradient, void *out, long heads, long channels,
              long tokens, long sequences, int is_bf16, float scale, int threads) {
    const Shape s = {heads, channels, tokens, scale};
    const size_t registers = 5 * channels * tokens + 2 * tokens * tokens;
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        lanes *work = aligned_alloc(sizeof(lanes), registers * sizeof(lanes));
        if (!work) failed = 1;
#pragma omp for schedule(static)
        for (long first = 0; first < sequences; first += LANES)
            for (long head = 0; work && head < heads; head++) {
                const long count = sequences - first < LANES ? sequences - first : LANES;
                if (is_bf16) attend(qkv, gradient, out, &s, work, head, first, count, 1);
                else attend(qkv, gradient, out, &s, work, head, first, count, 0);
            }
        free(work);
    }
    return failed;
}
