// The self-test (section 5 of the specification): golden inputs with the outputs that they must give.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <ostream>
#include <sstream>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "bundle.hpp"
#include "contract.hpp"
#include "manifest.hpp"
#include "pixels.hpp"
#include "prior.hpp"
#include "tensor.hpp"

namespace vae {

/// How one output of an engine compares with its golden array. For integers, `error` and `tolerance` are numbers of
/// those that differ, and for bytes they are in levels. `error` is infinite if the shape differs or a number is not
/// finite.
struct Comparison {
  Part part;
  std::string tensor;
  double error = 0, tolerance = 0;
  bool has_pixels = false;
  std::size_t differing = 0;    // pixels of another level than expected
  std::size_t unexplained = 0;  // pixels whose level no value within the tolerance has

  bool passed() const { return error <= tolerance && unexplained == 0; }
};

/// How many golden latents are drawn bit for bit here, and how many there are.
struct NoiseCheck {
  std::size_t same = 0, total = 0;
};

struct SelfTest {
  std::vector<Comparison> outputs;
  NoiseCheck noise;

  bool passed() const {
    return !outputs.empty() && noise.same == noise.total &&
           std::all_of(outputs.begin(), outputs.end(), [](const Comparison& output) { return output.passed(); });
  }
};

inline std::ostream& operator<<(std::ostream& out, const Comparison& comparison) {
  std::ostringstream text;
  text.precision(2);
  text << std::scientific << to_string(comparison.part) << ' ' << comparison.tensor << ": worst error "
       << comparison.error << ", " << comparison.tolerance << " allowed";
  if (comparison.has_pixels)
    text << ", " << comparison.differing << " pixels differ, " << comparison.unexplained << " unexplained";
  return out << text.str();
}

/// Write a line for the noise, one for each output, and the verdict: "pass" or "FAIL".
inline std::ostream& operator<<(std::ostream& out, const SelfTest& test) {
  out << "noise: " << test.noise.same << " of " << test.noise.total << " golden latents bit for bit\n";
  for (const Comparison& output : test.outputs) out << output << '\n';
  return out << (test.passed() ? "pass\n" : "FAIL\n");
}

/// Compare one output of an engine, which is no byte, with its golden array.
inline Comparison compare(const Tensor& got, const Tensor& expected, double tolerance,
                          const std::optional<Range>& range) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  Comparison comparison{};
  comparison.tolerance = tolerance;
  comparison.has_pixels = range.has_value() && expected.dtype() == Dtype::float32;
  if (got.shape != expected.shape || got.dtype() != expected.dtype()) {
    comparison.error = infinity;
    return comparison;
  }
  if (expected.dtype() != Dtype::float32) {
    std::visit(
        [&](const auto& numbers) {
          const auto& found = std::get<std::decay_t<decltype(numbers)>>(got.data);
          for (std::size_t i = 0; i < numbers.size(); ++i) comparison.error += numbers[i] != found[i] ? 1 : 0;
        },
        expected.data);
    return comparison;
  }
  const std::vector<float>&found = got.as<float>(), &wanted = expected.as<float>();
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const double g = found[i], e = wanted[i];
    if (!std::isfinite(g)) {
      comparison.error = infinity;
      if (range) ++comparison.unexplained;
      continue;
    }
    comparison.error = std::max(comparison.error, std::fabs(g - e));
    if (!range) continue;
    const int level = to_level(g, *range);
    comparison.differing += level != to_level(e, *range) ? 1u : 0u;
    comparison.unexplained +=
        level < to_level(e - tolerance, *range) || level > to_level(e + tolerance, *range) ? 1u : 0u;
  }
  return comparison;
}

