/* LeNet's convolutions with their pooling and ReLU, forward and backward, picture by picture.
 *
 * What a library computes as separate passes over a batch is one here: a picture's convolution is
 * pooled while it is in the nearest cache. Backward, the pooling lets one place of four through:
 * only its products are computed. Pictures go through in chunks of CHUNK; the chunks' gradients are
 * summed in their order, whatever the number of threads.
 *
 * Layouts (floats, last index fastest):
 *   pixels   [32][32][3]         a picture, as torch's channels_last has it
 *   w1       [6][5][5][3]        the weights likewise
 *   w2       [16][5][5][6]
 *   hidden   [14][14][8]         first pooled layer; channels 6 and 7 are zero, so that a pixel is
 *                                one AVX register
 *   source1  [14][14][8]         which pixel of `pixels` each hidden value comes from, as the
 *                                offset of its window
 *   features [16][5][5]          second pooled layer, in the order of flatten
 *   source2  [16][5][5]          likewise, in `hidden`
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { SIDE = 32, C0 = 3, C1 = 6, C2 = 16, K = 5, OUT1 = 28, OUT2 = 10, S1 = 14, S2 = 5 };
enum { CHUNK = 8, PAD = 8 };
enum { HIDDEN = S1 * S1 * PAD, FEATURES = C2 * S2 * S2, PIXELS = SIDE * SIDE * C0 };
enum { W1 = K * K * C0, W2 = K * K * C1, TAPS = K * K };

#ifdef __AVX512F__
/* so that the accumulators below fill the registers and no more */
enum { LANES = 16, TOGETHER = 6, POOLED = 5 };
#else
enum { LANES = 8, TOGETHER = 3, POOLED = 1 };
#endif
enum { HALVES = C2 / LANES };
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t mask __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float oct __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t oct_mask __attribute__((vector_size(32), aligned(4), may_alias));
typedef int16_t oct_short __attribute__((vector_size(16), aligned(2), may_alias));
#define UNROLL _Pragma("GCC unroll 32")

/* Take the largest of a window of 2 x 2 and the offset of its place, as torch does: the first of
 * equals, or the last NaN. */
static inline void take(float value, int32_t offset, float *best, int32_t *where) {
  int larger = value > *best || value != value;
  *best = larger ? value : *best;
  *where = larger ? offset : *where;
}

static inline float relu(float x) { return x < 0 ? 0 : x; }

/* Take the larger of each lane, and its place, as above. */
static inline void take_lanes(vec value, mask place, vec *best, mask *where) {
  mask larger = (value > *best) | (value != value);
  *best = (vec)((larger & (mask)value) | (~larger & (mask)*best));
  *where = (larger & place) | (~larger & *where);
}

/* Swap rows and columns of 8 x 8 numbers. */
static inline void transpose(oct rows[8]) {
  oct pairs[8], fours[8];
  UNROLL for (int i = 0; i < 8; i += 2) {
    pairs[i] = __builtin_shuffle(rows[i], rows[i + 1], (oct_mask){0, 8, 1, 9, 4, 12, 5, 13});
    pairs[i + 1] = __builtin_shuffle(rows[i], rows[i + 1], (oct_mask){2, 10, 3, 11, 6, 14, 7, 15});
  }
  UNROLL for (int i = 0; i < 8; i += 4)
    UNROLL for (int half = 0; half < 2; half++) {
      oct one = pairs[i + half], two = pairs[i + half + 2];
      fours[i + 2 * half] = __builtin_shuffle(one, two, (oct_mask){0, 1, 8, 9, 4, 5, 12, 13});
      fours[i + 2 * half + 1] = __builtin_shuffle(one, two, (oct_mask){2, 3, 10, 11, 6, 7, 14, 15});
    }
  UNROLL for (int i = 0; i < 4; i++) {
    rows[i] = __builtin_shuffle(fours[i], fours[i + 4], (oct_mask){0, 1, 2, 3, 8, 9, 10, 11});
    rows[i + 4] = __builtin_shuffle(fours[i], fours[i + 4], (oct_mask){4, 5, 6, 7, 12, 13, 14, 15});
  }
}

/* First pooled columns of the vectors that cover S1 of them; the last ones overlap. */
static const int starts[] =
#ifdef __AVX512F__
    {0};
#else
    {0, S1 - LANES};
#endif

