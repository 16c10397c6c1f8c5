// What every C++ host does with its engine: test the bundle on this machine, then draw 16 new images.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

#include "bundle.hpp"
#include "golden.hpp"
#include "noise.hpp"
#include "picture.hpp"

namespace vae {

/// `Engine` has a constructor (std::string_view model, const nlohmann::json& entry): the file's bytes, already checked,
/// and what the manifest says of its inputs and outputs; and Tensors run(const Tensors&). `parts` are those that it can
/// compute.
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
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - started;
    std::cout << "first image " << passed.count() << " s after the start" << std::endl;

    const auto [same, all] = check_noise(bundle);
    std::cout << "noise: " << same << " of " << all << " golden latents bit for bit\n";
    const auto judgements = self_test(bundle, parts, format, run);
    bool right = same == all && !judgements.empty();
    for (const auto& judgement : judgements) {
      std::cout << judgement << '\n';
      right = right && judgement.passed();
    }

    write_picture(argv[2], draw(16), range, 4);
    std::cout << "wrote " << argv[2] << '\n' << (right ? "pass" : "FAIL") << std::endl;
    return right ? EXIT_SUCCESS : EXIT_FAILURE;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return EXIT_FAILURE;
  }
}

}  // namespace vae
