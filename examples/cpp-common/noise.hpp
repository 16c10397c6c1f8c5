// Draw random latents, with the same bits in every language (docs/bundle-format.md, section 6).
// Compile with -ffp-contract=off: a fused multiply-add rounds once, the specification rounds twice.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace vae {

/// Read a seed, 0 to 2^64 - 1. std::stoull alone would read "-1" as 2^64 - 1, and "7x" as 7.
inline uint64_t parse_seed(const std::string& text) {
  try {
    if (!text.empty() && text.find_first_not_of("0123456789") == std::string::npos) return std::stoull(text);
  } catch (const std::out_of_range&) {
  }
  throw std::runtime_error("bad seed: " + text + "; expected 0 to 2^64 - 1");
}

/// Philox 4x32-10: encrypt a counter into four random 32-bit words (Salmon et al., SC'11).
inline std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, uint64_t seed) {
  uint32_t key[2] = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * counter[0], p1 = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(p1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(p0)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

namespace as241 {  // Wichura's coefficients, the highest power first

inline constexpr double A[] = {2509.0809287301226727, 33430.575583588128105, 67265.770927008700853,
                               45921.953931549871457, 13731.693765509461125, 1971.5909503065514427,
                               133.14166789178437745, 3.387132872796366608};
inline constexpr double B[] = {5226.495278852854561,  28729.085735721942674, 39307.89580009271061,
                               21213.794301586595867, 5394.1960214247511077, 687.1870074920579083,
                               42.313330701600911252, 1};
inline constexpr double C[] = {7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177,
                               1.27045825245236838258,   3.64784832476320460504,   5.7694972214606914055,
                               4.6303378461565452959,    1.42343711074968357734};
inline constexpr double D[] = {1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966,
                               0.14810397642748007459,    0.68976733498510000455,  1.6763848301838038494,
                               2.05319162663775882187,    1};

inline double horner(const double (&coefficients)[8], double r) {
  double t = coefficients[0];
  for (int i = 1; i < 8; ++i) t = t * r + coefficients[i];
  return t;
}

/// The natural logarithm. std::log would not do: no two libraries agree in the last bit.
inline double ln(double x) {
  int k = 0;
  for (; x < 0.7071067811865476; ++k) x *= 2;
  const double s = (x - 1) / (x + 1), z = s * s;
  double t = 1.0 / 23;
  for (int m = 21; m > 0; m -= 2) t = t * z + 1.0 / m;
  return 2 * s * t - k * 0.6931471805599453;
}

}  // namespace as241

/// Turn a 32-bit word into a standard normal number.
inline float normal(uint32_t word) {
  using namespace as241;
  const double p = (word + 0.5) / 4294967296.0, q = p - 0.5;
  if (std::fabs(q) <= 0.425) {
    const double r = 0.180625 - q * q;
    return static_cast<float>(q * horner(A, r) / horner(B, r));
  }
  const double r = std::sqrt(-ln(q < 0 ? p : 1 - p)) - 1.6;
  const double x = horner(C, r) / horner(D, r);
  return static_cast<float>(q < 0 ? -x : x);
}

/// Return the transform of `count` random words of a seed, after skipping `first`.
template <class Number, class Transform>
std::vector<Number> transformed(std::size_t count, uint64_t first, uint64_t seed, Transform transform) {
  std::vector<Number> numbers(count);
  std::array<uint32_t, 4> words{};
  for (std::size_t i = 0; i < count; ++i) {
    const uint64_t index = first + i, block = index / 4;
    if (i == 0 || index % 4 == 0)
      words = philox({static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), 0, 0}, seed);
    numbers[i] = transform(words[index % 4]);
  }
  return numbers;
}

/// Draw n latents of `size` numbers each from N(0, I), after skipping `start` latents of this seed.
inline std::vector<float> sample(std::size_t n, std::size_t size, uint64_t seed, uint64_t start = 0) {
  return transformed<float>(n * size, start * size, seed, normal);
}

/// Draw n rows of `size` codes from 0 to count - 1, each equally likely.
inline std::vector<int64_t> sample_codes(std::size_t n, std::size_t size, uint64_t count, uint64_t seed) {
  return transformed<int64_t>(n * size, 0, seed, [count](uint32_t word) { return int64_t(word * count >> 32); });
}

}  // namespace vae
