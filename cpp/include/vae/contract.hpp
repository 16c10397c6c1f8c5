// The contract (section 3 of the specification): the tensors of every part, their shapes, ranges and types.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "errors.hpp"
#include "strict_json.hpp"
#include "tensor.hpp"

namespace vae {

/// What a model file computes.
enum class Part { encoder, decoder, autoencoder, decoder_uint8_hwc, decoder_uint8_chw };
inline constexpr std::array<std::string_view, 5> part_names = {"encoder", "decoder", "autoencoder", "decoder-uint8-hwc",
                                                               "decoder-uint8-chw"};
inline constexpr std::array<Part, 5> all_parts = {Part::encoder, Part::decoder, Part::autoencoder,
                                                  Part::decoder_uint8_hwc, Part::decoder_uint8_chw};

inline std::string to_string(Part part) { return std::string(part_names[static_cast<std::size_t>(part)]); }

/// Return whether a part is the decoder with the rounding to bytes inside.
inline bool gives_bytes(Part part) { return part == Part::decoder_uint8_hwc || part == Part::decoder_uint8_chw; }

/// The order of channels in pixels: (N, H, W, C) or (N, C, H, W).
enum class Layout { hwc, chw };

/// The lowest and the highest value of a number.
struct Range {
  double low, high;

  bool operator==(const Range& other) const { return low == other.low && high == other.high; }
  bool operator!=(const Range& other) const { return !(*this == other); }
};

/// The values of the contract's symbols by name.
using Sizes = std::map<std::string, int64_t>;

/// A size of a shape: a number, or `factor * symbol + offset`.
struct Size {
  std::string symbol;  // empty for a number, which is then the offset
  int64_t factor = 1, offset = 0;

  bool is_number() const { return symbol.empty(); }
  bool operator==(const Size& other) const {
    return symbol == other.symbol && factor == other.factor && offset == other.offset;
  }
  /// Write the size in its only form: "28", "h", "8*h", "4*t+1".
  std::string text() const {
    if (is_number()) return std::to_string(offset);
    return (factor == 1 ? "" : std::to_string(factor) + "*") + symbol + (offset > 0 ? "+" : "") +
           (offset == 0 ? "" : std::to_string(offset));
  }
};

/// A tensor as the contract describes it. The first size of the shape is the batch.
struct TensorSpec {
  std::string name;
  Dtype dtype = Dtype::float32;
  std::vector<Size> shape;
  std::optional<Range> range;

  std::string shape_text() const {
    std::string text = "[";
    for (const Size& size : shape) text += (text.size() > 1 ? ", " : "") + size.text();
    return text + "]";
  }
};

/// A further input.
struct Condition : TensorSpec {
  bool in_encoder = false, in_decoder = false;
};

/// The bounds of a symbol, and the value that it has in golden vectors.
struct Bounds {
  int64_t min = 1;
  std::optional<int64_t> max, usual;

  int64_t highest() const { return max.value_or(std::numeric_limits<int64_t>::max()); }
  /// Return the value that applications use most.
  int64_t usual_value() const { return usual ? *usual : std::min(std::max<int64_t>(8, min), highest()); }
};

enum class Encoding { gaussian, deterministic, codes };
enum class Prior { standard_normal, uniform, given_by_the_user };

struct Likelihood {
  std::string name;
  double scale = 1;
};

/// The inputs and outputs of a part, in order.
struct Signature {
  std::vector<TensorSpec> inputs, outputs;
};

/// A contract of either version of the format, in the form of version 2.
struct Contract {
  TensorSpec data;
  std::optional<TensorSpec> own_output;  // what the decoder gives, where that differs from the data
  std::vector<TensorSpec> latents;
  std::vector<Condition> conditions;
  Encoding encoding = Encoding::gaussian;
  Prior prior = Prior::standard_normal;
  std::map<std::string, Bounds> symbols;
  std::optional<Likelihood> likelihood;
  double scaling_factor = 1, shift_factor = 0;

