// Latents and codes that are drawn from the prior of a contract (section 6 of the specification).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "contract.hpp"
#include "errors.hpp"
#include "noise.hpp"
#include "tensor.hpp"

namespace vae {

/// Which latents are drawn. Equal seeds give equal bits in every language and on every machine.
struct Draw {
  uint64_t seed = 0;
  uint64_t start = 0;  // how many latents of the seed to skip
  Sizes sizes = {};    // values of the contract's symbols; others have their usual value
};

namespace detail {

/// Return codes as integers of a type, and floats as they are.
template <class Number>
Numbers numbers_as(Dtype dtype, std::vector<Number> numbers) {
  if constexpr (std::is_same_v<Number, int64_t>)
    if (dtype == Dtype::int32) return std::vector<int32_t>(numbers.begin(), numbers.end());
  return numbers;
}

/// Draw n rows of a size from the prior, in one array.
inline Numbers draw_rows(const Contract& contract, Dtype dtype, std::size_t n, std::size_t size, uint64_t seed,
                         uint64_t start) {
  if (contract.has_codes()) return numbers_as(dtype, sample_codes(n, size, contract.codes(), seed, start));
  return sample(n, size, seed, start);
}

}  // namespace detail

/// Draw n rows of latents or codes from the prior, by name. Several latents share one row.
inline Tensors draw_prior(const Contract& contract, int64_t n, const Draw& draw = {}) {
  if (contract.prior == Prior::given_by_the_user)
    throw InputError(describe("prior is not in the bundle", {}, "standard normal or uniform", "given by the user"));
  if (n < 1) throw InputError(describe("bad number of samples", {}, "1 and up", std::to_string(n)));
  Tensors latents;
  std::size_t width = 0, offset = 0;
  for (const TensorSpec& latent : contract.latents) width += count_of(contract.sizes_at(latent, draw.sizes));
  if (count_of({n, static_cast<int64_t>(width)}) == 0) throw InputError("latents have no numbers");
  const Dtype dtype = contract.latents.front().dtype;
  const Tensor rows{detail::draw_rows(contract, dtype, static_cast<std::size_t>(n), width, draw.seed, draw.start),
                    {n, static_cast<int64_t>(width)}};
  for (const TensorSpec& latent : contract.latents) {
    Shape shape = contract.sizes_at(latent, draw.sizes);
    const std::size_t length = count_of(shape);
    shape.insert(shape.begin(), n);
    Tensor& part = latents[latent.name] = {zeros(dtype, count_of(shape)), shape};
    std::visit(
        [&](auto& numbers) {
          const auto& all = std::get<std::decay_t<decltype(numbers)>>(rows.data);
          for (std::size_t row = 0; row < static_cast<std::size_t>(n); ++row)
            std::copy_n(all.begin() + static_cast<std::ptrdiff_t>(row * width + offset), length,
                        numbers.begin() + static_cast<std::ptrdiff_t>(row * length));
        },
        part.data);
    offset += length;
  }
  return latents;
}

}  // namespace vae
