// The container (section 1 of the specification): a ZIP file in one canonical form. A header has one form: it is built,
// and compared.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "errors.hpp"

namespace vae {

/// A file of an archive, and the CRC-32 that its header states.
struct Entry {
  std::string name;
  std::string_view data;
  uint32_t crc = 0;
};

inline std::string lower_case(std::string text) {
  for (char& letter : text)
    if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
  return text;
}

/// Return whether a name is allowed: one or two parts of 1 to 100 characters, joined by a slash.
inline bool is_entry_name(std::string_view name) {
  const auto is_alphanumeric = [](char letter) {
    return (letter >= 'A' && letter <= 'Z') || (letter >= 'a' && letter <= 'z') || (letter >= '0' && letter <= '9');
  };
  const auto is_part = [&](std::string_view part) {
    return !part.empty() && part.size() <= 100 && is_alphanumeric(part.front()) && part.back() != '.' &&
           std::all_of(part.begin(), part.end(), [&](char letter) {
             return is_alphanumeric(letter) || letter == '.' || letter == '_' || letter == '-';
           });
  };
  const std::size_t slash = name.find('/');
  return slash == std::string_view::npos ? is_part(name)
                                         : is_part(name.substr(0, slash)) && is_part(name.substr(slash + 1));
}

namespace detail {

inline constexpr uint32_t local_magic = 0x04034b50, central_magic = 0x02014b50, end_magic = 0x06054b50;
inline constexpr uint64_t central_size = 46, end_size = 22;  // bytes of a header without its name

/// Write integers of these widths in bytes, little-endian.
inline std::string packed(const std::vector<std::pair<int, uint64_t>>& fields) {
  std::string bytes;
  for (const auto& [width, value] : fields)
    for (int byte = 0; byte < width; ++byte) bytes += static_cast<char>(value >> (8 * byte) & 0xff);
  return bytes;
}

inline uint64_t number_at(std::string_view bytes, uint64_t at, int width) {
  uint64_t value = 0;
  for (int byte = 0; byte < width; ++byte)
    value |= uint64_t{static_cast<unsigned char>(bytes[at + static_cast<uint64_t>(byte)])} << (8 * byte);
  return value;
}

/// The fields that both headers of an entry have: version, flags, method, time, date, checksum, sizes, lengths.
inline std::string shared_fields(const std::string& name, uint32_t crc, uint64_t size) {
  return packed({{2, 20}, {2, 0}, {2, 0}, {2, 0}, {2, 0x21}, {4, crc}, {4, size}, {4, size}, {2, name.size()}, {2, 0}});
}

inline std::string local_header(const std::string& name, uint32_t crc, uint64_t size) {
  return packed({{4, local_magic}}) + shared_fields(name, crc, size) + name;
}

inline std::string central_header(const std::string& name, uint32_t crc, uint64_t size, uint64_t offset) {
  return packed({{4, central_magic}, {2, 0x0314}}) + shared_fields(name, crc, size) +
         packed({{2, 0}, {2, 0}, {2, 0}, {4, 0x81a40000}, {4, offset}}) + name;
}

inline std::string end_record(uint64_t count, uint64_t size, uint64_t start) {
  return packed({{4, end_magic}, {2, 0}, {2, 0}, {2, count}, {2, count}, {4, size}, {4, start}, {2, 0}});
}

}  // namespace detail

/// Return the files of an archive in order, as views of `bytes`.
inline std::vector<Entry> read_archive(std::string_view bytes) {
  using namespace detail;
  if (bytes.size() < end_size || number_at(bytes, 0, 4) != local_magic)
    refuse("not a bundle", "this file", "a ZIP file made by vae-export bundle");
  const uint64_t end = bytes.size() - end_size;
  const uint64_t count = number_at(bytes, end + 10, 2), size = number_at(bytes, end + 12, 4),
                 start = number_at(bytes, end + 16, 4);
  if (number_at(bytes, end, 4) != end_magic || start + size != end || count >= 0xffff)
    refuse("bundle is cut off, or has bytes after its end");
  std::vector<Entry> entries;
  std::set<std::string> folded;
  uint64_t position = 0, header = start;
  for (uint64_t number = 1; number <= count; ++number) {
    if (header + central_size > end) refuse("bundle is cut off", "entry " + std::to_string(number));
    const auto crc = static_cast<uint32_t>(number_at(bytes, header + 16, 4));
    const uint64_t length = number_at(bytes, header + 20, 4), name_length = number_at(bytes, header + 28, 2);
    const std::string name(bytes.substr(header + central_size, std::min(name_length, end - header - central_size)));
    if (!is_entry_name(name)) refuse("file name is not allowed", "\"" + printable(name) + "\"");
    if (!folded.insert(lower_case(name)).second) refuse("two files have one name", name);
    const std::string central = central_header(name, crc, length, position), local = local_header(name, crc, length);
    const uint64_t body = position + local.size();
    if (body + length > start) refuse("file is not where it should be", name);
    if (bytes.substr(header, central.size()) != central || bytes.substr(position, local.size()) != local)
      refuse("header is not in the canonical form", name);
    entries.push_back({name, bytes.substr(body, length), crc});
    position = body + length;
    header += central.size();
  }
  if (position != start || header != end || bytes.substr(end) != end_record(count, size, start))
    refuse("bundle is not in the canonical form", "central directory");
  return entries;
}

}  // namespace vae
