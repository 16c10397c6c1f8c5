// host BUNDLE [PICTURE.png [SEED]] draws 16 images, and tests the bundle's decoder, an ONNX file, with OpenCV here.
#include <chrono>
#include <exception>
#include <iostream>
#include <vae/engines/opencv.hpp>
#include <vae/model.hpp>

int main(int argc, char** argv) try {
  const auto started = std::chrono::steady_clock::now();
  if (argc < 2) {
    std::cerr << "usage: " << argv[0] << " BUNDLE [PICTURE.png [SEED]]\n";
    return 2;
  }
  const vae::Draw draw = {argc > 3 ? vae::parse_seed(argv[3]) : 0};
  auto model = vae::Model<vae::OpenCv>::load(argv[1]);
  if (argc > 2) {
    model.sample_pixels(1, draw, model.example_conditions(1));
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - started;
    std::cout << "first image " << elapsed.count() << " s after the start" << std::endl;
    vae::write_png(argv[2], model.sample_pixels(16, draw, model.example_conditions(16)), 4);
    std::cout << "wrote " << argv[2] << '\n';
  }
  const vae::SelfTest test = model.self_test({{vae::Part::decoder}});  // OpenCV 4.6 cannot read the encoder
  std::cout << test;
  return test.passed() ? 0 : 1;
} catch (const std::exception& error) {
  std::cerr << "error: " << error.what() << '\n';
  return 1;
}
