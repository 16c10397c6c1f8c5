// host BUNDLE [PICTURE.png [SEED]] tests the bundle's ONNX files with OpenVINO here, then draws 16 images.
#include <chrono>
#include <exception>
#include <iostream>
#include <vae/engines/openvino.hpp>
#include <vae/model.hpp>

int main(int argc, char** argv) try {
  const auto started = std::chrono::steady_clock::now();
  if (argc < 2) {
    std::cerr << "usage: " << argv[0] << " BUNDLE [PICTURE.png [SEED]]\n";
    return 2;
  }
  const auto seed = argc > 3 ? vae::parse_seed(argv[3]) : 0;
  auto model = vae::Model<vae::OpenVino>::load(argv[1]);
  const auto draw = [&](int n) { return model.pixels(model.prior(n, {seed}), model.example_conditions(n)); };
  if (argc > 2) {
    model.contract().check_drawable();
    draw(1);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - started;
    std::cout << "first image " << elapsed.count() << " s after the start" << std::endl;
  }
  const vae::SelfTest test = model.self_test();
  if (test.outputs.empty()) throw vae::BundleError("bundle has no file that this engine can run");
  std::cout << test;
  if (argc > 2) {
    vae::write_png(argv[2], draw(16), 4);
    std::cout << "wrote " << argv[2] << '\n';
  }
  std::cout << (test.passed() ? "pass" : "FAIL") << std::endl;
  return test.passed() ? 0 : 1;
} catch (const std::exception& error) {
  std::cerr << "error: " << error.what() << '\n';
  return 1;
}