  /// The tensor that the decoder gives.
  const TensorSpec& output() const { return own_output ? *own_output : data; }
  bool has_codes() const { return encoding == Encoding::codes; }
  /// The number of codes.
  uint64_t codes() const { return static_cast<uint64_t>(latents.front().range.value().high) + 1; }
  /// The range of the pixels that are shown; none for data without a range.
  std::optional<Range> pixel_range() const { return output().range ? output().range : data.range; }
  /// Whether the decoder gives images of 1 to 4 channels, which can be shown.
  bool is_image() const {
    const auto& [name, dtype, shape, range] = output();
    return name == "image" && shape.size() == 4 && pixel_range() && shape[1].is_number() && shape[1].offset <= 4;
  }
  /// The lowest and the highest number of rows that the graphs take at a time.
  int64_t fewest_rows() const { return batch().min; }
  int64_t most_rows() const { return batch().highest(); }

  /// Throw an InputError with the reason if no new images can be drawn.
  void check_drawable() const {
    if (!is_image())
      throw InputError("no images can be drawn: " + output().name + " " + output().shape_text() +
                       " is no image of 1 to 4 channels");
    if (prior == Prior::given_by_the_user)
      throw InputError("no images can be drawn: the prior of the latents is not in the bundle");
  }

  /// Return the sizes of a tensor without the batch; symbols that are not in `values` have their usual value.
  Shape sizes_at(const TensorSpec& tensor, const Sizes& values = {}) const {
    Shape sizes;
    for (std::size_t axis = 1; axis < tensor.shape.size(); ++axis) {
      const Size& size = tensor.shape[axis];
      if (size.is_number()) {
        sizes.push_back(size.offset);
        continue;
      }
      const auto given = values.find(size.symbol);
      const int64_t value = given == values.end() ? symbols.at(size.symbol).usual_value() : given->second;
      const double wanted =
          static_cast<double>(size.factor) * static_cast<double>(value) + static_cast<double>(size.offset);
      if (!(wanted >= 1 && wanted < most_numbers))
        throw InputError(describe("size out of bounds", size.text(), {}, std::to_string(value)));
      sizes.push_back(size.factor * value + size.offset);
    }
    return sizes;
  }

  Signature tensors_of(Part part) const;

