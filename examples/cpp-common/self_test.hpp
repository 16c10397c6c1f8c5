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
#include <utility>
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
  if (got.shape != expected.shape || got.data.size() != expected.data.size()) throw std::runtime_error("wrong shape");
  Comparison comparison;
  comparison.tolerance = tolerance;
  comparison.is_image = range.has_value();
  for (std::size_t i = 0; i < expected.data.size(); ++i) {
    const double g = got.data[i], e = expected.data[i];
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

/// Return how many golden latents `sample` reproduces bit for bit, and how many there are: from row 2 on, seed 0.
inline std::pair<std::size_t, std::size_t> check_noise(const Bundle& bundle) {
  for (const auto& golden : bundle.manifest().at("golden")) {
    const std::string part = golden.at("part");
    if (std::find(known_parts.begin(), known_parts.end(), part) == known_parts.end()) continue;
    for (const auto& array : golden.at("inputs")) {
      if (array.at("tensor") != "latent") continue;
      const Tensor latents = bundle.golden(array);
      const std::size_t rows = latents.shape[0] - 2, size = latents.data.size() / latents.shape[0];
      const std::vector<float> drawn = sample(rows, size, 0);
      std::size_t same = 0;
      for (std::size_t row = 0; row < rows; ++row)
        same += !std::memcmp(&drawn[row * size], &latents.data[(row + 2) * size], size * sizeof(float));
      return {same, rows};
    }
  }
  return {0, 0};
}

}  // namespace vae
