// A bundle that runs: `Model` has the verbs of the Python library, on tensors.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "bundle.hpp"
#include "contract.hpp"
#include "errors.hpp"
#include "manifest.hpp"
#include "pixels.hpp"
#include "prior.hpp"
#include "recommended.hpp"
#include "self_test.hpp"
#include "tensor.hpp"

namespace vae {

/// What the encoder gives, by the latent's name: `mean` and `logvar` of the posterior. With the encodings
/// "deterministic" and "codes", `mean` has the latents or the codes, and `logvar` is empty.
/// `model.decode(encoded.mean)` decodes either.
struct Encoded {
  Tensors mean, logvar;
};

struct Options {
  std::string verify_key = {};  // the public key of whoever must have signed the bundle: the text of a PEM file
  std::string precision = {};   // of the files; empty takes the highest that a part has
  std::optional<Settings> settings =
      {};                      // of the engine; with them, or with a precision, no recommendation is followed
  bool recommended = true;     // whether the settings that the bundle recommends for a machine like this one are used
  int64_t rows_at_a_time = 0;  // the most rows that are computed at a time; 0 chooses
};

namespace detail {

/// Refuse numbers that are not finite or out of range. An engine would turn an infinite latent into an image of NaNs,
/// and some read beyond a table for a code that is out of range.
inline void check_numbers(const TensorSpec& spec, const Tensor& tensor) {
  constexpr double slack = 1e-6;  // of the range: float32 arithmetic rounds
  const bool is_float = spec.dtype == Dtype::float32;
  const Range range = spec.range.value_or(Range{-HUGE_VAL, HUGE_VAL});
  const double margin = is_float && spec.range ? slack * (range.high - range.low) : 0, low = range.low - margin,
               high = range.high + margin;
  std::visit(
      [&](const auto& numbers) {
        for (std::size_t i = 0; i < numbers.size(); ++i) {
          const auto value = static_cast<double>(numbers[i]);
          if (std::isfinite(value) && value >= low && value <= high) continue;
          const std::string where = "'" + spec.name + "' at " + std::to_string(i);
          if (!std::isfinite(value))
            throw InputError(describe("not finite", where, "finite numbers", std::to_string(value)));
          throw InputError(
              describe("out of range", where,
                       "numbers in [" + std::to_string(range.low) + ", " + std::to_string(range.high) + "]",
                       std::to_string(value)));
        }
      },
      tensor.data);
}

}  // namespace detail

/// An exported VAE. Each file is opened at its first use. One thread uses a model at a time.
///
/// `Engine` is a class of `vae/engines/`. It has a `format`, says with `supports(file)` which files it can run and with
/// `follows_recommendations` whether recommended settings are for it, is made from (bundle, file, settings), and has a
/// method `Tensors run(const Tensors& inputs)`.
template <class Engine>
class Model {
 public:
  /// Open a bundle, and check every byte of it. Throws BundleError if it is not as the specification says.
  static Model load(const std::string& path, Options options = {}) {
    Bundle bundle = Bundle::open(path, options.verify_key);
    return Model(std::move(bundle), std::move(options));
  }

  explicit Model(Bundle bundle, Options options = {}) : bundle_(std::move(bundle)), options_(std::move(options)) {
    const auto is_known = [&](std::string_view name) { return name == options_.precision; };
    if (!options_.precision.empty() && std::none_of(precisions.begin(), precisions.end(), is_known))
      throw InputError(describe("precision is not known", {}, {}, printable(options_.precision)));
  }

  const Bundle& bundle() const { return bundle_; }
  const Contract& contract() const { return bundle_.contract(); }

  /// Return the parts that can run.
  std::vector<Part> parts() const {
    std::vector<Part> found;
    for (const Part part : all_parts)
      if (find(part).file != nullptr) found.push_back(part);
    return found;
  }

  /// Return the file, the settings and their reason for a part; throws BundleError if there is none.
  Running running(Part part) const {
    Running found = find(part);
    if (found.file == nullptr)
      refuse("bundle has no " + to_string(part) + " as " + Engine::format + " that this engine can run");
    return found;
  }

  /// Draw latents from the prior, by name.
  Tensors prior(int64_t n, const Draw& draw = {}) const {
    for (const auto& [name, value] : draw.sizes) check_size(name, value);
    return draw_prior(contract(), n, draw);
  }