 private:
  Bounds batch() const {
    const auto found = symbols.find("N");
    return found == symbols.end() ? Bounds{} : found->second;
  }
};

inline Signature Contract::tensors_of(Part part) const {
  const bool is_gaussian = encoding == Encoding::gaussian;
  const bool is_alone = latents.size() == 1 && latents.front().name == (has_codes() ? "codes" : "latent");
  const auto named = [&](TensorSpec latent, const std::string& name) {
    latent.name = is_alone ? name : latent.name + "_" + name;
    return latent;
  };
  std::vector<TensorSpec> encoded = latents, noise;
  if (is_gaussian) {
    encoded.clear();
    for (const TensorSpec& latent : latents) {
      encoded.push_back(named(latent, "mean"));
      encoded.push_back(named(latent, "logvar"));
      noise.push_back(named(latent, "noise"));
    }
  }
  const auto add = [](std::vector<TensorSpec>& tensors, const std::vector<TensorSpec>& more) {
    tensors.insert(tensors.end(), more.begin(), more.end());
  };
  const auto add_spread = [&](std::vector<TensorSpec>& tensors, const std::string& name) {
    if (!likelihood || likelihood->name == "bernoulli" || likelihood->name == "gaussian-fixed") return;
    tensors.push_back(output());
    tensors.back().name = name + (likelihood->name == "gaussian" ? "_logvar" : "_log_scale");
    tensors.back().range.reset();
  };
  Signature found;
  if (part == Part::encoder) {
    found = {{data}, encoded};
  } else if (part == Part::autoencoder) {
    found.inputs = {data};
    add(found.inputs, noise);
    found.outputs = {output()};
    found.outputs.front().name = "reconstruction";
    add(found.outputs, encoded);
    if (is_gaussian) add(found.outputs, latents);
    add_spread(found.outputs, "reconstruction");
  } else {
    found = {latents, {output()}};
    if (gives_bytes(part)) {
      TensorSpec& pixels = found.outputs.front();
      pixels.name = "pixels";
      pixels.dtype = Dtype::uint8;
      pixels.range = {0, 255};
      if (part == Part::decoder_uint8_hwc)
        std::rotate(pixels.shape.begin() + 1, pixels.shape.begin() + 2, pixels.shape.end());
    } else {
      add_spread(found.outputs, output().name);
    }
  }
  for (const Condition& condition : conditions)
    if (part == Part::autoencoder || (part == Part::encoder ? condition.in_encoder : condition.in_decoder))
      found.inputs.push_back(condition);
  return found;
}

/// Return whether sizes without the batch fit a tensor, and enter the values of its symbols.
inline bool fits(const Shape& sizes, const TensorSpec& tensor, Sizes& values) {
  if (sizes.size() + 1 != tensor.shape.size()) return false;
  for (std::size_t axis = 0; axis < sizes.size(); ++axis) {
    const Size& size = tensor.shape[axis + 1];
    const int64_t rest = sizes[axis] - size.offset;
    if (size.is_number()) {
      if (rest != 0) return false;
      continue;
    }
    const int64_t value = rest / size.factor;
    if (rest % size.factor != 0 || value < 1 || values.emplace(size.symbol, value).first->second != value) return false;
  }
  return true;
}

namespace detail {

inline const std::string contract_place = "manifest.json, contract";

/// Return a value as a text for a message.
inline std::string shown(const Json& value) {
  return value.is_string() ? printable(value.get_ref<const std::string&>()) : value.type_name();
}

inline bool is_text(const Json& value, std::string_view text) {
  return value.is_string() && value.get_ref<const std::string&>() == text;
}

/// Return the value of a text in a list of pairs.
template <class Value, std::size_t count>
Value choose(const std::pair<std::string_view, Value> (&known)[count], const Json& stated, const std::string& what) {
  for (const auto& [name, value] : known)
    if (is_text(stated, name)) return value;
  refuse(what, contract_place, {}, shown(stated));
}

inline Range read_range(const Json& stated, const std::string& where) {
  const bool is_right = stated.is_array() && stated.size() == 2 && stated[0].is_number() && stated[1].is_number() &&
                        stated[0].get<double>() <= stated[1].get<double>();
  if (!is_right) refuse("range cannot be read", where);
  return {stated[0].get<double>(), stated[1].get<double>()};
}

/// Return the whole number that digits write, of those below 2^53; nothing if they write another.
inline std::optional<int64_t> read_digits(std::string_view digits) {
  if (digits.empty() || digits.size() > 16) return std::nullopt;
  int64_t value = 0;
  for (const char digit : digits) {
    if (digit < '0' || digit > '9') return std::nullopt;
    value = 10 * value + (digit - '0');
  }
  if (value >= int64_t{1} << 53) return std::nullopt;
  return value;
}

inline bool is_tensor_name(std::string_view name) {
  const auto is_letter = [](char letter) {
    return (letter >= 'A' && letter <= 'Z') || (letter >= 'a' && letter <= 'z');
  };
  return !name.empty() && is_letter(name.front()) && std::all_of(name.begin(), name.end(), [&](char letter) {
    return is_letter(letter) || (letter >= '0' && letter <= '9') || letter == '_';
  });
}

/// Read a size: a whole number from 1 up, or an expression in its only form.
inline Size read_size(const Json& stated) {
  if (is_whole(stated, 1)) return {"", 1, stated.get<int64_t>()};
  if (!stated.is_string()) refuse("size cannot be read", contract_place, {}, shown(stated));
  const std::string& text = stated.get_ref<const std::string&>();
  const std::size_t star = text.find('*'), begin = star == std::string::npos ? 0 : star + 1,
                    sign = std::min(text.find_first_of("+-", begin), text.size());
  Size size{text.substr(begin, sign - begin), 1, 0};
  const auto factor = begin == 0 ? std::optional<int64_t>(1) : read_digits(std::string_view(text).substr(0, star));
  const auto offset =
      sign == text.size() ? std::optional<int64_t>(0) : read_digits(std::string_view(text).substr(sign + 1));
  if (factor && offset) {
    size.factor = *factor;
    size.offset = sign < text.size() && text[sign] == '-' ? -*offset : *offset;
  }
  if (!factor || *factor == 0 || !offset || !is_tensor_name(size.symbol) || size.text() != text)
    refuse("size cannot be read", contract_place, {}, printable(text));
  return size;
}

/// Reads a contract of version 2.
class ContractReader {
 public:
  explicit ContractReader(const Json& stated) {
    for (const auto& [name, bounds] : stated.at("symbols").get_ref<const Json::object_t&>())
      found_.symbols[name] = read_bounds(name, bounds);
    found_.data = read_tensor(stated.at("data"));
    if (const Json& output = stated.at("output"); !output.is_null()) found_.own_output = read_tensor(output);
    check_data();
    for (const Json& latent : stated.at("latents").get_ref<const Json::array_t&>())
      found_.latents.push_back(read_tensor(latent));
    for (const Json& condition : stated.at("conditions").get_ref<const Json::array_t&>()) read_condition(condition);
    read_encoding(stated);
    for (const auto& [name, bounds] : found_.symbols)
      if (name != "N" && used_.count(name) == 0) refuse("symbol is in no shape", contract_place, {}, printable(name));
    for (const char* key : {"scaling_factor", "shift_factor"})
      if (!stated.at(key).is_number()) refuse("scaling cannot be read", contract_place);
    found_.scaling_factor = stated.at("scaling_factor").get<double>();
    found_.shift_factor = stated.at("shift_factor").get<double>();
  }

