// Opens a bundle and checks every byte of it before any is used (sections 1 to 3 of the specification, and the golden
// numbers of section 5).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "archive.hpp"
#include "contract.hpp"
#include "errors.hpp"
#include "hash.hpp"
#include "manifest.hpp"
#include "strict_json.hpp"
#include "tensor.hpp"

namespace vae {

namespace detail {

inline constexpr std::size_t text_limit = 1 << 20, certificate_limit = 64 << 20;  // bytes
inline constexpr std::size_t sums_line = 64 + 2 + 201 + 1;                        // bytes, with the longest name
inline constexpr std::string_view sums_name = "SHA256SUMS", signature_name = "SHA256SUMS.sig",
                                  certificate_name = "certificate.json", page_name = "certificate.html",
                                  card_name = "MODEL_CARD.md", licence_name = "LICENSE";

inline bool is_utf8(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const auto byte = [&](std::size_t offset) {
      return at + offset < text.size() ? static_cast<unsigned char>(text[at + offset]) : 0;
    };
    const unsigned first = byte(0), second = byte(1);
    std::size_t length = 1;
    if (first >= 0x80) {
      // The second byte has narrower bounds behind some first bytes: no longer form than needed, no half of a pair.
      const unsigned low = first == 0xe0   ? 0xa0
                           : first == 0xf0 ? 0x90
                                           : 0x80,
                     high = first == 0xed   ? 0x9f
                            : first == 0xf4 ? 0x8f
                                            : 0xbf;
      if (first < 0xc2 || first > 0xf4 || second < low || second > high) return false;
      length = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
      for (std::size_t more = 2; more < length; ++more)
        if ((byte(more) & 0xc0) != 0x80) return false;
    }
    at += length;
  }
  return true;
}

/// Return whether a row of a certificate has passed, and has the figures of one that did.
inline bool has_passed(const Json& row) {
  const auto value = [](const Json& table, const char* key) { return table.value(key, Json()); };
  const auto is_within = [&](const char* error, const char* band) {
    const Json found = value(row, error), allowed = value(row, band);
    return found.is_number() && allowed.is_number() && found.get<double>() <= allowed.get<double>();
  };
  const auto is_none = [](const Json& count) {
    return count.is_null() || (count.is_number() && count.get<double>() == 0);
  };
  const bool has_mean = row.contains("mean_error") || row.contains("mean_band");
  const Json grey = value(row, "grey");
  return value(row, "passed") == Json(true) && is_within("error", "band") &&
         (!has_mean || is_within("mean_error", "mean_band")) && value(row, "fault").is_null() &&
         is_none(value(row, "outside")) &&
         (grey.is_null() || (grey.is_object() && is_none(value(grey, "unexplained"))));
}

/// Check that a certificate has the hash of each thing that a manifest says, of which `bytes` were read.
inline void check_statements(const Json& statements, std::string_view bytes) {
  const std::string here(certificate_name);
  const auto check = [&](const std::string& subject, const Json& value) {
    const std::string expected = sha256(dump_spelled(value));
    const Json found = statements.value(subject, Json());
    if (!is_text(found, expected))
      refuse("certificate belongs to another manifest", here + ", " + printable(subject), expected, shown(found));
  };
  Json manifest = parse_spelled(bytes);
  for (const char* key : {"contract", "opset", "versions", "provenance"}) check(key, manifest.at(key));
  for (Json& file : manifest.at("files")) {
    file.erase("inputs");
    file.erase("outputs");
    check("file " + file.at("name").get<std::string>(), file);
  }
  for (const Json& golden : manifest.at("golden"))
    check("golden vectors of " + golden.at("part").get<std::string>(), golden);
}

/// Return the certificate, which must have passed, belong to these files, and not contradict itself.
inline Json read_certificate(std::string_view bytes, const Manifest& manifest, std::string_view manifest_bytes) {
  const std::string here(certificate_name);
  Json certificate = parse_json(bytes, here, certificate_limit);
  const Json& format = certificate.at("format");
  const bool is_first = is_text(format, "vae-export-certificate/1");
  if (!is_first && !is_text(format, "vae-export-certificate/2"))
    refuse("certificate of another version", here, {}, shown(format));
  const auto need = [&](bool is_right) {
    if (!is_right) refuse("certificate cannot be read", here);
  };
  const auto all_of = [](const Json& items, const auto& is_right) {
    return std::all_of(items.begin(), items.end(), is_right);
  };
  const auto is_string = [](const Json& value) { return value.is_string(); };
  const auto is_number = [](const Json& value) { return value.is_number(); };
  const Json &files = certificate.at("files"), &rows = certificate.at("rows"),
             &planned = certificate.at("planned_rows"), &failed = certificate.at("failed_rows");
  const Json findings = certificate.value("findings", Json::array()),
             tolerance = certificate.value("tolerance", Json()),
             unstated = is_first ? Json::object() : Json(),  // every later format states them
             reproduction = certificate.value("reproduction", unstated),
             statements = certificate.value("manifest", unstated),
             allowed = certificate.value("unreproduced_allowed", Json(false));
  need(files.is_object() && all_of(files, is_string));
  need(statements.is_object() && all_of(statements, is_string));
  need(reproduction.is_object() && all_of(reproduction, [](const Json& item) { return item.at("state").is_string(); }));
  need(rows.is_array() && all_of(rows, [](const Json& row) { return row.is_object(); }));
  need(findings.is_array() && all_of(findings, [](const Json& finding) { return finding.at("severity").is_string(); }));
  need(tolerance.is_null() || (tolerance.is_object() && all_of(tolerance, is_number)));
  need(certificate.value("environment", Json::object()).is_object() && allowed.is_boolean());
  need(is_whole(planned) && is_whole(failed));
  if (!is_text(certificate.at("verdict"), "pass"))
    refuse("certificate did not pass", here, "pass", shown(certificate.at("verdict")));
  for (const StoredFile& file : manifest.model_files()) {
    const Json found = files.value(file.name, Json());
    if (!is_text(found, file.sha256))
      refuse("certificate belongs to another file", here + ", " + file.name, printable(file.sha256), shown(found));
  }
  const auto is_reproduced = [](const Json& item) {
    return is_text(item.at("state"), "reproduced") || is_text(item.at("state"), "same structure");
  };
  if (!is_first) {
    for (const ModelFile& file : manifest.files)
      if (!reproduction.contains(file.name)) refuse("certificate is incomplete", here, printable(file.name));
    check_statements(statements, manifest_bytes);
  }
  if (!is_first && !allowed.get<bool>() && !all_of(reproduction, is_reproduced))
    refuse("certificate contradicts itself", here, "every file reproduced");
  const bool is_complete = !rows.empty() && planned.get<uint64_t>() == rows.size() && failed.get<uint64_t>() == 0;
  const auto is_no_error = [](const Json& finding) { return !is_text(finding.at("severity"), "error"); };
  if (!is_complete || !all_of(rows, has_passed) || !all_of(findings, is_no_error))
    refuse("certificate contradicts itself", here, "as many rows as planned, all passed, and no error");
  return certificate;
}

inline std::vector<char> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const std::streamoff size = file ? static_cast<std::streamoff>(file.tellg()) : -1;
  if (size < 0) throw BundleError("bundle cannot be read: " + path);
  if (size > std::streamoff{0xffffffff})
    refuse("bundle is too large", path, "less than 2^32 bytes", std::to_string(size));
  std::vector<char> bytes(static_cast<std::size_t>(size));
  file.seekg(0);
  if (!file.read(bytes.data(), size)) throw BundleError("bundle cannot be read: " + path);
  return bytes;
}

}  // namespace detail

