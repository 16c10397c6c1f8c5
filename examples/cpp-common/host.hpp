// The main program of every C++ host: test the bundle on this machine, then draw 16 new images.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "bundle.hpp"
#include "noise.hpp"
#include "self_test.hpp"

namespace vae {

/// Write images (N, C, H, W) as a grid: a PGM file, or PPM if there are three channels.
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
          grid[(row * columns * width + column) * channels + channel] = static_cast<char>(to_level(*pixel++, range));
        }
  std::ofstream file(path, std::ios::binary);
  file << (channels == 3 ? "P6" : "P5") << '\n' << columns * width << ' ' << rows * height << "\n255\n" << grid;
  if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

/// Run a host. `Engine` needs a method Tensors run(const Tensors& inputs) and a constructor (std::string_view model,
/// const nlohmann::json& entry), which gets the checked bytes of a model file and its entry in the manifest.
/// `parts` are the parts that the engine can compute.
template <class Engine>
int host(int argc, char** argv, const std::string& format,
         const std::vector<std::string>& parts = known_parts) {
  const auto started = std::chrono::steady_clock::now();
  if (argc < 3) {
    std::cerr << "usage: " << argv[0] << " BUNDLE PICTURE [SEED]\n";
    return 2;
  }
  try {
    const Bundle bundle(argv[1]);
    const uint64_t seed = argc > 3 ? parse_seed(argv[3]) : 0;
    const auto& contract = bundle.manifest().at("contract");
    const Range range = contract.at("image_range");

    std::map<std::string, std::unique_ptr<Engine>> engines;
    const auto run = [&](const std::string& part, const Tensors& inputs) {
      auto& engine = engines[part];
      if (!engine) engine = std::make_unique<Engine>(bundle.model(part, format), bundle.entry(part, format));
      return engine->run(inputs);
    };
    const auto draw = [&](int64_t n) {
      std::vector<int64_t> shape = contract.at("latent_shape");
      const int64_t size = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
      shape.insert(shape.begin(), n);
      return run("decoder", {{"latent", {sample(n, size, seed), shape}}}).at("image");
    };

    draw(1);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - started;
    std::cout << "first image " << elapsed.count() << " s after the start" << std::endl;

    const auto [same, total] = check_noise(bundle);
    std::cout << "noise: " << same << " of " << total << " golden latents bit for bit\n";
    const auto comparisons = self_test(bundle, parts, format, run);
    bool passed = same == total && !comparisons.empty();
    for (const auto& comparison : comparisons) {
      std::cout << comparison << '\n';
      passed = passed && comparison.passed();
    }

    write_picture(argv[2], draw(16), range, 4);
    std::cout << "wrote " << argv[2] << '\n' << (passed ? "pass" : "FAIL") << std::endl;
    return passed ? EXIT_SUCCESS : EXIT_FAILURE;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return EXIT_FAILURE;
  }
}

}  // namespace vae
