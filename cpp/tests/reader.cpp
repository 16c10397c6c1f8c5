// What the tests ask of the library without an engine:
//   reader FOLDER                     opens every bundle in a folder: a line for each, its name and accept or refuse
//   reader --why FOLDER               the same with the message
//   reader --sample N SIZE SEED START the bits of random latents
//   reader --normal WORD...           the bits of the normal numbers of words
//   reader --time N SIZE              milliseconds of ten draws, and the SHA-256 of the last
//   reader --signed KEY BUNDLE...     the fingerprint of the key that signed each bundle, or the message
//   reader --labels                   the characters, in hexadecimal, that a text on one line cannot have
//   reader --running BUNDLE...        the file and settings that each recommends for its decoder here, and why
//   reader --png C H W FILE           16 images of C channels in a PNG file, whose bytes count from 0
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <iterator>
#include <string>
#include <vae/bundle.hpp>
#include <vae/noise.hpp>
#include <vae/pixels.hpp>
#include <vae/recommended.hpp>
#include <vector>

namespace {

using Arguments = std::vector<std::string>;

void read_folder(const std::string& folder, bool says_why) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.path().extension() == ".zip") paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  for (const auto& path : paths) {
    std::string said = "accept", message;
    try {
      vae::Bundle::open(path.string());
    } catch (const vae::BundleError& error) {
      said = "refuse";
      message = error.what();
    } catch (const std::exception& error) {
      said = "crash";
      message = error.what();
    }
    std::cout << path.stem().string() << ' ' << said << (says_why ? " " + message : "") << '\n';
  }
}

void print_bits(const std::vector<float>& numbers) {
  for (const float number : numbers) {
    uint32_t bits = 0;
    std::memcpy(&bits, &number, sizeof bits);
    std::cout << bits << ' ';
  }
}

void time_draws(std::size_t n, std::size_t size) {
  std::vector<float> numbers;
  for (int run = 0; run < 10; ++run) {
    const auto begin = std::chrono::steady_clock::now();
    numbers = vae::sample(n, size);
    const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - begin;
    if (run > 0) std::cout << elapsed.count() << ' ';
  }
  std::cout << vae::sha256({reinterpret_cast<const char*>(numbers.data()), numbers.size() * sizeof(float)}) << '\n';
}

void check_signatures(const std::string& key, Arguments::const_iterator bundle, Arguments::const_iterator end) {
  std::ifstream file(key, std::ios::binary);
  const std::string pem{std::istreambuf_iterator<char>(file), {}};
  for (; bundle != end; ++bundle) try {
      std::cout << vae::Bundle::open(*bundle, pem).signed_by() << '\n';
    } catch (const std::exception& error) {
      std::cout << error.what() << '\n';
    }
}

void print_running(const std::string& path) {
  const vae::Bundle bundle = vae::Bundle::open(path);
  const vae::Running running = vae::recommendation(bundle.manifest(), vae::Part::decoder, vae::describe_machine());
  const vae::ModelFile* decoder = bundle.manifest().find(vae::Part::decoder, "onnx");
  const vae::Settings settings =
      vae::with_needed_entries(decoder == nullptr ? vae::ModelFile() : *decoder, running.settings);
  std::cout << (running.file == nullptr ? "none" : running.file->name) << ' ' << settings.threads << ' '
            << settings.optimisation << ' ' << settings.spins << settings.is_parallel << settings.has_arena
            << settings.has_pattern;
  for (const auto& [name, value] : settings.entries) std::cout << ' ' << name << '=' << value;
  std::cout << ' ' << running.reason << '\n';
}

int run(const Arguments& arguments) {
  const std::string& verb = arguments.at(0);
  if (verb == "--why") {
    read_folder(arguments.at(1), true);
  } else if (verb == "--sample") {
    print_bits(vae::sample(std::stoul(arguments.at(1)), std::stoul(arguments.at(2)), vae::parse_seed(arguments.at(3)),
                           std::stoull(arguments.at(4))));
  } else if (verb == "--normal") {
    std::vector<float> numbers;
    std::transform(arguments.begin() + 1, arguments.end(), std::back_inserter(numbers),
                   [](const std::string& word) { return vae::normal(static_cast<uint32_t>(std::stoul(word))); });
    print_bits(numbers);
  } else if (verb == "--time") {
    time_draws(std::stoul(arguments.at(1)), std::stoul(arguments.at(2)));
  } else if (verb == "--signed") {
    check_signatures(arguments.at(1), arguments.begin() + 2, arguments.end());
  } else if (verb == "--labels") {
    for (uint32_t character = 0; character < 0x110000; ++character)
      if (!vae::detail::is_showable(character)) std::cout << std::hex << character << ' ';
  } else if (verb == "--running") {
    std::for_each(arguments.begin() + 1, arguments.end(), print_running);
  } else if (verb == "--png") {
    const vae::Shape shape = {16, std::stoll(arguments.at(2)), std::stoll(arguments.at(3)),
                              std::stoll(arguments.at(1))};
    std::vector<uint8_t> bytes(vae::count_of(shape));
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i);
    vae::write_png(arguments.at(4), {bytes, shape});
  } else {
    read_folder(verb, false);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) try { return run({argv + 1, argv + argc}); } catch (const std::exception& error) {
  std::cerr << "error: " << error.what() << '\n';
  return 1;
}
