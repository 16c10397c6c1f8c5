// Images as a file that any viewer opens.
#pragma once

#include <fstream>
#include <stdexcept>
#include <string>

#include "golden.hpp"

namespace vae {

/// Images (N, C, H, W) → a grid as PGM, or as PPM where there are three channels.
inline void write_picture(const std::string& path, const Tensor& images, Range range, int64_t columns) {
  const int64_t n = images.shape.at(0), channels = images.shape.at(1), height = images.shape.at(2),
                width = images.shape.at(3), rows = (n + columns - 1) / columns;
  std::string grid(rows * height * columns * width * channels, '\0');
  auto pixel = images.data.begin();
  for (int64_t image = 0; image < n; ++image)
    for (int64_t channel = 0; channel < channels; ++channel)
      for (int64_t y = 0; y < height; ++y)
        for (int64_t x = 0; x < width; ++x) {
          const int64_t row = image / columns * height + y, column = image % columns * width + x;
          grid[(row * columns * width + column) * channels + channel] = static_cast<char>(level(*pixel++, range));
        }
  std::ofstream file(path, std::ios::binary);
  file << (channels == 3 ? "P6" : "P5") << '\n' << columns * width << ' ' << rows * height << "\n255\n" << grid;
  if (!file.flush()) throw std::runtime_error("cannot be written: " + path);
}

}  // namespace vae
