// verbs FOLDER (NAME BUNDLE)...: every verb of `Model`, on OpenVINO, for the tests. Each tensor becomes a file
// FOLDER/NAME.TENSOR with its numbers, and a line with that name, its type and its shape.
// verbs --pixels FOLDER NAME BUNDLE: the pixels alone. verbs --sizes FOLDER NAME BUNDLE: sizes h and w, from row 5 of a
// seed on, in pieces of 2 rows. verbs --refused BUNDLE: the messages of arguments that do not fit.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <exception>
#include <fstream>
#include <iostream>
#include <string>
#include <vae/engines/openvino.hpp>
#include <vae/model.hpp>
#include <variant>
#include <vector>

namespace {

using Model = vae::Model<vae::OpenVino>;

void keep(const std::string& folder, const std::string& name, const vae::Tensor& tensor) {
  std::ofstream file(folder + "/" + name, std::ios::binary);
  std::visit(
      [&](const auto& numbers) {
        file.write(reinterpret_cast<const char*>(numbers.data()),
                   static_cast<std::streamsize>(numbers.size() * sizeof(numbers[0])));
      },
      tensor.data);
  std::cout << name << ' ' << to_string(tensor.dtype()) << ' ' << vae::to_string(tensor.shape) << '\n';
}

void keep(const std::string& folder, const std::string& name, const vae::Tensors& tensors) {
  for (const auto& [key, tensor] : tensors) keep(folder, name + "." + key, tensor);
}

void use(const std::string& folder, const std::string& name, const std::string& path) {
  Model model = Model::load(path);
  const vae::Tensors conditions = model.example_conditions(1);
  keep(folder, name + ".conditions", conditions);
  vae::Tensors latents;
  if (model.contract().prior == vae::Prior::given_by_the_user) {
    const vae::TensorSpec& latent = model.contract().latents.front();
    vae::Shape shape = model.contract().sizes_at(latent);
    shape.insert(shape.begin(), 5);
    latents[latent.name] = {vae::sample(1, vae::count_of(shape), 7), shape};
  } else {
    latents = model.prior(5, {7});
  }
  keep(folder, name + ".latents", latents);
  vae::Tensor data = model.decode(latents, conditions);
  keep(folder, name + ".data", data);
  if (const auto& range = model.contract().data.range)
    for (float& number : data.as<float>())
      number = std::clamp(number, static_cast<float>(range->low), static_cast<float>(range->high));
  const vae::Encoded encoded = model.encode(data, conditions);
  keep(folder, name + ".mean", encoded.mean);
  keep(folder, name + ".logvar", encoded.logvar);
  keep(folder, name + ".reconstructed", model.reconstruct(data, conditions));
  if (!model.contract().has_codes())
    keep(folder, name + ".between", model.interpolate(take_rows(data, 0, 1), take_rows(data, 1, 1), 4, conditions));
  if (model.contract().is_image()) {
    keep(folder, name + ".pixels", model.pixels(latents, conditions));
    keep(folder, name + ".planes", model.pixels(latents, conditions, vae::Layout::chw));
  }
  std::cout << name << (model.self_test().passed() ? " passed\n" : " FAILED\n");
}

void draw_pixels(const std::string& folder, const std::string& name, const std::string& path) {
  Model model = Model::load(path);
  keep(folder, name + ".pixels", model.pixels(model.prior(5, {7})));
  keep(folder, name + ".planes", model.pixels(model.prior(5, {7}), {}, vae::Layout::chw));
  std::cout << name << (model.self_test().passed() ? " passed\n" : " FAILED\n");
}

void draw_sizes(const std::string& folder, const std::string& name, const std::string& path) {
  vae::Options options;
  options.rows_at_a_time = 2;
  Model model = Model::load(path, options);
  const vae::Draw draw = {3, 5, {{"h", 5}, {"w", 4}}};
  keep(folder, name + ".latents", model.prior(5, draw));
  keep(folder, name + ".data", model.sample(5, draw));
  keep(folder, name + ".pixels", model.pixels(model.prior(5, draw)));
}

/// Write the message of an argument that does not fit.
template <class Call>
void refused(Call call) {
  try {
    call();
    std::cout << "nothing was refused\n";
  } catch (const vae::InputError& error) {
    std::cout << error.what() << '\n';
  } catch (const vae::BundleError& error) {
    std::cout << error.what() << '\n';
  }
}

void refuse_all(const std::string& path) {
  Model model = Model::load(path);
  const auto latent = [](std::vector<float> numbers, vae::Shape shape) {
    return vae::Tensor{std::move(numbers), std::move(shape)};
  };
  const auto image = [](float value, vae::Shape shape) {
    return vae::Tensor{std::vector<float>(784, value), std::move(shape)};
  };
  std::vector<float> infinite(10);
  infinite[3] = HUGE_VALF;
  refused([&] { model.decode(latent(infinite, {1, 10})); });
  refused([&] { model.decode(latent(std::vector<float>(11), {1, 11})); });
  refused([&] { model.decode(latent(std::vector<float>(9), {1, 10})); });
  refused([&] { model.decode({{"z", latent(std::vector<float>(10), {1, 10})}}); });
  refused([&] { model.decode(latent(std::vector<float>(10), {1, 10}), {{"label", latent({3}, {1})}}); });
  refused([&] { model.decode(vae::Tensor{std::vector<int64_t>(10), {1, 10}}); });
  refused([&] { model.encode(image(255, {1, 1, 28, 28})); });
  refused([&] { model.encode(image(0, {1, 28, 28, 1})); });
  refused([&] { model.prior(0); });
  refused([&] { model.prior(1, {0, 0, {{"h", 4}}}); });
  refused([&] { model.interpolate(image(0, {1, 1, 28, 28}), image(0, {1, 1, 28, 28}), 1); });
  refused([&] { model.run(vae::Part::autoencoder, {}); });
  refused([&] { vae::parse_seed("-1"); });
  refused([&] { Model::load("nothing.zip"); });
  refused([&] { Model::load(path, {{}, "fp2"}); });
}

}  // namespace

int main(int argc, char** argv) try {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (arguments.at(0) == "--refused")
    refuse_all(arguments.at(1));
  else if (arguments[0] == "--pixels")
    draw_pixels(arguments.at(1), arguments.at(2), arguments.at(3));
  else if (arguments[0] == "--sizes")
    draw_sizes(arguments.at(1), arguments.at(2), arguments.at(3));
  else
    for (std::size_t at = 1; at + 1 < arguments.size(); at += 2) use(arguments[0], arguments[at], arguments[at + 1]);
  return 0;
} catch (const std::exception& error) {
  std::cerr << "error: " << error.what() << '\n';
  return 1;
}
