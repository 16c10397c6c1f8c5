/* The most that one thread of this processor can do: fused multiply-adds in registers, and reads of memory.
 * `vae_export.bench.kernels` compiles this file where there is a C compiler. */
#include <stddef.h>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
#define LANES (VECTOR_BYTES / sizeof(float))
/* Independent sums, more than latency times units of any processor needs, and few enough for its registers. */
#define CHAINS 12

typedef float vector __attribute__((vector_size(VECTOR_BYTES)));
typedef float unaligned_vector __attribute__((vector_size(VECTOR_BYTES), aligned(4)));

static float total(const vector *sums) {
  vector all = sums[0];
  for (int i = 1; i < CHAINS; i++) all += sums[i];
  float sum = 0;
  for (size_t lane = 0; lane < LANES; lane++) sum += all[lane];
  return sum;
}

/* Return the number of additions and multiplications of one round of `multiply_add`. */
size_t operations_per_round(void) { return 2 * CHAINS * LANES; }

/* Compute `rounds` fused multiply-adds in each chain. The result depends on all of them. */
float multiply_add(size_t rounds, float factor) {
  vector by = {0}, sums[CHAINS];
  by += factor;
  for (int i = 0; i < CHAINS; i++) sums[i] = by * (float)i;
  for (size_t round = 0; round < rounds; round++)
    for (int i = 0; i < CHAINS; i++) sums[i] = sums[i] * by + by;
  return total(sums);
}

/* Read `count` floats, each once; the few behind the last whole block are not read. */
float read_all(const float *values, size_t count) {
  vector sums[CHAINS] = {{0}};
  for (size_t at = 0; at + CHAINS * LANES <= count; at += CHAINS * LANES)
    for (int i = 0; i < CHAINS; i++) sums[i] += *(const unaligned_vector *)(values + at + i * LANES);
  return total(sums);
}