  Contract take() { return std::move(found_); }

 private:
  static Bounds read_bounds(const std::string& name, const Json& stated) {
    const auto is_open = [&](const char* key) { return stated.at(key).is_null() || is_whole(stated.at(key), 1); };
    const std::string where = contract_place + ", " + printable(name);
    if (!is_whole(stated.at("min"), 1) || !is_open("max") || !is_open("usual")) refuse("bounds cannot be read", where);
    const auto value = [&](const char* key) -> std::optional<int64_t> {
      return stated.at(key).is_null() ? std::nullopt : std::optional(stated.at(key).get<int64_t>());
    };
    const Bounds bounds{stated.at("min").get<int64_t>(), value("max"), value("usual")};
    if (bounds.highest() < bounds.min ||
        (bounds.usual && (*bounds.usual < bounds.min || *bounds.usual > bounds.highest())))
      refuse("bounds cannot be read", where);
    return bounds;
  }

  TensorSpec read_tensor(const Json& stated) {
    const Json &name = stated.at("name"), &dtype = stated.at("dtype"), &range = stated.at("range");
    if (!name.is_string() || !is_tensor_name(name.get_ref<const std::string&>()))
      refuse("tensor cannot be read", contract_place);
    TensorSpec tensor{name.get<std::string>(), {}, {}, {}};
    const std::string where = contract_place + ", " + printable(tensor.name);
    const auto known = dtype.is_string() ? dtype_of(dtype.get_ref<const std::string&>()) : std::nullopt;
    if (!known || *known == Dtype::uint8) refuse("type is not known", where, {}, shown(dtype));
    tensor.dtype = *known;
    for (const Json& size : stated.at("shape").get_ref<const Json::array_t&>()) tensor.shape.push_back(read_size(size));
    const bool has_fixed_batch = found_.fewest_rows() == found_.most_rows();
    const Size batch = has_fixed_batch ? Size{"", 1, found_.fewest_rows()} : Size{"N", 1, 0};
    if (tensor.shape.empty() || !(tensor.shape.front() == batch)) refuse("shapes cannot be read", where);
    for (std::size_t axis = 1; axis < tensor.shape.size(); ++axis) {
      const std::string& symbol = tensor.shape[axis].symbol;
      if (symbol.empty()) continue;
      if (symbol == "N" || found_.symbols.count(symbol) == 0) refuse("shapes cannot be read", where);
      used_.insert(symbol);
    }
    if (!range.is_null()) tensor.range = read_range(range, where);
    const auto is_integer = [&](double bound) {
      if (tensor.dtype == Dtype::int32 && !(bound >= -2147483648.0 && bound < 2147483648.0)) return false;
      return std::floor(bound) == bound && std::fabs(bound) < 9007199254740992.0;
    };
    if (tensor.dtype != Dtype::float32 &&
        !(tensor.range && is_integer(tensor.range->low) && is_integer(tensor.range->high)))
      refuse("integers have no range", where);
    return tensor;
  }