/* Even and odd columns lie in vectors of their own, so that the four places of a window meet in the
 * same lane. */
static void convolve1(const float *pixels, const float *w1, const float *b1, float *hidden,
                      int16_t *source) {
  float plane[C0][SIDE][2][SIDE / 2 + 2]; /* column / 2 last, and two zeros for lanes of no use */
  float best[C1][S1 + 2] __attribute__((aligned(64)));
  int32_t where[C1][S1 + 2] __attribute__((aligned(64)));
  for (int i = 0; i < SIDE; i++)
    UNROLL for (int k = 0; k < 2 * C0; k++) {
      float *row = plane[k % C0][i][k / C0];
      UNROLL for (int j = 0; j < SIDE / 2; j++) row[j] = pixels[(i * SIDE + 2 * j) * C0 + k];
      row[SIDE / 2] = row[SIDE / 2 + 1] = 0;
    }
  for (int y = 0; y < S1; y++) {
    for (int block = 0; block < (int)(sizeof starts / sizeof *starts); block++)
      for (int first = 0; first < C1; first += TOGETHER) {
        vec sum[2][2][TOGETHER];
        UNROLL for (int o = 0; o < TOGETHER; o++)
          sum[0][0][o] = sum[0][1][o] = sum[1][0][o] = sum[1][1][o] = (vec){} + b1[first + o];
        for (int c = 0; c < C0; c++)
          for (int ky = 0; ky < K; ky++) {
            const float *w = w1 + first * W1 + ky * K * C0 + c;
            UNROLL for (int kx = 0; kx < K; kx++) {
              vec in[2][2];
              UNROLL for (int row = 0; row < 2; row++)
                UNROLL for (int odd = 0; odd < 2; odd++) {
                  const float *columns = plane[c][2 * y + ky + row][(kx + odd) % 2];
                  in[row][odd] = *(const vec *)(columns + starts[block] + (kx + odd) / 2);
                }
              UNROLL for (int o = 0; o < TOGETHER; o++)
                UNROLL for (int row = 0; row < 2; row++)
                  UNROLL for (int odd = 0; odd < 2; odd++)
                    sum[row][odd][o] += in[row][odd] * w[o * W1 + kx * C0];
            }
          }
        UNROLL for (int o = 0; o < TOGETHER; o++) {
          vec top = sum[0][0][o];
          mask place = {0};
          take_lanes(sum[0][1][o], (mask){} + C0, &top, &place);
          take_lanes(sum[1][0][o], (mask){} + SIDE * C0, &top, &place);
          take_lanes(sum[1][1][o], (mask){} + (SIDE * C0 + C0), &top, &place);
          *(vec *)(best[first + o] + starts[block]) = top;
          *(mask *)(where[first + o] + starts[block]) = place;
        }
      }
    for (int x = 0; x <= S1 - 8; x += S1 - 8) { /* pixels 0-7 and 6-13 */
      oct values[PAD] = {{0}}, places[PAD] = {{0}};
      UNROLL for (int o = 0; o < C1; o++) {
        oct value = *(const oct *)(best[o] + x);
        values[o] = (oct)(~(value < 0) & (oct_mask)value); /* ReLU; NaN stays */
        oct_mask window = (oct_mask){0, 1, 2, 3, 4, 5, 6, 7} * (2 * C0);
        window += (2 * y * SIDE + 2 * x) * C0;
        places[o] = (oct)(*(const oct_mask *)(where[o] + x) + window);
      }
      transpose(values);
      transpose(places);
      UNROLL for (int p = 0; p < 8; p++) *(oct *)(hidden + (y * S1 + x + p) * PAD) = values[p];
      if (source)
        UNROLL for (int p = 0; p < 8; p++)
          *(oct_short *)(source + (y * S1 + x + p) * PAD) =
              __builtin_convertvector((oct_mask)places[p], oct_short);
    }
  }
}

