// The main program of every C++ host: test the bundle on this machine, then draw 16 new images.
#pragma once

#include <algorithm>
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
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "bundle.hpp"
#include "noise.hpp"
#include "self_test.hpp"

namespace vae {

/// Write images (N, C, H, W) as a grid: a PGM file, PPM if there are three channels, PAM if there are two or four.
inline void write_picture(const std::string& path, const Tensor& images, Range range, int64_t columns) {
  const int64_t n = images.shape.at(0), channels = images.shape.at(1), height = images.shape.at(2),
                width = images.shape.at(3), rows = (n + columns - 1) / columns;
  std::string grid(rows * height * columns * width * channels, '\0');
  auto pixel = images.floats().begin();
  for (int64_t image = 0; image < n; ++image)
    for (int64_t channel = 0; channel < channels; ++channel)
      for (int64_t y = 0; y < height; ++y)
        for (int64_t x = 0; x < width; ++x) {
          const int64_t row = image / columns * height + y, column = image % columns * width + x;
          grid[(row * columns * width + column) * channels + channel] = static_cast<char>(to_level(*pixel++, range));
        }
  std::ofstream file(path, std::ios::binary);
  if (channels == 2 || channels == 4)
    file << "P7\nWIDTH " << columns * width << "\nHEIGHT " << rows * height << "\nDEPTH " << channels
         << "\nMAXVAL 255\nTUPLTYPE " << (channels == 2 ? "GRAYSCALE_ALPHA" : "RGB_ALPHA") << "\nENDHDR\n" << grid;
  else
    file << (channels == 3 ? "P6" : "P5") << '\n' << columns * width << ' ' << rows * height << "\n255\n" << grid;
  if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

/// Return rows `first` to `first + count` of a tensor, from its beginning again after its last row.
inline Tensor rows_of(const Tensor& tensor, int64_t first, int64_t count) {
  const int64_t rows = tensor.shape.at(0), size = tensor.size() / rows;
  Tensor taken{tensor.data, tensor.shape};
  taken.shape[0] = count;
  std::visit(
      [&](auto& numbers) {
        const auto& all = std::get<std::decay_t<decltype(numbers)>>(tensor.data);
        numbers.resize(count * size);
        for (int64_t row = 0; row < count; ++row)
          std::copy_n(all.begin() + (first + row) % rows * size, size, numbers.begin() + row * size);
      },
      taken.data);
  return taken;
}

/// Draw n latents or codes from the prior, by name (section 6). Several latents share one row.
inline Tensors draw_prior(const Contract& contract, int64_t n, uint64_t seed) {
  int64_t width = 0, offset = 0;
  std::vector<std::vector<int64_t>> shapes;
  std::vector<int64_t> sizes;
  for (const auto& latent : contract.latents) {
    shapes.push_back(contract.item(latent));
    sizes.push_back(std::accumulate(shapes.back().begin(), shapes.back().end(), int64_t{1}, std::multiplies<>()));
    shapes.back().insert(shapes.back().begin(), n);
    width += sizes.back();
  }
  Tensors latents;
  const auto split = [&](const auto& rows, std::size_t index) {
    std::decay_t<decltype(rows)> part;
    for (int64_t row = 0; row < n; ++row)
      part.insert(part.end(), rows.begin() + row * width + offset, rows.begin() + row * width + offset + sizes[index]);
    offset += sizes[index];
    return part;
  };
  for (std::size_t index = 0; index < shapes.size(); ++index) {
    const auto& latent = contract.latents.at(index);
    const Data data = contract.has_codes()
                          ? codes_as(latent.at("dtype"), split(sample_codes(n, width, contract.codes(latent), seed), index))
                          : Data(split(sample(n, width, seed), index));
    latents[latent.at("name")] = {data, shapes[index]};
  }
  return latents;
}

/// Run a host. `Engine` needs a method Tensors run(const Tensors& inputs) and a constructor (std::string_view model,
/// const nlohmann::json& entry), which gets the checked bytes of a model file and its entry in the manifest.
/// `parts` are the parts that the engine can compute.
template <class Engine>
int host(int argc, char** argv, const std::string& format,
         const std::vector<std::string>& parts = known_parts) {
  const auto started = std::chrono::steady_clock::now();
  if (argc < 2) {
    std::cerr << "usage: " << argv[0] << " BUNDLE [PICTURE [SEED]]\n";
    return 2;
  }
  try {
    const Bundle bundle(argv[1]);
    const uint64_t seed = argc > 3 ? parse_seed(argv[3]) : 0;
    const Contract& contract = bundle.contract();
    const bool draws = argc > 2;
    if (draws) contract.check_drawable();

    std::map<std::string, std::unique_ptr<Engine>> engines;
    const auto run = [&](const std::string& part, const Tensors& inputs) {
      auto& engine = engines[part];
      if (!engine) engine = std::make_unique<Engine>(bundle.model(part, format), bundle.entry(part, format));
      return engine->run(inputs);
    };
    // Conditions are those of the golden vectors. Larger batches than the contract allows are cut, smaller ones repeat rows.
    const auto draw = [&](int64_t n) {
      Tensors inputs = draw_prior(contract, n, seed), golden = bundle.golden_inputs("decoder");
      for (const auto& condition : contract.conditions)
        if (const auto found = golden.find(condition.at("name")); found != golden.end())
          inputs[found->first] = rows_of(found->second, 0, n);
      const auto [low, high] = contract.batch();
      const int64_t step = high ? std::min(high, n) : n;
      Tensor images;
      std::vector<float> pixels;
      for (int64_t start = 0; start < n; start += step) {
        const int64_t count = std::min(step, n - start);
        Tensors piece;
        for (const auto& [name, tensor] : inputs) piece[name] = rows_of(tensor, start, std::max(count, low));
        images = rows_of(run("decoder", piece).at("image"), 0, count);
        pixels.insert(pixels.end(), images.floats().begin(), images.floats().end());
      }
      images.shape[0] = n;
      images.data = std::move(pixels);
      return images;
    };

    if (draws) {
      draw(1);
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - started;
      std::cout << "first image " << elapsed.count() << " s after the start" << std::endl;
    }

    const auto [same, total] = check_noise(bundle);
    std::cout << "noise: " << same << " of " << total << " golden latents bit for bit\n";
    const auto comparisons = self_test(bundle, parts, format, run);
    bool passed = same == total && !comparisons.empty();
    for (const auto& comparison : comparisons) {
      std::cout << comparison << '\n';
      passed = passed && comparison.passed();
    }

    if (draws) {
      write_picture(argv[2], draw(16), contract.output.at("range"), 4);
      std::cout << "wrote " << argv[2] << '\n';
    }
    std::cout << (passed ? "pass" : "FAIL") << std::endl;
    return passed ? EXIT_SUCCESS : EXIT_FAILURE;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return EXIT_FAILURE;
  }
}

}  // namespace vae