  /// Check the data and the output of the decoder, which is of its own where the data are integers.
  void check_data() const {
    const TensorSpec& data = found_.data;
    const bool is_float = data.dtype == Dtype::float32;
    for (const TensorSpec* tensor : {&data, &found_.output()})
      if (tensor->shape.size() < 2 || (tensor->range && tensor->range->low >= tensor->range->high))
        refuse("data cannot be read", contract_place + ", " + tensor->name);
    if (!is_float && (!found_.own_output || data.range->high - data.range->low >= 4294967296.0))
      refuse("integers as data cannot be read", contract_place + ", " + data.name);
    if (!found_.own_output) return;
    const TensorSpec& output = *found_.own_output;
    if (output.dtype != Dtype::float32) refuse("output is no float32", contract_place + ", " + output.name);
    const bool has_same_shape = is_float && output.shape == data.shape;
    const std::string name = has_same_shape ? data.name : "output";
    if (output.name != name || (has_same_shape && output.range == data.range))
      refuse("output does not fit the data", contract_place, name, output.name);
  }

  void read_condition(const Json& stated) {
    Condition condition{read_tensor(stated), false, false};
    const Json& parts = stated.at("parts");
    bool is_right = parts.is_array() && !parts.empty();
    for (const Json& part : is_right ? parts : Json::array()) {
      is_right = is_right && (is_text(part, "encoder") || is_text(part, "decoder"));
      (is_text(part, "encoder") ? condition.in_encoder : condition.in_decoder) = true;
    }
    if (!is_right) refuse("parts cannot be read", contract_place + ", " + condition.name);
    found_.conditions.push_back(std::move(condition));
  }

  void read_encoding(const Json& stated) {
    static constexpr std::pair<std::string_view, Encoding> encodings[] = {
        {"gaussian", Encoding::gaussian}, {"deterministic", Encoding::deterministic}, {"codes", Encoding::codes}};
    static constexpr std::pair<std::string_view, Prior> priors[] = {{"standard normal", Prior::standard_normal},
                                                                    {"uniform", Prior::uniform},
                                                                    {"given by the user", Prior::given_by_the_user}};
    found_.encoding = choose(encodings, stated.at("encoding"), "encoding is not known");
    found_.prior = choose(priors, stated.at("prior"), "prior is not known");
    const auto& latents = found_.latents;
    if (latents.empty() || found_.prior == (found_.has_codes() ? Prior::standard_normal : Prior::uniform))
      refuse("latents and prior do not fit", contract_place);
    for (const TensorSpec& latent : latents) {
      const bool is_code = latent.dtype != Dtype::float32 && latent.dtype == latents.front().dtype && latent.range &&
                           latent.range->low == 0 && latent.range->high < 4294967296.0 &&
                           latent.range == latents.front().range;
      const bool is_right = found_.has_codes() ? is_code : latent.dtype == Dtype::float32 && !latent.range;
      if (latent.shape.size() < 2 || !is_right) refuse("latent cannot be read", contract_place + ", " + latent.name);
    }
  }