  /// Decode n latents of `prior`: data, such as images (n, C, H, W).
  Tensor sample(int64_t n, const Draw& draw = {}, const Tensors& conditions = {}) {
    return decode(prior(n, draw), conditions);
  }

  /// Decode latents, by name, to data in the contract's range, such as images (N, C, H, W). A condition has one row for
  /// all, or one for each row of the latents.
  Tensor decode(const Tensors& latents, const Tensors& conditions = {}) {
    return run(Part::decoder, inputs_of(Part::decoder, latents, conditions)).at(contract().output().name);
  }
  /// Decode the only latent of a contract.
  Tensor decode(const Tensor& latent, const Tensors& conditions = {}) { return decode(by_name(latent), conditions); }

  /// Decode latents to bytes for a screen, with the bundle's decoder that gives bytes if there is one.
  Tensor pixels(const Tensors& latents, const Tensors& conditions = {}, Layout layout = Layout::hwc) {
    if (!contract().is_image())
      throw InputError(
          describe("output cannot be shown", contract().output().name, "images of 1 to 4 channels in a range"));
    std::array<Part, 2> decoders = {Part::decoder_uint8_hwc, Part::decoder_uint8_chw};
    if (layout == Layout::chw) std::swap(decoders[0], decoders[1]);
    for (const Part part : decoders) {
      if (find(part).file == nullptr) continue;
      Tensor found = run(part, inputs_of(part, latents, conditions)).at("pixels");
      return part == decoders[0] ? found : to_layout(found, layout);
    }
    return to_pixels(decode(latents, conditions), *contract().pixel_range(), layout);
  }
  Tensor pixels(const Tensor& latent, const Tensors& conditions = {}, Layout layout = Layout::hwc) {
    return pixels(by_name(latent), conditions, layout);
  }

  /// Decode n latents of `prior` to bytes for a screen; throws InputError if no images can be drawn from the prior.
  Tensor sample_pixels(int64_t n, const Draw& draw = {}, const Tensors& conditions = {}, Layout layout = Layout::hwc) {
    contract().check_drawable();
    return pixels(prior(n, draw), conditions, layout);
  }

  /// Encode data, such as images (N, C, H, W) in the contract's range.
  Encoded encode(const Tensor& data, const Tensors& conditions = {}) {
    Tensors outputs = run(Part::encoder, inputs_of(Part::encoder, {{contract().data.name, data}}, conditions));
    const std::vector<TensorSpec> tensors = contract().tensors_of(Part::encoder).outputs;
    Encoded encoded;
    const std::size_t step = contract().encoding == Encoding::gaussian ? 2 : 1;
    for (std::size_t index = 0; index < contract().latents.size(); ++index) {
      const std::string& name = contract().latents[index].name;
      encoded.mean[name] = std::move(outputs.at(tensors[step * index].name));
      if (step == 2) encoded.logvar[name] = std::move(outputs.at(tensors[2 * index + 1].name));
    }
    return encoded;
  }

  /// Encode data, and decode the posterior means, or the latents or codes, without noise.
  Tensor reconstruct(const Tensor& data, const Tensors& conditions = {}) {
    return decode(encode(data, conditions).mean, conditions);
  }

  /// Decode `steps` latents on the straight line between the posterior means, or the latents, of two rows of data.
  Tensor interpolate(const Tensor& a, const Tensor& b, int64_t steps, const Tensors& conditions = {}) {
    if (contract().has_codes()) throw InputError("codes cannot be interpolated; expected latents of real numbers");
    if (steps < 2) throw InputError(describe("bad number of steps", {}, "2 and up", std::to_string(steps)));
    Tensors latents = encode(a, conditions).mean;
    const Tensors last = encode(b, conditions).mean;
    for (auto& [name, latent] : latents) {
      const Tensor& end = last.at(name);
      if (latent.rows() != 1 || latent.shape != end.shape) throw InputError("a and b are one row each, of one shape");
      latent = between(latent, end, steps);
    }
    return decode(latents, conditions);
  }

  /// Compute the golden vectors with these parts, and compare the outputs with the expected ones; default: all that can
  /// run. Throws BundleError if one of these parts cannot run, or none.
  SelfTest self_test(const std::optional<std::vector<Part>>& parts = {}) {
    if (parts)
      for (const Part part : *parts) running(part);  // throws
    const auto file_of = [&](Part part) {
      const bool is_wanted = !parts || std::find(parts->begin(), parts->end(), part) != parts->end();
      return is_wanted ? find(part).file : nullptr;
    };
    SelfTest test = vae::self_test(
        bundle_, [&](Part part, const Tensors& inputs) { return run(part, inputs); }, file_of);
    if (test.outputs.empty()) refuse("bundle has no file that this engine can run");
    return test;
  }

