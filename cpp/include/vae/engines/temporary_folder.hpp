// A folder of the moment, for engines that read weights beside a graph only from disk.
#pragma once

#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <string_view>
#include <system_error>

#include "../bundle.hpp"
#include "../errors.hpp"
#include "../manifest.hpp"

namespace vae {

/// A folder with a model file and its sidecars, which is removed with the object.
class TemporaryFolder {
 public:
  TemporaryFolder(const Bundle& bundle, const ModelFile& file) {
    std::random_device random;
    do {
      path_ = std::filesystem::temp_directory_path() / ("vae-" + std::to_string(random()));
    } while (!std::filesystem::create_directory(path_));  // false where it is there
    std::filesystem::permissions(path_, std::filesystem::perms::owner_all);
    write(bundle, file);
    for (const StoredFile& sidecar : file.beside) write(bundle, sidecar);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  const std::filesystem::path& path() const { return path_; }

 private:
  void write(const Bundle& bundle, const StoredFile& file) const {
    const std::string_view bytes = bundle.file(file.name);
    std::ofstream out(path_ / file.name, std::ios::binary);
    if (!out.write(bytes.data(), static_cast<std::streamsize>(bytes.size())).flush())
      throw BundleError("cannot write " + (path_ / file.name).string());
  }

  std::filesystem::path path_;
};

}  // namespace vae
