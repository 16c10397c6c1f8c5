// Open a bundle (docs/bundle-format.md, sections 1 to 3): the SHA-256 of every file is checked before any file is used.
#pragma once

#include <openssl/evp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <regex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace vae {

/// The numbers of a tensor: float32, or integers for codes and classes.
using Data = std::variant<std::vector<float>, std::vector<int32_t>, std::vector<int64_t>>;

/// Numbers in row-major order; the first dimension is the batch.
struct Tensor {
  Data data;
  std::vector<int64_t> shape;

  std::size_t size() const {
    return std::visit([](const auto& numbers) { return numbers.size(); }, data);
  }
  bool is_float() const { return std::holds_alternative<std::vector<float>>(data); }
  /// Return the numbers of a float32 tensor; throws if it is another.
  const std::vector<float>& floats() const {
    if (!is_float()) throw std::runtime_error("tensor is not float32");
    return std::get<std::vector<float>>(data);
  }
};
using Tensors = std::map<std::string, Tensor>;

/// The parts that this reader knows. It ignores any other part of a newer bundle.
inline const std::vector<std::string> known_parts = {"encoder", "decoder", "autoencoder"};
/// A reader takes the first of these that a part has, and ignores files of any other precision.
inline const std::vector<std::string> precisions = {"fp32", "fp16", "bf16", "int8", "int8-static", "int4-weights"};

inline std::string precision_of(const nlohmann::json& file) { return file.value("precision", precisions.front()); }

/// Return the SHA-256 of some bytes, in lower-case hexadecimal digits.
inline std::string sha256(std::string_view data) {
  unsigned char digest[32];
  if (EVP_Digest(data.data(), data.size(), digest, nullptr, EVP_sha256(), nullptr) != 1)
    throw std::runtime_error("SHA-256 failed");
  std::string digits;
  for (unsigned char byte : digest) {
    digits += "0123456789abcdef"[byte >> 4];
    digits += "0123456789abcdef"[byte & 15];
  }
  return digits;
}

/// Return a vector of a dtype, without numbers.
inline Data empty(const std::string& dtype) {
  if (dtype == "float32") return std::vector<float>();
  if (dtype == "int32") return std::vector<int32_t>();
  if (dtype == "int64") return std::vector<int64_t>();
  throw std::runtime_error("dtype is not known: " + dtype);
}

/// The contract of a manifest of either version (section 3), in the words of version 2. A tensor is an object with `name`,
/// `dtype`, `shape` and `range`; the first size of the shape is the batch.
struct Contract {
  nlohmann::json output, latents, conditions = nlohmann::json::array(), symbols = nlohmann::json::object();
  std::string encoding = "gaussian", prior;

  Contract() = default;
  explicit Contract(const nlohmann::json& manifest) {
    const auto& stated = manifest.at("contract");
    prior = stated.at("prior");
    if (manifest.at("format") == "vae-export/1") {
      output = {{"name", "image"}, {"dtype", "float32"}, {"range", stated.at("image_range")}};
      output["shape"] = batched(stated.at("image_shape"));
      const nlohmann::json latent = {{"name", "latent"}, {"dtype", "float32"}, {"range", nullptr},
                                     {"shape", batched(stated.at("latent_shape"))}};
      latents = nlohmann::json::array({latent});
      return;
    }
    output = stated.at("output").is_null() ? stated.at("data") : stated.at("output");
    latents = stated.at("latents");
    conditions = stated.at("conditions");
    symbols = stated.at("symbols");
    encoding = stated.at("encoding");
  }

  bool has_codes() const { return encoding == "codes"; }

  /// Return the number of codes of a latent.
  uint64_t codes(const nlohmann::json& latent) const {
    return static_cast<uint64_t>(latent.at("range").at(1).get<double>()) + 1;
  }