  /// Return a value for every condition, for n rows: those of the golden vectors, again and again.
  Tensors example_conditions(int64_t n) const {
    Tensors found;
    for (const Part part : {Part::encoder, Part::decoder}) {
      const Tensors inputs = bundle_.golden_inputs(part);
      for (const Condition& condition : contract().conditions)
        if (const auto golden = inputs.find(condition.name); golden != inputs.end())
          found[condition.name] = take_rows(golden->second, 0, n);
    }
    return found;
  }

  /// Run one part on any number of rows: larger batches than the contract allows are cut, smaller ones repeat rows.
  /// Throws InputError if an input has another name, shape or type, or a number that is not finite or out of range.
  Tensors run(Part part, const Tensors& inputs) {
    const Running found = running(part);
    const Sizes sizes = check(part, inputs);
    const int64_t rows = inputs.begin()->second.rows(), low = contract().fewest_rows(), high = contract().most_rows();
    const int64_t usual = options_.rows_at_a_time > 0 ? options_.rows_at_a_time : piece(*found.file, sizes);
    const int64_t step = std::max(low, std::min(high, usual));
    Engine& engine = open(part, found);
    if (rows >= low && rows <= step) return compute(engine, *found.file, inputs, sizes);
    Tensors outputs;
    for (int64_t start = 0; start < rows; start += step) {
      const int64_t count = std::min(step, rows - start);
      Tensors cut;
      for (const auto& [name, tensor] : inputs)
        cut[name] = take_rows(take_rows(tensor, start, count), 0, std::max(count, low));
      for (auto& [name, tensor] : compute(engine, *found.file, cut, sizes)) {
        Tensor kept = take_rows(tensor, 0, count);
        if (start == 0)
          outputs[name] = std::move(kept);
        else
          append_rows(outputs.at(name), kept);
      }
    }
    return outputs;
  }

  /// Open the file of a part, as its first call would do.
  void open(Part part) { open(part, running(part)); }

 private:
  /// Return what runs a part; its file is null if nothing does.
  Running find(Part part) const {
    Running advice;
    if constexpr (Engine::follows_recommendations)
      if (options_.recommended && options_.precision.empty() && !options_.settings &&
          !bundle_.manifest().recommended.is_null())
        advice = recommendation(bundle_.manifest(), part, machine());
    if (advice.file != nullptr && Engine::supports(*advice.file)) return advice;
    const ModelFile* file = bundle_.manifest().find(part, Engine::format, options_.precision);
    if (file != nullptr && !Engine::supports(*file)) file = nullptr;
    return {file, options_.settings.value_or(Settings{}), advice.reason};
  }

  const std::optional<Machine>& machine() const {
    if (!machine_) machine_ = describe_machine();
    return *machine_;
  }

  Engine& open(Part part, const Running& found) {
    std::unique_ptr<Engine>& engine = engines_[part];
    if (!engine)
      engine = std::make_unique<Engine>(bundle_, *found.file, with_needed_entries(*found.file, found.settings));
    return *engine;
  }

  Tensors compute(Engine& engine, const ModelFile& file, const Tensors& inputs, const Sizes& sizes) const {
    Tensors outputs = engine.run(inputs);
    for (const TensorSpec& tensor : file.outputs) {
      const auto found = outputs.find(tensor.name);
      Shape expected = contract().sizes_at(tensor, sizes);
      expected.insert(expected.begin(), inputs.begin()->second.rows());
      if (found == outputs.end() || found->second.shape != expected || found->second.dtype() != tensor.dtype)
        refuse("the engine gave another shape or type", file.name + ", '" + tensor.name + "'",
               to_string(tensor.dtype) + " " + to_string(expected),
               found == outputs.end() ? "nothing"
                                      : to_string(found->second.dtype()) + " " + to_string(found->second.shape));
    }
    return outputs;
  }