  Contract found_;
  std::set<std::string> used_;
};

inline std::optional<Likelihood> read_likelihood(const Json& contract) {
  const auto found = contract.find("likelihood");
  if (found == contract.end() || found->is_null()) return std::nullopt;
  const Json& name = found->at("name");
  const bool is_fixed = is_text(name, "gaussian-fixed");
  const bool is_known = is_fixed || is_text(name, "bernoulli") || is_text(name, "gaussian") ||
                        is_text(name, "discretised-logistic") || is_text(name, "discretised-logistic-colour");
  const Json scale = is_fixed ? found->at("scale") : found->value("scale", Json(1));
  if (!is_known || !scale.is_number() || !(is_fixed ? scale.get<double>() > 0 : scale.get<double>() == 1))
    refuse("likelihood cannot be read", contract_place);
  return Likelihood{name.get<std::string>(), scale.get<double>()};
}

/// Return a contract of version 1 in the form of version 2.
inline Contract read_plain_contract(const Json& stated) {
  Contract contract;
  const auto spec = [&](const char* name, const char* key) {
    TensorSpec tensor{name, Dtype::float32, {{"N", 1, 0}}, {}};
    for (const Json& size : stated.at(key).get_ref<const Json::array_t&>()) {
      if (!is_whole(size, 1)) refuse("shapes cannot be read", contract_place);
      tensor.shape.push_back({"", 1, size.get<int64_t>()});
    }
    return tensor;
  };
  contract.data = spec("image", "image_shape");
  contract.latents = {spec("latent", "latent_shape")};
  if (contract.data.shape.size() != 4 || contract.latents.front().shape.size() < 2)
    refuse("shapes cannot be read", contract_place);
  contract.data.range = read_range(stated.at("image_range"), contract_place);
  if (contract.data.range->low == contract.data.range->high) refuse("range of pixels cannot be read", contract_place);
  if (!is_text(stated.at("prior"), "standard normal"))
    refuse("prior is not known", contract_place, "standard normal", shown(stated.at("prior")));
  return contract;
}

/// Return whether version 1 can express a contract: images of one size, and one latent with a mean and a logvar.
inline bool is_plain(const Contract& contract) {
  const bool is_image = contract.data.name == "image" && contract.data.shape.size() == 4 && contract.data.range;
  const bool is_one = contract.latents.size() == 1 && contract.latents.front().name == "latent" &&
                      contract.encoding == Encoding::gaussian && contract.prior == Prior::standard_normal;
  return is_image && !contract.own_output && is_one && contract.conditions.empty() && contract.symbols.empty() &&
         contract.scaling_factor == 1 && contract.shift_factor == 0;
}

inline void check_names(const std::vector<TensorSpec>& tensors) {
  std::set<std::string> names;
  for (const TensorSpec& tensor : tensors)
    if (!names.insert(tensor.name).second) refuse("two tensors have one name", contract_place, {}, tensor.name);
}

}  // namespace detail

/// Check the contract of a manifest and return it in the form of version 2.
inline Contract read_contract(const Json& manifest) {
  const Json& stated = manifest.at("contract");
  const bool is_extended = !detail::is_text(manifest.at("format"), "vae-export/1");
  Contract contract = is_extended ? detail::ContractReader(stated).take() : detail::read_plain_contract(stated);
  contract.likelihood = detail::read_likelihood(stated);
  if (contract.likelihood && contract.data.dtype != Dtype::float32)
    refuse("likelihood does not fit integers", detail::contract_place, "null", contract.likelihood->name);
  if (contract.likelihood && contract.likelihood->name == "bernoulli" && contract.data.range != Range{0, 1})
    refuse("likelihood does not fit the range", detail::contract_place, "bernoulli on values in [0, 1]");
  if (is_extended && detail::is_plain(contract))
    refuse("contract is not of this version of the format", "manifest.json", "vae-export/1", "vae-export/2");
  for (const Part part : {Part::encoder, Part::decoder, Part::autoencoder}) {
    const Signature signature = contract.tensors_of(part);
    std::vector<TensorSpec> tensors = signature.inputs;
    tensors.insert(tensors.end(), signature.outputs.begin(), signature.outputs.end());
    detail::check_names(tensors);
  }
  return contract;
}

}  // namespace vae
