// Does this engine, on this machine, compute the right pixels? docs/bundle-format.md, sections 4 and 5.
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

/// Lowest and highest value of a pixel.
using Range = std::pair<double, double>;

/// The byte to show for a pixel.
inline int level(double pixel, Range range) {
  const double scaled = (pixel - range.first) / (range.second - range.first) * 255;
  return static_cast<int>(std::clamp(std::floor(scaled + 0.5), 0.0, 255.0));
}

/// How one output compares with what it should be.
struct Judgement {
  std::string part, output;
  double error = 0, band = 0;
  bool image = false;
  int differing = 0, unexplained = 0;

  bool passed() const { return error <= band && unexplained == 0; }
};

inline std::ostream& operator<<(std::ostream& out, const Judgement& judgement) {
  out << judgement.part << ' ' << judgement.output << ": worst error " << std::scientific << std::setprecision(2)
      << judgement.error << ", " << judgement.band << " allowed" << std::defaultfloat;
  if (judgement.image) out << ", " << judgement.differing << " pixels differ, " << judgement.unexplained << " unexplained";
  return out;
}

/// The largest error of a golden output that a file of this precision may have; none where nothing is said of it.
inline double allowed(const nlohmann::json& output, const std::string& precision) {
  if (precision == "fp32") return output.at("band");
  return output.value("bands", nlohmann::json::object()).value(precision, 0.0);
}

inline Judgement judge(const Tensor& got, const Tensor& exact, double band, std::optional<Range> range) {
  if (got.shape != exact.shape || got.data.size() != exact.data.size()) throw std::runtime_error("wrong shape");
  Judgement judgement;
  judgement.band = band;
  judgement.image = range.has_value();
  for (std::size_t i = 0; i < exact.data.size(); ++i) {
    const double g = got.data[i], e = exact.data[i];
    if (!std::isfinite(g)) {
      judgement.error = std::numeric_limits<double>::infinity();
      continue;
    }
    judgement.error = std::max(judgement.error, std::fabs(g - e));
    if (!range) continue;
    const int seen = level(g, *range);
    judgement.differing += seen != level(e, *range);
    // A pixel on the boundary between two levels may fall on either side.
    judgement.unexplained += seen < level(e - band, *range) || seen > level(e + band, *range);
  }
  return judgement;
}

/// Runs a part: inputs by name → outputs by name.
using Run = std::function<Tensors(const std::string& part, const Tensors& inputs)>;

/// A judgement for each output of each of `parts`, as far as the bundle has it in this format.
inline std::vector<Judgement> self_test(const Bundle& bundle, const std::vector<std::string>& parts,
                                        const std::string& format, const Run& run) {
  std::vector<Judgement> judgements;
  for (const auto& golden : bundle.manifest().at("golden")) {
    const std::string part = golden.at("part");
    if (std::find(parts.begin(), parts.end(), part) == parts.end()) continue;
    const auto* entry = bundle.find(part, format);
    if (!entry) continue;
    Tensors inputs;
    for (const auto& array : golden.at("inputs")) inputs[array.at("tensor")] = bundle.golden(array);
    const Tensors outputs = run(part, inputs);
    for (const auto& expected : golden.at("outputs")) {
      const std::string name = expected.at("tensor");
      std::optional<Range> range;
      for (const auto& output : entry->at("outputs"))
        if (output.at("name") == name && !output.at("range").is_null()) range = output.at("range").get<Range>();
      const double band = allowed(expected, precision_of(*entry));
      judgements.push_back(judge(outputs.at(name), bundle.golden(expected), band, range));
      judgements.back().part = part;
      judgements.back().output = name;
    }
  }
  return judgements;
}

/// How many golden latents `sample` gives bit for bit, and of how many: rows 2 and up are `sample(n - 2, seed 0)`.
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
