// Test whether an engine computes the right pixels on this machine (docs/bundle-format.md, sections 4 and 5).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <iomanip>
#include <limits>
#include <optional>
#include <ostream>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "bundle.hpp"
#include "noise.hpp"

namespace vae {

/// The lowest and the highest value of a pixel.
using Range = std::pair<double, double>;

/// Return the byte that shows a pixel.
inline int to_level(double pixel, Range range) {
  const double scaled = (pixel - range.first) / (range.second - range.first) * 255;
  return static_cast<int>(std::clamp(std::floor(scaled + 0.5), 0.0, 255.0));
}

/// How one output of an engine compares with its golden array.
struct Comparison {
  std::string part, output;
  double error = 0, tolerance = 0;
  bool is_image = false;
  int differing = 0, unexplained = 0;

  bool passed() const { return error <= tolerance && unexplained == 0; }
};

inline std::ostream& operator<<(std::ostream& out, const Comparison& comparison) {
  out << comparison.part << ' ' << comparison.output << ": worst error " << std::scientific << std::setprecision(2)
      << comparison.error << ", " << comparison.tolerance << " allowed" << std::defaultfloat;
  if (comparison.is_image)
    out << ", " << comparison.differing << " pixels differ, " << comparison.unexplained << " unexplained";
  return out;
}

/// Return the largest error that a model file of this precision may have in a golden output; 0 if none is stated.
inline double tolerance_of(const nlohmann::json& output, const std::string& precision) {
  if (precision == "fp32") return output.at("band");
  return output.value("bands", nlohmann::json::object()).value(precision, 0.0);
}

inline Comparison compare(const Tensor& got, const Tensor& expected, double tolerance, std::optional<Range> range) {
  if (got.shape != expected.shape || got.size() != expected.size()) throw std::runtime_error("wrong shape");
  Comparison comparison;
  comparison.tolerance = tolerance;
  if (!expected.is_float()) {  // the error is the number of integers that differ
    if (got.data.index() != expected.data.index()) throw std::runtime_error("wrong dtype");
    comparison.error = std::visit(
        [&](const auto& numbers) {
          const auto& found = std::get<std::decay_t<decltype(numbers)>>(got.data);
          double differing = 0;
          for (std::size_t i = 0; i < numbers.size(); ++i) differing += numbers[i] != found[i];
          return differing;
        },
        expected.data);
    return comparison;
  }
  comparison.is_image = range.has_value();
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double g = got.floats()[i], e = expected.floats()[i];
    if (!std::isfinite(g)) {
      comparison.error = std::numeric_limits<double>::infinity();
      continue;
    }
    comparison.error = std::max(comparison.error, std::fabs(g - e));
    if (!range) continue;
    const int level = to_level(g, *range);
    comparison.differing += level != to_level(e, *range);
    // A pixel at the boundary between two levels may get either of them.
    comparison.unexplained += level < to_level(e - tolerance, *range) || level > to_level(e + tolerance, *range);
  }
  return comparison;
}

/// Return codes as integers of their dtype.
inline Data codes_as(const std::string& dtype, const std::vector<int64_t>& codes) {
  if (dtype == "int32") return std::vector<int32_t>(codes.begin(), codes.end());
  return codes;
}

/// Computes one part: takes its inputs by name, returns its outputs by name.
using Run = std::function<Tensors(const std::string& part, const Tensors& inputs)>;

/// Run the golden vectors of `parts` and compare every output. Parts that the bundle lacks in this format are left out.
inline std::vector<Comparison> self_test(const Bundle& bundle, const std::vector<std::string>& parts,
                                        const std::string& format, const Run& run) {
  std::vector<Comparison> comparisons;
  for (const auto& golden : bundle.manifest().at("golden")) {
    const std::string part = golden.at("part");
    if (std::find(parts.begin(), parts.end(), part) == parts.end()) continue;
    const auto* entry = bundle.find_model(part, format);
    if (!entry) continue;
    Tensors inputs;
    for (const auto& array : golden.at("inputs")) inputs[array.at("tensor")] = bundle.golden(array);
    const Tensors outputs = run(part, inputs);
    for (const auto& expected : golden.at("outputs")) {
      const std::string name = expected.at("tensor");
      std::optional<Range> range;
      for (const auto& output : entry->at("outputs"))
        if (output.at("name") == name && !output.at("range").is_null()) range = output.at("range").get<Range>();
      const double tolerance = tolerance_of(expected, precision_of(*entry));
      comparisons.push_back(compare(outputs.at(name), bundle.golden(expected), tolerance, range));
      comparisons.back().part = part;
      comparisons.back().output = name;
    }
  }
  return comparisons;
}

/// Return how many golden latents are drawn here bit for bit, and how many there are: from row 2 on they are drawn.
inline std::pair<std::size_t, std::size_t> check_noise(const Bundle& bundle) {
  const Contract& contract = bundle.contract();
  const Tensors inputs = bundle.golden_inputs("decoder");
  std::size_t same = 0, total = 0;
  uint64_t seed = 0;
  for (const auto& latent : contract.latents) {
    const auto found = inputs.find(latent.at("name"));
    if (found == inputs.end()) return {0, 0};
    const std::size_t rows = found->second.shape[0], size = found->second.size() / rows, drawn = rows > 2 ? rows - 2 : 0;
    const Data noise = contract.has_codes() ? codes_as(latent.at("dtype"), sample_codes(drawn, size, contract.codes(latent), seed))
                                            : Data(sample(drawn, size, seed));
    std::visit(
        [&](const auto& numbers) {
          const auto& golden = std::get<std::decay_t<decltype(numbers)>>(found->second.data);
          for (std::size_t row = 0; row < drawn; ++row)
            same += !std::memcmp(&numbers[row * size], &golden[(row + 2) * size], size * sizeof(numbers[0]));
        },
        noise);
    total += drawn;
    seed += 2;
  }
  return {same, total};
}

}  // namespace vae