  /// Check the inputs of a part, and return the values of the contract's symbols.
  Sizes check(Part part, const Tensors& inputs) const {
    const std::vector<TensorSpec> expected = contract().tensors_of(part).inputs;
    const bool has_all = std::all_of(expected.begin(), expected.end(),
                                     [&](const TensorSpec& tensor) { return inputs.count(tensor.name) != 0; });
    if (!has_all || inputs.size() != expected.size()) {
      std::string wanted, got;
      for (const TensorSpec& tensor : expected) wanted += (wanted.empty() ? "" : ", ") + tensor.name;
      for (const auto& [name, tensor] : inputs) got += (got.empty() ? "" : ", ") + printable(name);
      throw InputError(describe("wrong inputs", to_string(part), wanted, got.empty() ? "none" : got));
    }
    Sizes sizes;
    const int64_t rows = inputs.at(expected.front().name).rows();
    for (const TensorSpec& tensor : expected) {
      const Tensor& found = inputs.at(tensor.name);
      const std::string where = "'" + tensor.name + "'";
      if (found.dtype() != tensor.dtype)
        throw InputError(describe("wrong type", where, to_string(tensor.dtype), to_string(found.dtype())));
      if (found.rows() != rows)
        throw InputError(describe("wrong number of rows", where, std::to_string(rows), std::to_string(found.rows())));
      const bool is_right = rows >= 1 && count_of(found.shape) == found.size() &&
                            fits({found.shape.begin() + 1, found.shape.end()}, tensor, sizes);
      if (!is_right) throw InputError(describe("wrong shape", where, tensor.shape_text(), to_string(found.shape)));
      detail::check_numbers(tensor, found);
    }
    for (const auto& [name, value] : sizes) check_size(name, value);
    return sizes;
  }

  void check_size(const std::string& name, int64_t value) const {
    const auto found = contract().symbols.find(name);
    if (name == "N" || found == contract().symbols.end()) throw InputError(describe("unknown size", printable(name)));
    const Bounds& bounds = found->second;
    if (value >= bounds.min && value <= bounds.highest()) return;
    const std::string most = bounds.max ? std::to_string(*bounds.max) : "any";
    throw InputError(
        describe("size out of bounds", name, std::to_string(bounds.min) + " to " + most, std::to_string(value)));
  }

  /// Return how many rows of a part are computed at a time.
  int64_t piece(const ModelFile& file, const Sizes& sizes) const {
    constexpr int64_t most_rows = 1024, most_bytes = 8 << 20;
    int64_t bytes = 0;
    for (const auto* tensors : {&file.inputs, &file.outputs})
      for (const TensorSpec& tensor : *tensors)
        bytes += size_of(tensor.dtype) * static_cast<int64_t>(count_of(contract().sizes_at(tensor, sizes)));
    return std::clamp<int64_t>(most_bytes / bytes, 1, most_rows);
  }

  /// Return the inputs of a part: its first ones, and a row of each of its conditions for each of theirs. Conditions of
  /// unknown names stay, because the check of the inputs names them.
  Tensors inputs_of(Part part, const Tensors& first, const Tensors& conditions) const {
    Tensors inputs = first;
    const int64_t rows = first.empty() ? 1 : first.begin()->second.rows();
    for (const auto& [name, tensor] : conditions) {
      const auto known = std::find_if(contract().conditions.begin(), contract().conditions.end(),
                                      [&, &name = name](const Condition& item) { return item.name == name; });
      if (known != contract().conditions.end() && !(part == Part::encoder ? known->in_encoder : known->in_decoder))
        continue;
      inputs[name] = tensor.rows() == 1 && rows > 1 && count_of(tensor.shape) == tensor.size()
                         ? take_rows(tensor, 0, rows)
                         : tensor;
    }
    return inputs;
  }

  Tensors by_name(const Tensor& latent) const { return {{contract().latents.front().name, latent}}; }

  static Tensor between(const Tensor& a, const Tensor& b, int64_t steps) {
    const std::vector<float>&first = a.as<float>(), &last = b.as<float>();
    Tensor line{std::vector<float>(), a.shape};
    line.shape.front() = steps;
    std::vector<float>& numbers = line.as<float>();
    numbers.reserve(static_cast<std::size_t>(steps) * first.size());
    for (int64_t step = 0; step < steps; ++step) {
      const double t = static_cast<double>(step) / static_cast<double>(steps - 1);
      for (std::size_t i = 0; i < first.size(); ++i)
        numbers.push_back(static_cast<float>(first[i] + t * (static_cast<double>(last[i]) - first[i])));
    }
    return line;
  }

  Bundle bundle_;
  Options options_;
  std::map<Part, std::unique_ptr<Engine>> engines_;
  mutable std::optional<std::optional<Machine>> machine_;
};

}  // namespace vae
