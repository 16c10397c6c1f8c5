// Random latents, with the same bits in every language (section 6 of the specification).
//
// A fused multiply-add rounds once where the specification rounds twice, and changes the bits of two words. The pragmas
// below keep compilers from contracting these functions, whatever they are told elsewhere.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "errors.hpp"

namespace vae {

/// Read a seed, 0 to 2^64 - 1. std::stoull alone would read "-1" as 2^64 - 1, and "7x" as 7.
inline uint64_t parse_seed(const std::string& text) {
  try {
    if (!text.empty() && text.find_first_not_of("0123456789") == std::string::npos) return std::stoull(text);
  } catch (const std::out_of_range&) {
  }
  throw InputError("bad seed: " + printable(text) + "; expected 0 to 2^64 - 1");
}

#if defined(__clang__)
#pragma clang fp contract(off)
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#elif defined(_MSC_VER)
#pragma fp_contract(off)
#endif

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
inline constexpr double B[] = {
    5226.495278852854561,  28729.085735721942674, 39307.89580009271061,  21213.794301586595867,
    5394.1960214247511077, 687.1870074920579083,  42.313330701600911252, 1};
inline constexpr double C[] = {7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177,
                               1.27045825245236838258,   3.64784832476320460504,   5.7694972214606914055,
                               4.6303378461565452959,    1.42343711074968357734};
inline constexpr double D[] = {
    1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.14810397642748007459,
    0.68976733498510000455,    1.6763848301838038494,   2.05319162663775882187,   1};

inline double horner(const double (&coefficients)[8], double r) {
  double t = coefficients[0];
  for (int i = 1; i < 8; ++i) t = t * r + coefficients[i];
  return t;
}

inline constexpr double inverse[] = {1.0 / 23, 1.0 / 21, 1.0 / 19, 1.0 / 17, 1.0 / 15, 1.0 / 13,
                                     1.0 / 11, 1.0 / 9,  1.0 / 7,  1.0 / 5,  1.0 / 3,  1.0};

/// The natural logarithm for 2^-33 <= x < 1. std::log would not do: no two libraries agree in the last bit.
inline double ln(double x) {
  int exponent = 0;
  x = std::frexp(x, &exponent);  // x is in [0.5, 1), and so doubled at most once more
  if (x < 0.7071067811865476) {
    x *= 2;
    --exponent;
  }
  const double s = (x - 1) / (x + 1), z = s * s;
  double t = inverse[0];
  for (int i = 1; i < 12; ++i) t = t * z + inverse[i];
  return (2 * s) * t - -exponent * 0.6931471805599453;
}

inline double probability(uint32_t word) { return (word + 0.5) / 4294967296.0; }

inline bool is_central(double q) { return std::fabs(q) <= 0.425; }

inline double central(double q) {
  const double r = 0.180625 - q * q;
  return (q * horner(A, r)) / horner(B, r);
}

inline double tail(double p, double q) {
  const double r = std::sqrt(-ln(q < 0 ? p : 1 - p)) - 1.6;
  const double x = horner(C, r) / horner(D, r);
  return q < 0 ? -x : x;
}

}  // namespace as241

/// Turn a 32-bit word into a standard normal number.
inline float normal(uint32_t word) {
  const double p = as241::probability(word), q = p - 0.5;
  return static_cast<float>(as241::is_central(q) ? as241::central(q) : as241::tail(p, q));
}

namespace detail {

inline constexpr std::size_t chunk = 1024;  // words at a time

/// Write the normal number of each word: first as if all were central, which compilers turn into vector instructions.
inline void write_normals(const std::array<uint32_t, chunk + 4>& words, std::size_t skipped, std::size_t count,
                          float* numbers) {
  for (std::size_t i = 0; i < count; ++i)
    numbers[i] = static_cast<float>(as241::central(as241::probability(words[skipped + i]) - 0.5));
  for (std::size_t i = 0; i < count; ++i) {
    const double p = as241::probability(words[skipped + i]), q = p - 0.5;
    if (!as241::is_central(q)) numbers[i] = static_cast<float>(as241::tail(p, q));
  }
}

}  // namespace detail

#if defined(__clang__)
#pragma clang fp contract(on)
#elif defined(__GNUC__)
#pragma GCC pop_options
#elif defined(_MSC_VER)
#pragma fp_contract(on)
#endif

namespace detail {

/// Pass `count` words of a seed from word `first` on to `use(words, skipped, length, begin)`, a chunk at a time.
template <class Use>
void for_each_chunk(uint64_t first, std::size_t count, uint64_t seed, Use use) {
  std::array<uint32_t, chunk + 4> words;
  for (std::size_t begin = 0; begin < count; begin += chunk) {
    const std::size_t length = std::min(chunk, count - begin), skipped = (first + begin) % 4;
    uint64_t block = (first + begin) / 4;
    for (std::size_t at = 0; at < skipped + length; at += 4, ++block) {
      const auto four = philox({static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), 0, 0}, seed);
      std::copy(four.begin(), four.end(), words.begin() + static_cast<std::ptrdiff_t>(at));
    }
    use(words, skipped, length, begin);
  }
}

/// Return the index of the first word of row `start`; throws InputError for rows beyond 2^64 words.
inline uint64_t first_word(std::size_t n, std::size_t size, uint64_t start) {
  constexpr uint64_t most = std::numeric_limits<uint64_t>::max();
  if (size != 0 && (n > most / size || start > (most - n * size) / size))
    throw InputError("bad number of latents: " + std::to_string(n) + " after " + std::to_string(start));
  return start * size;
}

}  // namespace detail

/// Draw n latents of `size` numbers each from N(0, I), row-major, after skipping `start` latents of this seed.
inline std::vector<float> sample(std::size_t n, std::size_t size, uint64_t seed = 0, uint64_t start = 0) {
  const uint64_t first = detail::first_word(n, size, start);
  std::vector<float> numbers(n * size);
  detail::for_each_chunk(first, numbers.size(), seed,
                         [&](const auto& words, std::size_t skipped, std::size_t length, std::size_t begin) {
                           detail::write_normals(words, skipped, length, numbers.data() + begin);
                         });
  return numbers;
}

/// Draw n rows of `size` codes from 0 to count - 1, each equally likely; `count` is 1 to 2^32.
inline std::vector<int64_t> sample_codes(std::size_t n, std::size_t size, uint64_t count, uint64_t seed = 0,
                                         uint64_t start = 0) {
  if (count < 1 || count > uint64_t{1} << 32)
    throw InputError(describe("bad number of codes", {}, "1 to 2^32", std::to_string(count)));
  const uint64_t first = detail::first_word(n, size, start);
  std::vector<int64_t> codes(n * size);
  detail::for_each_chunk(first, codes.size(), seed,
                         [&](const auto& words, std::size_t skipped, std::size_t length, std::size_t begin) {
                           for (std::size_t i = 0; i < length; ++i)
                             codes[begin + i] = static_cast<int64_t>(words[skipped + i] * count >> 32);
                         });
  return codes;
}

}  // namespace vae
