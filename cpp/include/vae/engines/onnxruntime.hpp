// ONNX Runtime, 1.14 or newer. Recommended settings are for this engine.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include "../bundle.hpp"
#include "../errors.hpp"
#include "../manifest.hpp"
#include "../recommended.hpp"
#include "../tensor.hpp"

namespace vae {

class OnnxRuntime {
 public:
  static constexpr const char* format = "onnx";
  static constexpr bool follows_recommendations = true;
  static bool supports(const ModelFile&) { return true; }

  OnnxRuntime(const Bundle& bundle, const ModelFile& file, const Settings& settings)
      : session_(open(bundle, file, settings)) {
    for (const TensorSpec& input : file.inputs) inputs_.push_back(input.name);
    for (const TensorSpec& output : file.outputs) outputs_.push_back(output.name);
  }

  Tensors run(const Tensors& inputs) {
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    std::vector<Ort::Value> values;
    for (const std::string& name : inputs_) {
      const Tensor& tensor = inputs.at(name);
      values.push_back(std::visit(
          [&](const auto& numbers) {
            using Number = typename std::decay_t<decltype(numbers)>::value_type;
            // The value does not copy the numbers, and the session does not write to its inputs.
            return Ort::Value::CreateTensor<Number>(memory, const_cast<Number*>(numbers.data()), numbers.size(),
                                                    tensor.shape.data(), tensor.shape.size());
          },
          tensor.data));
    }
    const auto in = pointers(inputs_), out = pointers(outputs_);
    const auto results =
        session_.Run(Ort::RunOptions{nullptr}, in.data(), values.data(), values.size(), out.data(), out.size());
    Tensors outputs;
    for (std::size_t i = 0; i < results.size(); ++i) {
      const auto info = results[i].GetTensorTypeAndShapeInfo();
      outputs[outputs_[i]] = {numbers(results[i], info), info.GetShape()};
    }
    return outputs;
  }

 private:
  template <class Info>  // Ort::TensorTypeAndShapeInfo, or a view of it
  static Numbers numbers(const Ort::Value& value, const Info& info) {
    const auto copy = [&](auto example) -> Numbers {
      const auto* data = value.GetTensorData<decltype(example)>();
      return std::vector<decltype(example)>(data, data + info.GetElementCount());
    };
    switch (info.GetElementType()) {
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
        return copy(float{});
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
        return copy(int32_t{});
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
        return copy(int64_t{});
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
        return copy(uint8_t{});
      default:
        refuse("the engine gave numbers of an unknown type");
    }
  }

  static Ort::Session open(const Bundle& bundle, const ModelFile& file, const Settings& settings) {
    Ort::SessionOptions options = options_of(settings);
    if (!file.beside.empty()) add_sidecars(options, bundle, file);
    const std::string_view model = bundle.file(file.name);
    return Ort::Session(environment(), model.data(), model.size(), options);
  }

  static Ort::SessionOptions options_of(const Settings& settings) {
    Ort::SessionOptions options;
    const auto level = [&] {
      if (settings.optimisation == "disabled") return ORT_DISABLE_ALL;
      if (settings.optimisation == "basic") return ORT_ENABLE_BASIC;
      return settings.optimisation == "extended" ? ORT_ENABLE_EXTENDED : ORT_ENABLE_ALL;
    };
    options.SetGraphOptimizationLevel(level());
    if (settings.threads > 0) options.SetIntraOpNumThreads(settings.threads);
    if (settings.is_parallel) options.SetExecutionMode(ORT_PARALLEL);
    if (!settings.spins) options.AddConfigEntry("session.intra_op.allow_spinning", "0");
    if (!settings.has_arena) options.DisableCpuMemArena();
    if (!settings.has_pattern) options.DisableMemPattern();
    for (const auto& [name, value] : settings.entries) options.AddConfigEntry(name.c_str(), value.c_str());
    return options;
  }

  static void add_sidecars(Ort::SessionOptions& options, const Bundle& bundle, const ModelFile& file) {
#if ORT_API_VERSION >= 18
    std::vector<std::basic_string<ORTCHAR_T>> names;
    std::vector<char*> buffers;
    std::vector<std::size_t> sizes;
    for (const StoredFile& sidecar : file.beside) {
      const std::string_view bytes = bundle.file(sidecar.name);
      names.emplace_back(sidecar.name.begin(), sidecar.name.end());
      buffers.push_back(const_cast<char*>(bytes.data()));  // is not written to
      sizes.push_back(bytes.size());
    }
    options.AddExternalInitializersFromFilesInMemory(names, buffers, sizes);
#else
    static_cast<void>(options);
    static_cast<void>(bundle);
    refuse("weights beside the graph cannot be read", file.name, "ONNX Runtime 1.18 or newer");
#endif
  }

  static Ort::Env& environment() {
    // Since 1.29, ONNX Runtime reports the models that it opens to Microsoft, unless this is set before its environment
    // is made.
#if defined(_WIN32)
    if (std::getenv("ORT_DISABLE_TELEMETRY") == nullptr) _putenv_s("ORT_DISABLE_TELEMETRY", "1");
#else
    setenv("ORT_DISABLE_TELEMETRY", "1", 0);
#endif
    static Ort::Env environment(ORT_LOGGING_LEVEL_WARNING, "vae");
    return environment;
  }

  static std::vector<const char*> pointers(const std::vector<std::string>& names) {
    std::vector<const char*> result;
    for (const std::string& name : names) result.push_back(name.c_str());
    return result;
  }

  Ort::Session session_;
  std::vector<std::string> inputs_, outputs_;
};

}  // namespace vae