  /// Return the shape of one row of a tensor, with the usual value of each symbol.
  std::vector<int64_t> item(const nlohmann::json& tensor) const {
    std::vector<int64_t> sizes;
    for (const auto& size : tensor.at("shape")) sizes.push_back(size.is_number() ? size.get<int64_t>() : 0);
    for (std::size_t axis = 1; axis < sizes.size(); ++axis)
      if (const auto& size = tensor.at("shape").at(axis); size.is_string()) sizes[axis] = size_of(size);
    return {sizes.begin() + 1, sizes.end()};
  }

  /// Return the lowest and the highest number of rows of a call; the highest is 0 for no limit.
  std::pair<int64_t, int64_t> batch() const {
    if (!symbols.contains("N")) return {1, 0};
    const auto& bounds = symbols.at("N");
    return {bounds.at("min"), bounds.at("max").is_null() ? 0 : bounds.at("max").get<int64_t>()};
  }

  /// Throws if no new images can be drawn: the data is no image, or the prior is not known.
  void check_drawable() const {
    const auto& shape = output.at("shape");
    const bool is_image = output.at("name") == "image" && !output.at("range").is_null() && shape.size() == 4;
    if (!is_image || !shape.at(1).is_number() || shape.at(1) < 1 || shape.at(1) > 4)
      throw std::runtime_error("no images can be drawn: " + output.at("name").get<std::string>() + " " + shape.dump() +
                               " is no image of 1 to 4 channels");
    if (prior == "given by the user")
      throw std::runtime_error("no images can be drawn: the prior of the latents is not in the bundle");
  }

 private:
  static nlohmann::json batched(const nlohmann::json& item) {
    nlohmann::json shape = {"N"};
    for (const auto& size : item) shape.push_back(size);
    return shape;
  }

  /// Return the value of a size such as "h", "8*h" or "4*t+1".
  int64_t size_of(const std::string& text) const {
    static const std::regex pattern("(?:([1-9][0-9]*)\\*)?([A-Za-z][A-Za-z0-9_]*)([+-][0-9]+)?");
    std::smatch found;
    if (!std::regex_match(text, found, pattern)) throw std::runtime_error("size cannot be read: " + text);
    const auto& symbol = symbols.at(found[2]);
    const int64_t low = symbol.at("min"), high = symbol.at("max").is_null() ? 8 : symbol.at("max").get<int64_t>();
    const int64_t usual = symbol.at("usual").is_null() ? std::min(std::max<int64_t>(8, low), high) : symbol.at("usual").get<int64_t>();
    return (found[1].matched ? std::stoll(found[1]) : 1) * usual + (found[3].matched ? std::stoll(found[3]) : 0);
  }
};

class Bundle {
 public:
  /// Throws std::runtime_error if the bundle was altered; the message names the file.
  explicit Bundle(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot read " + path);
    bytes_.assign(std::istreambuf_iterator<char>(file), {});
    unzip();
    check_sums();
    manifest_ = nlohmann::json::parse(files_.at("manifest.json"));
    const std::string format = manifest_.at("format");
    if (format != "vae-export/1" && format != "vae-export/2")
      throw std::runtime_error("bundle of another version: " + format);
    contract_ = Contract(manifest_);
  }
  Bundle(const Bundle&) = delete;  // files_ holds views of bytes_
  Bundle& operator=(const Bundle&) = delete;

  const nlohmann::json& manifest() const { return manifest_; }
  const Contract& contract() const { return contract_; }

  /// Return the manifest's entry for a part's model file, in float32 if there is one, or null if there is none.
  const nlohmann::json* find_model(const std::string& part, const std::string& format) const {
    for (const auto& precision : precisions)
      for (const auto& entry : manifest_.at("files"))
        if (entry.at("part") == part && entry.at("format") == format && precision_of(entry) == precision) return &entry;
    return nullptr;
  }

  /// Return what `find_model` does; throws if there is none.
  const nlohmann::json& entry(const std::string& part, const std::string& format) const {
    if (const auto* found = find_model(part, format)) return *found;
    throw std::runtime_error("bundle has no " + part + " as " + format);
  }