/* taps: w2 as [5][5][6][16] */
static void convolve2(const float *hidden, const float *taps, const float *b2, float *features,
                      int16_t *source) {
  float best[S2 * S2][C2];
  int32_t where[S2 * S2][C2];
  for (int y = 0; y < S2; y++)
    for (int x = 0; x < S2; x += POOLED) {
      vec sum[2][2 * POOLED][HALVES];
      UNROLL for (int row = 0; row < 2; row++)
        UNROLL for (int column = 0; column < 2 * POOLED; column++)
          UNROLL for (int h = 0; h < HALVES; h++)
            sum[row][column][h] = *(const vec *)(b2 + h * LANES);
      for (int ky = 0; ky < K; ky++)
        for (int kx = 0; kx < K; kx++) {
          const float *in = hidden + ((2 * y + ky) * S1 + 2 * x + kx) * PAD;
          const float *w = taps + (ky * K + kx) * C1 * C2;
          for (int c = 0; c < C1; c++)
            UNROLL for (int h = 0; h < HALVES; h++) {
              vec weight = *(const vec *)(w + c * C2 + h * LANES);
              UNROLL for (int row = 0; row < 2; row++)
                UNROLL for (int column = 0; column < 2 * POOLED; column++)
                  sum[row][column][h] += weight * in[(row * S1 + column) * PAD + c];
            }
        }
      UNROLL for (int p = 0; p < POOLED; p++) {
        float window[2][2][C2];
        UNROLL for (int row = 0; row < 2; row++)
          UNROLL for (int column = 0; column < 2; column++)
            UNROLL for (int h = 0; h < HALVES; h++)
              *(vec *)(window[row][column] + h * LANES) = sum[row][2 * p + column][h];
        for (int o = 0; o < C2; o++) {
          float top = window[0][0][o];
          int32_t place = 0;
          take(window[0][1][o], PAD, &top, &place);
          take(window[1][0][o], S1 * PAD, &top, &place);
          take(window[1][1][o], S1 * PAD + PAD, &top, &place);
          best[y * S2 + x + p][o] = relu(top);
          where[y * S2 + x + p][o] = place + (2 * y * S1 + 2 * (x + p)) * PAD;
        }
      }
    }
  for (int o = 0; o < C2; o++)
    for (int p = 0; p < S2 * S2; p++) {
      features[o * S2 * S2 + p] = best[p][o];
      if (source) source[o * S2 * S2 + p] = where[p][o];
    }
}

/* Gradients of one chunk; weights in rows that registers hold: of w1 five rows of 15 floats, as
 * floats 0-7 and 7-14. */
typedef struct {
  oct w1[C1][K][2], w2[C2][TAPS], b1;
  float b2[C2];
} gradients;

/* taps: w2 as [16][5][5][8] */
static void backward(const float *pixels, const float *hidden, const int16_t *source1,
                     const float *features, const int16_t *source2, const float *taps,
                     const float *grad_features, gradients *sum) {
  float grad_hidden[HIDDEN] __attribute__((aligned(32))) = {0};
  for (int o = 0; o < C2; o++) {
    oct own[TAPS];
    float bias = 0;
    UNROLL for (int k = 0; k < TAPS; k++) own[k] = sum->w2[o][k];
    for (int p = o * S2 * S2; p < (o + 1) * S2 * S2; p++) {
      if (!(features[p] > 0)) continue;
      float g = grad_features[p];
      const float *in = hidden + source2[p], *w = taps + o * TAPS * PAD;
      float *back = grad_hidden + source2[p];
      bias += g;
      UNROLL for (int k = 0; k < TAPS; k++) {
        int offset = (k / K * S1 + k % K) * PAD;
        own[k] += g * *(const oct *)(in + offset);
        *(oct *)(back + offset) += g * *(const oct *)(w + k * PAD);
      }
    }
    sum->b2[o] += bias;
    UNROLL for (int k = 0; k < TAPS; k++) sum->w2[o][k] = own[k];
  }
  for (int p = 0; p < HIDDEN; p += PAD) {
    oct g = *(oct *)(grad_hidden + p);
    oct_mask let_through = *(const oct *)(hidden + p) > 0;
    g = (oct)((oct_mask)g & let_through);
    *(oct *)(grad_hidden + p) = g;
    sum->b1 += g;
  }
  for (int o = 0; o < C1; o++) {
    oct own[K][2];
    UNROLL for (int k = 0; k < K; k++) own[k][0] = sum->w1[o][k][0], own[k][1] = sum->w1[o][k][1];
    for (int p = o; p < HIDDEN; p += PAD) {
      float g = grad_hidden[p];
      const float *in = pixels + source1[p];
      UNROLL for (int k = 0; k < K; k++) {
        own[k][0] += g * *(const oct *)(in + k * SIDE * C0);
        own[k][1] += g * *(const oct *)(in + k * SIDE * C0 + K * C0 - 8);
      }
    }
    UNROLL for (int k = 0; k < K; k++) sum->w1[o][k][0] = own[k][0], sum->w1[o][k][1] = own[k][1];
  }
}

