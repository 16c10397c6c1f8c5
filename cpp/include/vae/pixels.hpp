// Pixels: levels of 0 to 255 (section 4 of the specification), grids of images, and PNG files.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "contract.hpp"
#include "errors.hpp"
#include "hash.hpp"
#include "tensor.hpp"

namespace vae {

/// Return the byte that shows a pixel.
inline uint8_t to_level(double pixel, const Range& range) {
  const double scaled = (pixel - range.low) / (range.high - range.low) * 255;
  return static_cast<uint8_t>(std::floor(std::clamp(scaled, 0.0, 255.0) + 0.5));
}

namespace detail {

/// Copy images from one layout to another: calls `copy(index in (N, C, H, W), index in (N, H, W, C))` for each number.
template <class Copy>
void for_each_pixel(int64_t rows, int64_t channels, int64_t plane, Copy copy) {
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t channel = 0; channel < channels; ++channel)
      for (int64_t pixel = 0; pixel < plane; ++pixel)
        copy(static_cast<std::size_t>((row * channels + channel) * plane + pixel),
             static_cast<std::size_t>((row * plane + pixel) * channels + channel));
}

inline void need_image(const Tensor& images) {
  if (images.shape.size() != 4) throw InputError(describe("no images", {}, "four sizes", to_string(images.shape)));
}

}  // namespace detail

/// Round images, float32 (N, C, H, W), to bytes in a layout.
inline Tensor to_pixels(const Tensor& images, const Range& range, Layout layout = Layout::hwc) {
  detail::need_image(images);
  const int64_t rows = images.shape[0], channels = images.shape[1], height = images.shape[2], width = images.shape[3];
  const std::vector<float>& numbers = images.as<float>();
  std::vector<uint8_t> bytes(numbers.size());
  detail::for_each_pixel(rows, channels, height * width, [&](std::size_t first, std::size_t last) {
    bytes[layout == Layout::chw ? first : last] = to_level(numbers[first], range);
  });
  if (layout == Layout::chw) return {std::move(bytes), images.shape};
  return {std::move(bytes), {rows, height, width, channels}};
}

/// Return pixels of the other layout in this one.
inline Tensor to_layout(const Tensor& pixels, Layout layout) {
  detail::need_image(pixels);
  const Shape& shape = pixels.shape;
  const bool is_last = layout == Layout::hwc;  // of the result
  const int64_t rows = shape[0], channels = is_last ? shape[1] : shape[3], height = is_last ? shape[2] : shape[1],
                width = is_last ? shape[3] : shape[2];
  const std::vector<uint8_t>& bytes = pixels.as<uint8_t>();
  std::vector<uint8_t> moved(bytes.size());
  detail::for_each_pixel(rows, channels, height * width, [&](std::size_t first, std::size_t last) {
    moved[is_last ? last : first] = bytes[is_last ? first : last];
  });
  return {std::move(moved), is_last ? Shape{rows, height, width, channels} : Shape{rows, channels, height, width}};
}

/// Arrange images, uint8 (N, H, W, C), in a grid (1, H', W', C). Places without an image are 0.
inline Tensor to_grid(const Tensor& pixels, int64_t columns) {
  detail::need_image(pixels);
  const int64_t rows = pixels.shape[0], height = pixels.shape[1], width = pixels.shape[2], channels = pixels.shape[3];
  if (rows < 1 || columns < 1) throw InputError("no images, or no columns");
  const int64_t down = (rows + columns - 1) / columns * height, across = columns * width, line = width * channels;
  std::vector<uint8_t> grid(static_cast<std::size_t>(down * across * channels));
  auto from = pixels.as<uint8_t>().begin();
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t y = 0; y < height; ++y, from += line)
      std::copy_n(from, line, grid.begin() + ((row / columns * height + y) * columns + row % columns) * line);
  return {std::move(grid), {1, down, across, channels}};
}

namespace detail {

inline std::string big_endian(uint32_t value) {
  return {static_cast<char>(value >> 24), static_cast<char>(value >> 16 & 0xff), static_cast<char>(value >> 8 & 0xff),
          static_cast<char>(value & 0xff)};
}

inline std::string png_chunk(const std::string& kind, const std::string& content) {
  return big_endian(static_cast<uint32_t>(content.size())) + kind + content + big_endian(crc32(kind + content));
}

/// Return bytes in zlib's format, in blocks that are not compressed: this library needs no zlib.
inline std::string zlib_stored(std::string_view bytes) {
  constexpr std::size_t most = 0xffff;  // bytes of a block
  std::string packed = "\x78\x01";
  uint32_t a = 1, b = 0;  // Adler-32
  for (const char letter : bytes) {
    a = (a + static_cast<unsigned char>(letter)) % 65521;
    b = (b + a) % 65521;
  }
  for (std::size_t at = 0; at < bytes.size(); at += most) {
    const std::string_view block = bytes.substr(at, most);
    const auto size = static_cast<uint32_t>(block.size());
    packed += at + most >= bytes.size() ? '\1' : '\0';
    for (const uint32_t number : {size, ~size}) {
      packed += static_cast<char>(number & 0xff);
      packed += static_cast<char>(number >> 8 & 0xff);
    }
    packed += block;
  }
  return packed + big_endian(b << 16 | a);
}

}  // namespace detail

/// Return an image as the bytes of a PNG file. `pixels` is uint8 (N, H, W, C) of 1 to 4 channels: grey, grey with
/// opacity, colour, colour with opacity. Several images are arranged in a grid; without `columns`, it is about square.
inline std::string encode_png(const Tensor& pixels, int64_t columns = 0) {
  detail::need_image(pixels);
  const int64_t rows = pixels.shape[0], channels = pixels.shape[3];
  if (channels < 1 || channels > 4)
    throw InputError(describe("no image that can be shown", {}, "1 to 4 channels", std::to_string(channels)));
  if (columns < 1) columns = static_cast<int64_t>(std::ceil(std::sqrt(static_cast<double>(rows))));
  const Tensor grid = to_grid(pixels, columns);
  const std::vector<uint8_t>& bytes = grid.as<uint8_t>();
  const auto height = static_cast<uint32_t>(grid.shape[1]), width = static_cast<uint32_t>(grid.shape[2]);
  std::string lines;
  const std::ptrdiff_t line = grid.shape[2] * channels;
  for (auto from = bytes.begin(); from != bytes.end(); from += line) {
    lines += '\0';  // the filter of a line: none
    lines.append(from, from + line);
  }
  const char kinds[] = {0, 4, 2, 6};
  const std::string format = {8, kinds[channels - 1], 0, 0, 0};
  return "\x89PNG\r\n\x1a\n" +
         detail::png_chunk("IHDR", detail::big_endian(width) + detail::big_endian(height) + format) +
         detail::png_chunk("IDAT", detail::zlib_stored(lines)) + detail::png_chunk("IEND", {});
}

/// Write an image as a PNG file: see `encode_png`.
inline void write_png(const std::string& path, const Tensor& pixels, int64_t columns = 0) {
  const std::string bytes = encode_png(pixels, columns);
  std::ofstream file(path, std::ios::binary);
  if (!file.write(bytes.data(), static_cast<std::streamsize>(bytes.size())).flush())
    throw InputError("cannot write " + path);
}

}  // namespace vae