/// Compare the pixels of a decoder that gives bytes with the golden image. Error and tolerance are in levels.
inline Comparison compare_bytes(const Tensor& got, const Tensor& expected, double tolerance, const Range& range,
                                Layout layout) {
  Comparison comparison{};
  comparison.has_pixels = true;
  comparison.tolerance = tolerance / (range.high - range.low) * 255;
  const Tensor first = layout == Layout::hwc && got.shape.size() == 4 ? to_layout(got, Layout::chw) : got;
  if (first.shape != expected.shape) {
    comparison.error = std::numeric_limits<double>::infinity();
    return comparison;
  }
  const std::vector<uint8_t>& bytes = first.as<uint8_t>();
  const std::vector<float>& wanted = expected.as<float>();
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const int byte = bytes[i];
    const double e = wanted[i], exact = std::clamp((e - range.low) / (range.high - range.low) * 255, 0.0, 255.0);
    comparison.differing += byte != to_level(e, range) ? 1u : 0u;
    comparison.unexplained += byte < to_level(e - tolerance, range) || byte > to_level(e + tolerance, range) ? 1u : 0u;
    comparison.error = std::max(comparison.error, std::fabs(byte - exact) - 0.5);
  }
  return comparison;
}

/// Compare the golden latents with those that are drawn here: from row 2 on, each tensor has a seed of its own.
inline NoiseCheck check_noise(const Bundle& bundle) {
  NoiseCheck noise;
  const Contract& contract = bundle.contract();
  const Tensors inputs = bundle.golden_inputs(Part::decoder);
  uint64_t seed = 0;
  for (const TensorSpec& latent : contract.latents) {
    const auto found = inputs.find(latent.name);
    if (found == inputs.end()) return noise;
    const auto rows = static_cast<std::size_t>(found->second.rows()), size = found->second.size() / rows;
    const std::size_t drawn = rows > 2 ? rows - 2 : 0;
    std::visit(
        [&](const auto& numbers) {
          const auto& golden = std::get<std::decay_t<decltype(numbers)>>(found->second.data);
          for (std::size_t row = 0; row < drawn; ++row)
            if (std::memcmp(&numbers[row * size], &golden[(row + 2) * size], size * sizeof(numbers[0])) == 0)
              ++noise.same;
        },
        detail::draw_rows(contract, latent.dtype, drawn, size, seed, 0));
    noise.total += drawn;
    seed += 2;
  }
  return noise;
}

/// Run the golden vectors through an engine, and compare every output.
///
/// `run(part, inputs)` computes a part and returns its outputs by name; `file_of(part)` returns the model file that it
/// runs, or null to leave the part out.
template <class Run, class FileOf>
SelfTest self_test(const Bundle& bundle, Run run, FileOf file_of) {
  SelfTest test;
  test.noise = check_noise(bundle);
  const auto keep = [&](Comparison comparison, Part part, const std::string& tensor) {
    comparison.part = part;
    comparison.tensor = tensor;
    test.outputs.push_back(std::move(comparison));
  };
  for (const GoldenPart& golden : bundle.manifest().golden) {
    const Tensors inputs = bundle.golden_inputs(golden.part);
    if (const ModelFile* file = file_of(golden.part)) {
      const Tensors outputs = run(golden.part, inputs);
      for (std::size_t index = 0; index < golden.outputs.size(); ++index) {
        const GoldenArray& array = golden.outputs[index];
        keep(compare(outputs.at(array.tensor), bundle.golden(array), array.tolerance(file->precision),
                     file->outputs[index].range),
             golden.part, array.tensor);
      }
    }
    if (golden.part != Part::decoder || !bundle.contract().pixel_range()) continue;
    for (const Part part : {Part::decoder_uint8_hwc, Part::decoder_uint8_chw}) {
      const ModelFile* file = file_of(part);
      if (file == nullptr) continue;
      const GoldenArray& array = golden.outputs.front();
      const Tensor pixels = run(part, inputs).at("pixels");
      const Layout layout = part == Part::decoder_uint8_hwc ? Layout::hwc : Layout::chw;
      keep(compare_bytes(pixels, bundle.golden(array), array.tolerance(file->precision),
                         *bundle.contract().pixel_range(), layout),
           part, "pixels");
    }
  }
  return test;
}

}  // namespace vae
