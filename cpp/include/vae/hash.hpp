// SHA-256 and Ed25519 by libsodium, and the CRC-32 of ZIP and PNG.
#pragma once

#include <sodium.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

#include "errors.hpp"

namespace vae {

namespace detail {

inline const unsigned char* bytes_of(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

inline void start_sodium() {
  static const bool started = sodium_init() >= 0;
  if (!started) throw std::runtime_error("libsodium cannot be started");
}

inline constexpr std::array<uint32_t, 256> crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t value = byte;
    for (int bit = 0; bit < 8; ++bit) value = (value & 1) != 0 ? (value >> 1) ^ 0xedb88320 : value >> 1;
    table[byte] = value;
  }
  return table;
}

}  // namespace detail

/// Return the SHA-256 of some bytes, in lower-case hexadecimal digits.
inline std::string sha256(std::string_view data) {
  detail::start_sodium();
  std::array<unsigned char, crypto_hash_sha256_BYTES> digest;
  crypto_hash_sha256(digest.data(), detail::bytes_of(data), data.size());
  std::string digits(2 * digest.size() + 1, '\0');
  sodium_bin2hex(digits.data(), digits.size(), digest.data(), digest.size());
  digits.pop_back();
  return digits;
}

/// Return the CRC-32 of some bytes.
inline uint32_t crc32(std::string_view data) {
  static constexpr std::array<uint32_t, 256> table = detail::crc_table();
  uint32_t value = ~uint32_t{0};
  for (const char letter : data) value = table[(value ^ static_cast<unsigned char>(letter)) & 0xff] ^ (value >> 8);
  return ~value;
}

/// An Ed25519 public key (RFC 8032).
class PublicKey {
 public:
  /// Read the text of a PEM file, as `openssl pkey -pubout` writes it.
  explicit PublicKey(std::string_view pem) {
    static constexpr std::string_view begin = "-----BEGIN PUBLIC KEY-----", end = "-----END PUBLIC KEY-----";
    static constexpr std::string_view spaces = " \t\r\n";
    // An object of ASN.1 that says Ed25519, and then the 32 bytes of the key (RFC 8410).
    static constexpr std::array<unsigned char, 12> prefix = {0x30, 0x2a, 0x30, 0x05, 0x06, 0x03,
                                                             0x2b, 0x65, 0x70, 0x03, 0x21, 0x00};
    detail::start_sodium();
    pem.remove_prefix(std::min(pem.find_first_not_of(spaces), pem.size()));
    pem = pem.substr(0, pem.find_last_not_of(spaces) + 1);
    std::size_t size = 0;
    const bool framed = pem.size() > begin.size() + end.size() && pem.substr(0, begin.size()) == begin &&
                        pem.substr(pem.size() - end.size()) == end;
    const std::string_view base64 = framed ? pem.substr(begin.size(), pem.size() - begin.size() - end.size()) : "";
    const int code = sodium_base642bin(der_.data(), der_.size(), base64.data(), base64.size(), spaces.data(), &size,
                                       nullptr, sodium_base64_VARIANT_ORIGINAL);
    if (!framed || code != 0 || size != der_.size() || !std::equal(prefix.begin(), prefix.end(), der_.begin()))
      throw InputError(describe("key cannot be read", {}, "an Ed25519 public key in PEM"));
  }

  /// Return the SHA-256 of the key in DER.
  std::string fingerprint() const { return sha256({reinterpret_cast<const char*>(der_.data()), der_.size()}); }

  /// Return whether the owner of the key has signed these bytes.
  bool verifies(std::string_view signature, std::string_view signed_bytes) const {
    return signature.size() == crypto_sign_BYTES &&
           crypto_sign_verify_detached(detail::bytes_of(signature), detail::bytes_of(signed_bytes), signed_bytes.size(),
                                       der_.data() + der_.size() - crypto_sign_PUBLICKEYBYTES) == 0;
  }

 private:
  std::array<unsigned char, 44> der_{};
};

}  // namespace vae
