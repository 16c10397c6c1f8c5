// Arrays of numbers with their shapes.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "errors.hpp"

namespace vae {

/// The numbers of a tensor: float32, integers for codes and classes, or the bytes of pixels.
using Numbers = std::variant<std::vector<float>, std::vector<int32_t>, std::vector<int64_t>, std::vector<uint8_t>>;

/// The types of numbers, in the order of `Numbers`.
enum class Dtype : std::size_t { float32, int32, int64, uint8 };
inline constexpr std::array<std::string_view, 4> dtype_names = {"float32", "int32", "int64", "uint8"};
inline constexpr std::array<int64_t, 4> dtype_sizes = {4, 4, 8, 1};

inline std::string to_string(Dtype dtype) { return std::string(dtype_names[static_cast<std::size_t>(dtype)]); }
inline int64_t size_of(Dtype dtype) { return dtype_sizes[static_cast<std::size_t>(dtype)]; }

/// Return the type of this name, or nothing.
inline std::optional<Dtype> dtype_of(std::string_view name) {
  const auto found = std::find(dtype_names.begin(), dtype_names.end(), name);
  if (found == dtype_names.end()) return std::nullopt;
  return static_cast<Dtype>(found - dtype_names.begin());
}

using Shape = std::vector<int64_t>;

/// Sizes and numbers of numbers are below this, and so can be computed in float64 without overflow.
inline constexpr double most_numbers = 9007199254740992.0;

/// Return how many numbers a shape has; throws InputError for a size below 0, and for more than memory can hold.
inline std::size_t count_of(const Shape& shape) {
  double count = 1;
  for (const int64_t size : shape) count = size < 0 ? most_numbers : count * static_cast<double>(size);
  if (count >= most_numbers) throw InputError("shape has a size below 0, or too many numbers");
  return static_cast<std::size_t>(count);
}

inline std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (std::size_t axis = 0; axis < shape.size(); ++axis) text += (axis == 0 ? "" : ", ") + std::to_string(shape[axis]);
  return text + "]";
}

/// Numbers in row-major order; the first dimension is the batch.
struct Tensor {
  Numbers data;
  Shape shape;

  Dtype dtype() const { return static_cast<Dtype>(data.index()); }
  std::size_t size() const {
    return std::visit([](const auto& numbers) { return numbers.size(); }, data);
  }
  int64_t rows() const { return shape.empty() ? 0 : shape.front(); }
  /// Return the numbers, which must be of this type: `tensor.as<float>()`.
  template <class Number>
  const std::vector<Number>& as() const {
    if (const auto* numbers = std::get_if<std::vector<Number>>(&data)) return *numbers;
    throw InputError(describe("tensor has another type", {}, {}, to_string(dtype())));
  }
  template <class Number>
  std::vector<Number>& as() {
    return const_cast<std::vector<Number>&>(std::as_const(*this).as<Number>());
  }
};

/// Tensors by name.
using Tensors = std::map<std::string, Tensor>;

/// Return an array of zeros.
inline Numbers zeros(Dtype dtype, std::size_t count) {
  switch (dtype) {
    case Dtype::int32:
      return std::vector<int32_t>(count);
    case Dtype::int64:
      return std::vector<int64_t>(count);
    case Dtype::uint8:
      return std::vector<uint8_t>(count);
    case Dtype::float32:
      break;
  }
  return std::vector<float>(count);
}

/// Return `count` rows of a tensor from `start` on, from its beginning again after its last row.
inline Tensor take_rows(const Tensor& tensor, int64_t start, int64_t count) {
  Tensor taken{zeros(tensor.dtype(), 0), tensor.shape};
  taken.shape.front() = count;
  const auto size = static_cast<std::ptrdiff_t>(tensor.size()) / tensor.rows();
  std::visit(
      [&](auto& numbers) {
        const auto& all = std::get<std::decay_t<decltype(numbers)>>(tensor.data);
        numbers.reserve(static_cast<std::size_t>(count * size));
        for (int64_t row = start; row < start + count; ++row) {
          const auto first = all.begin() + row % tensor.rows() * size;
          numbers.insert(numbers.end(), first, first + size);
        }
      },
      taken.data);
  return taken;
}

/// Append the rows of a tensor to another of its type.
inline void append_rows(Tensor& tensor, const Tensor& more) {
  std::visit(
      [&](auto& numbers) {
        const auto& added = std::get<std::decay_t<decltype(numbers)>>(more.data);
        numbers.insert(numbers.end(), added.begin(), added.end());
      },
      tensor.data);
  tensor.shape.front() += more.rows();
}

}  // namespace vae
