// Open a bundle (docs/bundle-format.md, sections 1 to 3): the SHA-256 of every file is checked before any file is used.
#pragma once

#include <openssl/evp.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace vae {

/// Numbers in row-major order; the first dimension is the batch.
struct Tensor {
  std::vector<float> data;
  std::vector<int64_t> shape;
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
    if (manifest_.at("format") != "vae-export/1") throw std::runtime_error("bundle of another version");
  }
  Bundle(const Bundle&) = delete;  // files_ holds views of bytes_
  Bundle& operator=(const Bundle&) = delete;

  const nlohmann::json& manifest() const { return manifest_; }

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
    std::string_view data = checked_file(array.at("file"), array.at("sha256"));
    Tensor tensor{std::vector<float>(data.size() / sizeof(float)), array.at("shape")};
    const auto& shape = tensor.shape;
    if (shape.empty() || shape[0] < 2 ||
        std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>()) != int64_t(tensor.data.size()))
      throw std::runtime_error("golden array has another shape: " + array.at("file").get<std::string>());
    std::memcpy(tensor.data.data(), data.data(), tensor.data.size() * sizeof(float));
    return tensor;
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
};

}  // namespace vae