/// An opened bundle, of which every byte was checked.
class Bundle {
 public:
  /// Open a file. `verify_key` is the Ed25519 public key of whoever must have signed the bundle, as the text of a PEM
  /// file; without it, no signature is needed and none is checked. Throws BundleError.
  static Bundle open(const std::string& path, const std::string& verify_key = {}) {
    return Bundle(detail::read_file(path), verify_key);
  }

  /// Open the bytes of a whole file.
  explicit Bundle(std::vector<char> bytes, const std::string& verify_key = {}) : bytes_(std::move(bytes)) {
    read(verify_key);
  }
  Bundle(Bundle&&) = default;  // the views of its bytes stay valid, because a vector keeps its memory
  Bundle& operator=(Bundle&&) = default;

  /// The SHA-256 of the list of hashes, which only bundles with equal contents share.
  const std::string& identity() const { return identity_; }
  /// The fingerprint of the key with which the signature was checked; empty if no key was given.
  const std::string& signed_by() const { return signed_by_; }
  const Manifest& manifest() const { return manifest_; }
  const Contract& contract() const { return manifest_.contract; }
  const Json& certificate() const { return certificate_; }
  /// The model card. A stranger's text: never send it to a terminal or into a page as it is.
  std::string_view card() const { return file(std::string(detail::card_name)); }