  /// Return the bytes of a part's model file.
  std::string_view model(const std::string& part, const std::string& format) const {
    const auto& found = entry(part, format);
    return checked_file(found.at("name"), found.at("sha256"));
  }

  /// Return a golden array. The file is little-endian, and so must the machine be.
  Tensor golden(const nlohmann::json& array) const {
    const std::string_view bytes = checked_file(array.at("file"), array.at("sha256"));
    const std::string dtype = array.value("dtype", "float32");
    Tensor tensor{empty(dtype), array.at("shape")};
    const auto& shape = tensor.shape;
    const auto count = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
    std::visit(
        [&](auto& numbers) {
          if (shape.empty() || shape[0] < 1 || count * sizeof(numbers[0]) != bytes.size())
            throw std::runtime_error("golden array has another shape: " + array.at("file").template get<std::string>());
          numbers.resize(count);
          std::memcpy(numbers.data(), bytes.data(), bytes.size());
        },
        tensor.data);
    return tensor;
  }

  /// Return the golden inputs of a part by name; none if the bundle has no golden vectors of it.
  Tensors golden_inputs(const std::string& part) const {
    Tensors inputs;
    for (const auto& golden : manifest_.at("golden"))
      if (golden.at("part") == part)
        for (const auto& array : golden.at("inputs")) inputs[array.at("tensor")] = this->golden(array);
    return inputs;
  }

 private:
  std::string_view checked_file(const std::string& name, const std::string& digest) const {
    const auto sum = sums_.find(name);
    if (sum == sums_.end() || sum->second != digest)
      throw std::runtime_error("manifest.json has another hash of " + name);
    return files_.at(name);
  }

  /// Find the entries of the ZIP file, which are not compressed.
  void unzip() {
    const std::string_view all = bytes_;
    if (all.size() < 22 || all.substr(all.size() - 22, 4) != std::string_view("PK\5\6", 4))
      throw std::runtime_error("not a bundle, or cut off");
    const uint64_t end = all.size() - 22;
    uint64_t central = number<uint32_t>(end + 16, all.size());
    for (int left = number<uint16_t>(end + 10, all.size()); left > 0; --left) {
      if (number<uint32_t>(central, end) != 0x02014b50 || number<uint16_t>(central + 10, end) != 0)
        throw std::runtime_error("bundle is malformed");
      const uint64_t size = number<uint32_t>(central + 24, end), name_size = number<uint16_t>(central + 28, end);
      const uint64_t start = number<uint32_t>(central + 42, end) + 30 + name_size;
      if (central + 46 + name_size > end || start + size > end) throw std::runtime_error("bundle is cut off");
      const std::string name(all.substr(central + 46, name_size));
      if (!files_.emplace(name, all.substr(start, size)).second)
        throw std::runtime_error("two files have one name: " + name);
      central += 46 + name_size;
    }
  }

  template <class Integer>
  Integer number(uint64_t at, uint64_t end) const {
    if (at + sizeof(Integer) > end) throw std::runtime_error("bundle is cut off");
    Integer value;
    std::memcpy(&value, bytes_.data() + at, sizeof value);
    return value;
  }

  void check_sums() {
    const auto list = files_.find("SHA256SUMS");
    if (list == files_.end()) throw std::runtime_error("not a bundle: it has no SHA256SUMS");
    std::istringstream lines{std::string(list->second)};
    files_.erase(list);
    for (std::string digest, name; lines >> digest >> name;) sums_[name] = digest;
    for (const auto& [name, digest] : sums_)
      if (!files_.count(name)) throw std::runtime_error("file is missing: " + name);
    for (const auto& [name, data] : files_)
      if (const auto found = sha256(data); found != sums_[name])
        throw std::runtime_error("file was altered: " + name + "; expected SHA-256 " + sums_[name] + ", got " + found);
  }

  std::string bytes_;
  std::map<std::string, std::string_view> files_;
  std::map<std::string, std::string> sums_;
  nlohmann::json manifest_;
  Contract contract_;
};

}  // namespace vae