/* Networks side by side: pixels[n] holds counts[n] pictures of network n, every other array `most`
 * pictures a network. source1 and source2 may be NULL. Returns 0, or 1 if memory ran out. */
int lenet_forward(int networks, int64_t most, const int64_t *counts, const float *const *pixels,
                  const float *w1, const float *b1, const float *w2, const float *b2, float *hidden,
                  int16_t *source1, float *features, int16_t *source2, int threads) {
  float(*taps)[W2 * C2] = malloc(networks * sizeof *taps);
  if (!taps) return 1;
  for (int n = 0; n < networks; n++)
    for (int o = 0; o < C2; o++)
      for (int k = 0; k < W2; k++) taps[n][k * C2 + o] = w2[(n * C2 + o) * W2 + k];
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t i = 0; i < networks * most; i++) {
    int64_t n = i / most, picture = i % most;
    float own[HIDDEN], *h = hidden ? hidden + i * HIDDEN : own;
    if (picture >= counts[n]) {
      memset(features + i * FEATURES, 0, FEATURES * sizeof(float));
      continue;
    }
    convolve1(pixels[n] + picture * PIXELS, w1 + n * C1 * W1, b1 + n * C1, h,
              source1 ? source1 + i * HIDDEN : NULL);
    convolve2(h, taps[n], b2 + n * C2, features + i * FEATURES,
              source2 ? source2 + i * FEATURES : NULL);
  }
  free(taps);
  return 0;
}

int lenet_backward(int networks, int64_t most, const int64_t *counts, const float *const *pixels,
                   const float *w2, const float *hidden, const int16_t *source1,
                   const float *features, const int16_t *source2, const float *grad_features,
                   float *grad_w1, float *grad_b1, float *grad_w2, float *grad_b2, int threads) {
  int64_t chunks = most ? (most + CHUNK - 1) / CHUNK : 1; /* a batch may be empty */
  float(*taps)[C2 * TAPS * PAD] = calloc(networks, sizeof *taps);
  gradients *sums = malloc(networks * chunks * sizeof *sums);
  if (!taps || !sums) {
    free(taps), free(sums);
    return 1;
  }
  for (int n = 0; n < networks; n++)
    for (int k = 0; k < C2 * TAPS; k++)
      memcpy(taps[n] + k * PAD, w2 + (n * C2 * TAPS + k) * C1, C1 * sizeof(float));
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t task = 0; task < networks * chunks; task++) {
    int64_t n = task / chunks, first = task % chunks * CHUNK;
    memset(sums + task, 0, sizeof *sums);
    for (int64_t picture = first; picture < counts[n] && picture < first + CHUNK; picture++) {
      int64_t i = n * most + picture;
      backward(pixels[n] + picture * PIXELS, hidden + i * HIDDEN, source1 + i * HIDDEN,
               features + i * FEATURES, source2 + i * FEATURES, taps[n],
               grad_features + i * FEATURES, sums + task);
    }
  }
  enum { N = sizeof *sums / sizeof(float) };
  for (int n = 0; n < networks; n++) {
    gradients *sum = sums + n * chunks;
    for (int64_t chunk = 1; chunk < chunks; chunk++)
      for (int i = 0; i < N; i++) ((float *)sum)[i] += ((const float *)(sum + chunk))[i];
    for (int row = 0; row < C1 * K; row++) {
      float *to = grad_w1 + (n * C1 * K + row) * K * C0;
      memcpy(to, &sum->w1[0][row][0], 8 * sizeof(float));
      memcpy(to + K * C0 - 8, &sum->w1[0][row][1], 8 * sizeof(float));
    }
    for (int k = 0; k < C2 * TAPS; k++)
      memcpy(grad_w2 + (n * C2 * TAPS + k) * C1, &sum->w2[0][k], C1 * sizeof(float));
    memcpy(grad_b1 + n * C1, &sum->b1, C1 * sizeof(float));
    memcpy(grad_b2 + n * C2, sum->b2, C2 * sizeof(float));
  }
  free(taps), free(sums);
  return 0;
}