  /// Return the bytes of a file; throws BundleError if there is none.
  std::string_view file(const std::string& name) const {
    const auto found = files_.find(name);
    if (found == files_.end()) refuse("file is missing", name);
    return found->second;
  }

  /// Return a golden array. Files are little-endian, as is every machine for which the engines are built.
  Tensor golden(const GoldenArray& array) const {
    const std::string_view bytes = file(array.file);
    Tensor tensor{zeros(array.dtype, count_of(array.shape)), array.shape};
    std::visit([&](auto& numbers) { std::memcpy(numbers.data(), bytes.data(), bytes.size()); }, tensor.data);
    return tensor;
  }

  /// Return the golden inputs of a part by name; none if the bundle has no golden vectors of it.
  Tensors golden_inputs(Part part) const {
    Tensors inputs;
    if (const GoldenPart* found = manifest_.golden_of(part))
      for (const GoldenArray& array : found->inputs) inputs[array.tensor] = golden(array);
    return inputs;
  }

  /// Return the values that the contract's symbols have in the golden vectors.
  Sizes golden_sizes() const {
    Sizes values;
    for (const GoldenPart& golden : manifest_.golden) {
      const Signature signature = contract().tensors_of(golden.part);
      for (std::size_t index = 0; index < golden.inputs.size(); ++index) {
        const Shape& shape = golden.inputs[index].shape;
        fits({shape.begin() + 1, shape.end()}, signature.inputs[index], values);
      }
    }
    return values;
  }

 private:
  void read(const std::string& verify_key) {
    using namespace detail;
    const std::vector<Entry> entries = read_archive({bytes_.data(), bytes_.size()});
    if (entries.empty() || entries.front().name != sums_name)
      refuse("not a bundle", "its first file", std::string(sums_name));
    for (const Entry& entry : entries) files_[entry.name] = entry.data;
    const std::string_view sums = entries.front().data;
    if (sums.size() > sums_line * entries.size()) refuse("list of hashes is too long", std::string(sums_name));
    check_signature(sums, verify_key);
    const auto hashes = check_sums(sums, entries);
    for (const Entry& entry : entries)  // after SHA-256, whose message says more
      if (crc32(entry.data) != entry.crc) refuse("file has another CRC-32 than its header", entry.name);
    manifest_ = read_manifest(file("manifest.json"));
    check_entries(entries, hashes);
    certificate_ = read_document(std::string(certificate_name), [&] {
      return read_certificate(file(std::string(certificate_name)), manifest_, file("manifest.json"));
    });
    for (const std::string_view name : {card_name, licence_name}) {
      const std::string_view text = file(std::string(name));
      if (text.size() > text_limit)
        refuse("text is too long", std::string(name), std::to_string(text_limit) + " bytes at most");
      if (!is_utf8(text)) refuse("not a text", std::string(name), "UTF-8");
    }
    identity_ = sha256(sums);
    check_golden_numbers();
  }

  void check_signature(std::string_view sums, const std::string& verify_key) {
    const auto signature = files_.find(std::string(detail::signature_name));
    if (signature != files_.end() && signature->second.size() != crypto_sign_BYTES)
      refuse("signature cannot be read", signature->first, "64 bytes", std::to_string(signature->second.size()));
    if (verify_key.empty()) return;
    const PublicKey key(verify_key);
    const std::string expected = "a signature by the key " + key.fingerprint();
    if (signature == files_.end()) refuse("not signed", {}, expected);
    if (!key.verifies(signature->second, sums))
      refuse("signature is not valid", {}, expected, "one by another key, or of other contents");
    signed_by_ = key.fingerprint();
  }

