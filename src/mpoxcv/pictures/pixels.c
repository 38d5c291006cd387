/* What is done to every picture's pixels: resizing and grey thumbnails to the same bytes as Pillow,
 * and its surface. Pictures are uint8 [height][width][3].
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __x86_64__ /* compiled for each kind of processor; the loader of shared libraries chooses */
#define EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EACH_PROCESSOR
#endif

enum { PRECISION = 22 }; /* bits after the point of a weight, as in Pillow (Resample.c) */
typedef int32_t quad __attribute__((vector_size(16), aligned(4), may_alias));

typedef struct {
  int taps, *first, *count; /* of each new pixel: first old pixel, and how many */
  int32_t *weight;          /* [size][taps] */
} filter;

/* Weights of the old pixels in each new one: those of a triangle (bilinear) or a box over what a
 * new pixel covers. */
static filter weights(int old, int size, int box) {
  double scale = (double)old / size, stretch = scale < 1 ? 1 : scale;
  double support = (box ? 0.5 : 1) * stretch;
  filter f = {.taps = (int)ceil(support) * 2 + 1};
  f.first = malloc(2 * size * sizeof(int));
  f.weight = calloc((size_t)size * f.taps, sizeof(int32_t));
  double *own = malloc(f.taps * sizeof(double));
  if (!f.first || !f.weight || !own) {
    free(f.first), free(f.weight), free(own);
    return (filter){0};
  }
  f.count = f.first + size;
  for (int i = 0; i < size; i++) {
    double centre = (i + 0.5) * scale, sum = 0;
    int first = (int)(centre - support + 0.5), end = (int)(centre + support + 0.5);
    first = first < 0 ? 0 : first;
    end = end > old ? old : end;
    for (int k = 0; k < end - first; k++) {
      double x = (k + first - centre + 0.5) * (1 / stretch);
      own[k] = box ? x > -0.5 && x <= 0.5 : fabs(x) < 1 ? 1 - fabs(x) : 0;
      sum += own[k];
    }
    for (int k = 0; k < end - first; k++) {
      double share = sum == 0 ? own[k] : own[k] / sum;
      f.weight[i * f.taps + k] = (int32_t)(0.5 + share * (1 << PRECISION));
    }
    f.first[i] = first;
    f.count[i] = end - first;
  }
  free(own);
  return f;
}

static inline int32_t rounded(int32_t sum) { return sum >> PRECISION; }

EACH_PROCESSOR static void across_colour(const uint8_t *restrict row, int width, const filter *f,
                                         int size, int32_t *restrict wide,
                                         uint8_t *restrict out) {
  for (size_t j = 0; j < 3 * (size_t)width; j++) wide[j] = row[j];
  for (int i = 0; i < size; i++) {
    const int32_t *from = wide + 3 * f->first[i], *weight = f->weight + i * f->taps;
    /* three colours, and a fourth number of no use */
    quad even = (quad){} + (1 << (PRECISION - 1)), odd = {};
    size_t n = f->count[i], k = 0;
    for (; k + 1 < n; k += 2) {
      even += *(const quad *)(from + 3 * k) * weight[k];
      odd += *(const quad *)(from + 3 * k + 3) * weight[k + 1];
    }
    if (k < n) even += *(const quad *)(from + 3 * k) * weight[k];
    even += odd;
    for (int c = 0; c < 3; c++) out[3 * i + c] = rounded(even[c]);
  }
}

EACH_PROCESSOR static void across_grey(const uint8_t *restrict row, const filter *f, int size,
                                       uint8_t *restrict out) {
  for (int i = 0; i < size; i++) {
    const uint8_t *from = row + f->first[i];
    const int32_t *weight = f->weight + i * f->taps;
    int32_t sum = 1 << (PRECISION - 1);
    for (size_t k = 0, n = f->count[i]; k < n; k++) sum += from[k] * weight[k];
    out[i] = rounded(sum);
  }
}

EACH_PROCESSOR static void down(const uint8_t *restrict rows, const filter *f, int i, int length,
                                int32_t *restrict sum, uint8_t *restrict out) {
  for (int j = 0; j < length; j++) sum[j] = 1 << (PRECISION - 1);
  for (int k = 0; k < f->count[i]; k++) {
    const uint8_t *row = rows + (size_t)(f->first[i] + k) * length;
    int32_t weight = f->weight[i * f->taps + k];
    for (int j = 0; j < length; j++) sum[j] += row[j] * weight;
  }
  for (int j = 0; j < length; j++) out[j] = rounded(sum[j]);
}

/* ITU-R 601-2 luma in Pillow's integers. */
EACH_PROCESSOR static void grey_of(const uint8_t *restrict row, int width, uint8_t *restrict out) {
  for (size_t j = 0; j < (size_t)width; j++)
    out[j] = (row[3 * j] * 19595 + row[3 * j + 1] * 38470 + row[3 * j + 2] * 7471 + 0x8000) >> 16;
}

/* Write [size][size][3] by the triangle or, grey, [size][size] by the box.
 * Returns 0, or 1 if memory ran out. */
int resize(const uint8_t *pixels, int height, int width, int size, int grey, uint8_t *out) {
  int channels = grey ? 1 : 3, length = size * channels;
  filter across = weights(width, size, grey), vertical = weights(height, size, grey);
  uint8_t *luma = malloc(width), *rows = malloc((size_t)height * length);
  int32_t *sum = malloc(length * sizeof *sum);
  int32_t *wide = malloc((3 * (size_t)width + 1) * sizeof *wide);
  int failed = !across.first || !vertical.first || !luma || !rows || !sum || !wide;
  for (int i = 0; i < height && !failed; i++) {
    const uint8_t *from = pixels + 3 * (size_t)width * i;
    if (grey) {
      grey_of(from, width, luma);
      across_grey(luma, &across, size, rows + (size_t)i * length);
    } else {
      across_colour(from, width, &across, size, wide, rows + (size_t)i * length);
    }
  }
  for (int i = 0; i < size && !failed; i++)
    down(rows, &vertical, i, length, sum, out + (size_t)i * length);
  free(across.first), free(across.weight), free(vertical.first), free(vertical.weight);
  free(luma), free(rows), free(sum), free(wide);
  return failed;
}

static void count(const uint8_t *pixels, int width, int top, int bottom, int left, int right,
                  int64_t *found) {
  for (int i = top; i < bottom; i++)
    for (int j = left; j < right; j++) {
      const uint8_t *p = pixels + 3 * ((size_t)width * i + j);
      /* all three: 16 is a power of two, and 240 has its four highest bits set */
      found[0] += (p[0] | p[1] | p[2]) < 16;
      found[1] += (p[0] & p[1] & p[2]) > 239;
    }
}

/* Count the dark and bright pixels of the four edges, `border` pixels wide, and sum every fourth
 * pixel of every fourth row: found[8] is dark, bright, the colours' sums, the sums of their
 * squares. */
void surface(const uint8_t *pixels, int height, int width, int border, int64_t *found) {
  int rows = border < height ? border : height, columns = border < width ? border : width;
  memset(found, 0, 8 * sizeof *found);
  count(pixels, width, 0, rows, 0, width, found);
  count(pixels, width, height - rows, height, 0, width, found);
  count(pixels, width, 0, height, 0, columns, found);
  count(pixels, width, 0, height, width - columns, width, found);
  for (int i = 0; i < height; i += 4)
    for (int j = 0; j < width; j += 4)
      for (int c = 0; c < 3; c++) {
        int64_t value = pixels[3 * ((size_t)width * i + j) + c];
        found[2 + c] += value;
        found[5 + c] += value * value;
      }
}
