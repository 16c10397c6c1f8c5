// Settings of engines, and those that a bundle recommends for one machine (section 3 of the specification).
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#if defined(__linux__)
#include <sys/utsname.h>
#endif

#include "manifest.hpp"
#include "strict_json.hpp"

namespace vae {

/// Settings of an engine. All engines know the threads; the others are ONNX Runtime's.
struct Settings {
  int threads = 0;                   // 0 lets the engine choose
  std::string optimisation = "all";  // "disabled", "basic", "extended" or "all"
  bool spins = true, is_parallel = false, has_arena = true, has_pattern = true;
  std::map<std::string, std::string> entries = {};  // of the session configuration
};

/// The file and the settings of a part, and the reason for them; empty for the usual ones.
struct Running {
  const ModelFile* file = nullptr;
  Settings settings = {};
  std::string reason = {};
};

/// The facts in which this machine and that of a recommendation must agree; nothing where they cannot be known.
struct Machine {
  std::string processor, system;
  std::set<std::string> features;
  int64_t cores = 0;
};

/// Describe this machine; nothing where it is not Linux.
inline std::optional<Machine> describe_machine() {
#if defined(__linux__)
  // Instruction sets by which engines choose their kernels, as Linux names them.
  static constexpr std::string_view known[] = {"avx2",        "avx_vnni", "avx512f",  "avx512_vnni", "avx512_bf16",
                                               "avx512_fp16", "amx_int8", "amx_bf16", "asimdhp",     "asimddp",
                                               "bf16",        "i8mm",     "sve",      "sve2"};
  Machine machine;
  std::ifstream info("/proc/cpuinfo");
  bool has_flags = false;
  for (std::string line; std::getline(info, line);) {
    const std::size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const std::string value = line.substr(std::min(line.find_first_not_of(" \t", colon + 1), line.size()));
    if (line.rfind("processor", 0) == 0) ++machine.cores;
    if (line.rfind("model name", 0) == 0 && machine.processor.empty()) machine.processor = value;
    if ((line.rfind("flags", 0) == 0 || line.rfind("Features", 0) == 0) && !has_flags) {
      has_flags = true;
      std::istringstream words(value);
      for (std::string word; words >> word;)
        if (std::find(std::begin(known), std::end(known), word) != std::end(known)) machine.features.insert(word);
    }
  }
  utsname names{};
  if (!has_flags || uname(&names) != 0) return std::nullopt;
  if (machine.processor.empty()) machine.processor = "not stated";
  machine.system = std::string(names.sysname) + " " + names.machine;
  return machine;
#else
  return std::nullopt;
#endif
}

namespace detail {

/// Return settings as a recommendation states them; nothing if it is not understood.
inline std::optional<Settings> read_settings(const Json& advice) {
  const auto value = [&](const char* key) { return advice.value(key, Json()); };
  const Json provider = value("provider"), threads = value("threads"), optimisation = value("optimisation"),
             switches = value("switches");
  Settings settings;
  const bool has_level = is_text(optimisation, "disabled") || is_text(optimisation, "basic") ||
                         is_text(optimisation, "extended") || is_text(optimisation, "all");
  if (!is_text(provider, "CPUExecutionProvider") || !is_whole(threads) || threads > 1 << 16 || !has_level ||
      !switches.is_array())
    return std::nullopt;
  settings.threads = threads.get<int>();
  settings.optimisation = optimisation.get<std::string>();
  for (const Json& item : switches) {
    if (is_text(item, "no-spinning"))
      settings.spins = false;
    else if (is_text(item, "parallel"))
      settings.is_parallel = true;
    else if (is_text(item, "no-arena"))
      settings.has_arena = false;
    else if (is_text(item, "no-pattern"))
      settings.has_pattern = false;
    else
      return std::nullopt;
  }
  return settings;
}

/// Return the fact in which two machines differ; empty if there is none.
inline std::string difference(const Json& measured, const Machine& here) {
  if (!measured.is_object()) return "machine";
  if (!is_text(measured.value("processor", Json()), here.processor)) return "processor";
  if (measured.value("features", Json()) != Json(here.features)) return "features";
  if (!is_text(measured.value("system", Json()), here.system)) return "system";
  if (measured.value("cores", Json()) != Json(here.cores)) return "cores";
  return {};
}

}  // namespace detail

/// Return the file and settings that a bundle recommends for a part. Without a file, `reason` says why they are not
/// followed; without a reason, there is no recommendation.
inline Running recommendation(const Manifest& manifest, Part part, const std::optional<Machine>& machine) {
  const Json& list = manifest.recommended;
  const auto is_of_part = [&](const Json& item) {
    return item.is_object() && detail::is_text(item.value("part", Json()), to_string(part));
  };
  const auto advice = list.is_array() ? std::find_if(list.begin(), list.end(), is_of_part) : list.end();
  if (advice == list.end()) return {};
  const auto settings = detail::read_settings(*advice);
  const auto file = std::find_if(manifest.files.begin(), manifest.files.end(), [&](const ModelFile& entry) {
    return entry.part == part && entry.format == "onnx" && entry.machine.empty() &&
           detail::is_text(advice->value("file", Json()), entry.name) &&
           detail::is_text(advice->value("sha256", Json()), entry.sha256);
  });
  if (!settings || file == manifest.files.end())
    return {nullptr, {}, "recommendation not followed: it is not understood"};
  if (!machine) return {nullptr, {}, "recommendation not followed: this machine is not known"};
  const std::string fact = detail::difference(advice->value("machine", Json()), *machine);
  if (!fact.empty())
    return {nullptr, {}, "recommendation not followed: it was measured on another machine (" + fact + ")"};
  return {&*file, *settings, "recommended, and measured on a machine like this one"};
}

/// Return settings with those that a file needs on this machine: an x86-64 processor without VNNI adds two products of
/// bytes in 16 bits, where they do not fit.
inline Settings with_needed_entries(const ModelFile& file, Settings settings) {
#if defined(__x86_64__) || defined(_M_X64)
  if (file.without_vnni.empty()) return settings;
  const auto machine = describe_machine();  // where it cannot be known, the entries are needed
  if (machine && (machine->features.count("avx512_vnni") != 0 || machine->features.count("avx_vnni") != 0))
    return settings;
  for (const auto& [name, value] : file.without_vnni) settings.entries[name] = value;
  if (settings.optimisation == "disabled" || settings.optimisation == "basic") settings.optimisation = "extended";
#else
  static_cast<void>(file);
#endif
  return settings;
}

}  // namespace vae