  /// Check the hash of every file, and that the list of hashes is in its only valid spelling. Return the hashes by
  /// name.
  static std::map<std::string, std::string> check_sums(std::string_view sums, const std::vector<Entry>& entries) {
    std::map<std::string, std::string> stated, hashes;
    for (std::size_t begin = 0, end; (end = sums.find('\n', begin)) != std::string_view::npos; begin = end + 1) {
      const std::string_view line = sums.substr(begin, end - begin);
      stated[std::string(line.substr(std::min<std::size_t>(66, line.size())))] = line.substr(0, 64);
    }
    std::string canonical;
    for (const Entry& entry : entries) {
      if (entry.name == detail::sums_name || entry.name == detail::signature_name) continue;
      const auto listed = stated.find(entry.name);
      if (listed == stated.end()) refuse("extra file", entry.name, "the files in SHA256SUMS");
      const std::string found = hashes[entry.name] = sha256(entry.data);
      if (listed->second != found)
        refuse("file was altered", entry.name, "SHA-256 " + printable(listed->second), found);
      canonical += found + "  " + entry.name + "\n";
    }
    for (const auto& [name, digest] : stated)
      if (hashes.count(name) == 0) refuse("file is missing", printable(name));
    if (sums != canonical) refuse("list of hashes is malformed", std::string(detail::sums_name));
    return hashes;
  }

  /// Check that the archive holds exactly the files of section 2, in that order, with the hashes of the manifest.
  void check_entries(const std::vector<Entry>& entries, const std::map<std::string, std::string>& hashes) const {
    using namespace detail;
    std::vector<std::string> wanted = {std::string(sums_name), std::string(signature_name), "manifest.json"};
    const auto check = [&](const std::string& name, const std::string& digest, double size) {
      const auto found = hashes.find(name);
      if (found == hashes.end()) refuse("file is missing", name);
      if (found->second != digest)
        refuse("hash is not the manifest's", name, "SHA-256 " + printable(digest), found->second);
      if (static_cast<double>(files_.at(name).size()) != size)
        refuse("wrong size", name, {}, std::to_string(files_.at(name).size()) + " bytes");
      if (std::find(wanted.begin(), wanted.end(), name) == wanted.end()) wanted.push_back(name);
    };
    for (const StoredFile& file : manifest_.model_files())
      check(file.name, file.sha256, static_cast<double>(file.size));
    for (const GoldenPart& golden : manifest_.golden)
      for (const auto* arrays : {&golden.inputs, &golden.outputs})
        for (const GoldenArray& array : *arrays) {
          double size = static_cast<double>(size_of(array.dtype));
          for (const int64_t axis : array.shape) size *= static_cast<double>(axis);
          check(array.file, array.sha256, size);
        }
    for (const std::string_view name : {certificate_name, page_name, card_name, licence_name})
      wanted.emplace_back(name);
    std::size_t place = 0;
    for (const std::string& name : wanted) {
      if (place < entries.size() && entries[place].name == name) {
        ++place;
      } else if (files_.count(name) != 0) {
        refuse("files are out of order", {}, name, place < entries.size() ? entries[place].name : "the end");
      } else if (name != signature_name && name != page_name) {
        refuse("file is missing", name);
      }
    }
    if (place < entries.size()) refuse("extra file", entries[place].name, "the files that manifest.json names");
  }

  /// Refuse golden numbers that are not finite, and golden integers that are out of their range.
  void check_golden_numbers() const {
    for (const GoldenPart& golden : manifest_.golden) {
      const Signature signature = contract().tensors_of(golden.part);
      const auto check = [&](const std::vector<GoldenArray>& arrays, const std::vector<TensorSpec>& tensors) {
        for (std::size_t index = 0; index < arrays.size(); ++index) {
          const std::optional<Range>& range = tensors[index].range;
          const auto is_right = [&](auto number) {
            const auto value = static_cast<double>(number);
            if constexpr (std::is_floating_point_v<decltype(number)>) return std::isfinite(value);
            return value >= range->low && value <= range->high;
          };
          const Tensor tensor = this->golden(arrays[index]);
          std::visit(
              [&](const auto& numbers) {
                if (!std::all_of(numbers.begin(), numbers.end(), is_right))
                  refuse("golden number is not finite or out of range", arrays[index].file);
              },
              tensor.data);
        }
      };
      check(golden.inputs, signature.inputs);
      check(golden.outputs, signature.outputs);
    }
  }

  std::vector<char> bytes_;
  std::map<std::string, std::string_view> files_;
  std::string identity_, signed_by_;
  Manifest manifest_;
  Json certificate_;
};

}  // namespace vae
