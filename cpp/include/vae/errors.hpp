// The errors of the library, whose messages say what, where, what was expected and what was found.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace vae {

/// The bundle is damaged, is not what the specification says, or lacks what was asked for. The message names the place.
class BundleError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// An argument does not fit the model: a wrong name, shape or type, a number out of range or not finite.
class InputError : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

/// Return a stranger's text in a form that a terminal can show: printable ASCII, other bytes as `\xNN`, cut after 120.
inline std::string printable(std::string_view text) {
  std::string shown;
  for (const char letter : text.substr(0, 120)) {
    const auto byte = static_cast<unsigned char>(letter);
    if (byte >= 0x20 && byte < 0x7f) {
      shown += letter;
    } else {
      shown += "\\x";
      shown += "0123456789abcdef"[byte >> 4];
      shown += "0123456789abcdef"[byte & 15];
    }
  }
  return shown;
}

/// Write an error message. Empty texts are left out.
inline std::string describe(std::string what, const std::string& where = {}, const std::string& expected = {},
                            const std::string& got = {}) {
  if (!where.empty()) what += ": " + where;
  if (!expected.empty()) what += "; expected " + expected;
  if (!got.empty()) what += (expected.empty() ? "; got " : ", got ") + got;
  return what;
}

/// Throw a BundleError.
[[noreturn]] inline void refuse(const std::string& what, const std::string& where = {},
                                const std::string& expected = {}, const std::string& got = {}) {
  throw BundleError(describe(what, where, expected, got));
}

}  // namespace vae
