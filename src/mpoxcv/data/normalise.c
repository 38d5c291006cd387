/* Batches: pictures gathered, mirrored and normalised in one pass. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __x86_64__ /* compiled for each kind of processor; the loader of shared libraries chooses */
#define EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EACH_PROCESSOR
#endif

EACH_PROCESSOR static void normalise(const uint8_t *restrict row, const float *restrict shift,
                                     const float *restrict scale, int length, float *restrict out) {
  for (int j = 0; j < length; j++) out[j] = ((float)row[j] - shift[j]) / scale[j];
}

/* Write pictures chosen[n] of `pixels`, float [n][side][side][3]: (pixel - shift) / scale, with
 * shift and scale [side][3]. Bit 0 of mirrored[n] turns a picture left for right, bit 1 top for
 * bottom; NULL turns none. */
void batch(const uint8_t *pixels, const int64_t *chosen, const uint8_t *mirrored, int64_t n,
           int64_t side, const float *shift, const float *scale, float *out, int64_t threads) {
  int64_t length = 3 * side;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t picture = 0; picture < n; picture++) {
    const uint8_t *from = pixels + chosen[picture] * side * length;
    int how = mirrored ? mirrored[picture] : 0;
    for (int64_t i = 0; i < side; i++) {
      const uint8_t *row = from + (how & 2 ? side - 1 - i : i) * length;
      uint8_t turned[length];
      if (how & 1) {
        for (int64_t j = 0; j < side; j++) memcpy(turned + 3 * j, row + 3 * (side - 1 - j), 3);
        row = turned;
      }
      normalise(row, shift, scale, length, out + (picture * side + i) * length);
    }
  }
}
