// JSON of unknown origin (section 3 of the specification). nlohmann-json alone would accept what two parsers read
// differently: a key that occurs twice, a whole number that does not fit, a byte order mark, a NUL at the end.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "errors.hpp"

namespace vae {

using Json = nlohmann::json;

namespace detail {

inline constexpr std::size_t most_depth = 64, most_values = 1 << 22;

/// Builds a document, and stops at what is not allowed.
class StrictHandler : public nlohmann::json_sax<Json> {
 public:
  /// With `spells`, a number is kept as its document spells it: in the bytes of a binary value, which no document has.
  explicit StrictHandler(bool spells = false) : spells_(spells) {}

  Json document;
  std::string fault;

  bool null() override { return put(nullptr); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(Json::number_integer_t value) override {
    return spells_ ? put_spelled(std::to_string(value)) : put(value);
  }
  bool number_unsigned(Json::number_unsigned_t value) override {
    return spells_ ? put_spelled(std::to_string(value)) : put(value);
  }
  bool number_float(Json::number_float_t value, const std::string& token) override {
    std::string text = token;
    const std::size_t point = text.find_first_not_of("+-0123456789eE");
    if (point != std::string::npos) text[point] = '.';  // nlohmann-json before 3.12 gives the one of the locale
    const bool is_whole = text.find_first_of(".eE") == std::string::npos;  // one that fits no integer
    if (!std::isfinite(value) || (is_whole && !is_below_2_64(text))) return fail("number is too large");
    return spells_ ? put_spelled(text) : put(value);
  }
  bool string(std::string& value) override { return put(std::move(value)); }
  bool binary(Json::binary_t&) override { return fail("binary value"); }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(std::string& name) override {
    if (open_.back()->contains(name)) return fail("duplicate key \"" + printable(name) + "\"");
    key_ = std::move(name);
    return true;
  }
  bool parse_error(std::size_t place, const std::string&, const Json::exception&) override {
    return fail("unexpected byte " + std::to_string(place));
  }

 private:
  /// Of whole numbers beyond int64 and uint64, those down to 1 - 2^64 are allowed.
  static bool is_below_2_64(const std::string& text) {
    constexpr std::string_view limit = "18446744073709551616";
    const std::string_view digits = std::string_view(text).substr(text.front() == '-' ? 1 : 0);
    return digits.size() < limit.size() || (digits.size() == limit.size() && digits < limit);
  }

  Json* place(Json value) {
    if (open_.empty()) {
      document = std::move(value);
      return &document;
    }
    Json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    return &(parent[key_] = std::move(value));
  }
  bool put(Json value) {
    place(std::move(value));
    return true;
  }
  bool put_spelled(const std::string& text) {
    return put(Json::binary(std::vector<std::uint8_t>(text.begin(), text.end())));
  }
  bool open(Json value) {
    open_.push_back(place(std::move(value)));
    return open_.size() <= most_depth || fail("more than 64 levels");
  }
  bool close() {
    open_.pop_back();
    return true;
  }
  bool fail(std::string what) {
    fault = std::move(what);
    return false;
  }

  bool spells_;
  std::vector<Json*> open_;
  std::string key_;
};

}  // namespace detail

/// Parse JSON strictly. `name` is the file, for messages; `limit` is its largest size in bytes.
inline Json parse_json(std::string_view bytes, const std::string& name, std::size_t limit) {
  if (bytes.size() > limit)
    refuse("file is too large", name, std::to_string(limit) + " bytes at most", std::to_string(bytes.size()));
  const auto is_value = [](char byte) { return byte == ',' || byte == '[' || byte == '{'; };
  if (static_cast<std::size_t>(std::count_if(bytes.begin(), bytes.end(), is_value)) > detail::most_values)
    refuse("file is too large", name, "4194304 values at most");
  // The parser would skip a byte order mark, and take a NUL for the end.
  if (bytes.substr(0, 3) == "\xef\xbb\xbf" || bytes.find('\0') != std::string_view::npos)
    refuse("JSON cannot be read", name, "text without a byte order mark and NUL");
  detail::StrictHandler handler;
  if (!Json::sax_parse(bytes.begin(), bytes.end(), &handler)) refuse("JSON cannot be read", name, {}, handler.fault);
  return std::move(handler.document);
}

/// Parse JSON that `parse_json` accepts, with each number as its document spells it, for `dump_spelled`.
inline Json parse_spelled(std::string_view bytes) {
  detail::StrictHandler handler(true);
  Json::sax_parse(bytes.begin(), bytes.end(), &handler);
  return std::move(handler.document);
}

/// Return what `parse_spelled` gave, or a part of it, as JSON in the one spelling that is hashed (section 2).
inline std::string dump_spelled(const Json& value) {
  const auto in_ascii = [](const Json& text) { return text.dump(-1, ' ', true); };
  if (value.is_binary()) return {value.get_binary().begin(), value.get_binary().end()};
  if (!value.is_structured()) return in_ascii(value);
  std::string members;
  for (const auto& [key, item] : value.items()) {  // the keys of an object are in the order of their code points
    if (!members.empty()) members += ", ";
    members += (value.is_object() ? in_ascii(key) + ": " : "") + dump_spelled(item);
  }
  return value.is_object() ? "{" + members + "}" : "[" + members + "]";
}

/// Return what `read()` makes of a document. A forged one can hold any type in any place, or lack any key.
template <class Read>
auto read_document(const std::string& name, Read read) {
  try {
    return read();
  } catch (const Json::exception& error) {
    refuse("a value is missing or of another type", name, {}, printable(error.what()));
  }
}

/// Return whether a value is a whole number, written without a fraction, from `lowest` up, that a float64 holds
/// exactly.
inline bool is_whole(const Json& value, int64_t lowest = 0) {
  constexpr int64_t limit = int64_t{1} << 53;
  if (value.is_number_unsigned() && value.get<uint64_t>() >= static_cast<uint64_t>(limit)) return false;
  return value.is_number_integer() && value.get<int64_t>() >= lowest && value.get<int64_t>() < limit;
}

}  // namespace vae
