// OpenVINO on the CPU, which reads ONNX files.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <openvino/openvino.hpp>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "../bundle.hpp"
#include "../errors.hpp"
#include "../manifest.hpp"
#include "../recommended.hpp"
#include "../tensor.hpp"
#include "temporary_folder.hpp"

namespace vae {

class OpenVino {
 public:
  static constexpr const char* format = "onnx";
  static constexpr bool follows_recommendations = false;
  static bool supports(const ModelFile&) { return true; }

  OpenVino(const Bundle& bundle, const ModelFile& file, const Settings& settings) {
    // Without the hint, OpenVINO computes in bfloat16 if the CPU can, and the self-test fails.
    ov::AnyMap options{ov::hint::inference_precision(ov::element::f32)};
    if (settings.threads > 0) options.insert(ov::inference_num_threads(settings.threads));
    request_ = core().compile_model(read(bundle, file), "CPU", options).create_infer_request();
  }

  Tensors run(const Tensors& inputs) {
    for (const auto& [name, tensor] : inputs) {
      const ov::Shape shape(tensor.shape.begin(), tensor.shape.end());
      std::visit(
          [&, &name = name](const auto& numbers) {
            using Number = typename std::decay_t<decltype(numbers)>::value_type;
            ov::Tensor input(ov::element::from<Number>(), shape);
            std::copy(numbers.begin(), numbers.end(), input.data<Number>());
            request_.set_tensor(name, input);
          },
          tensor.data);
    }
    request_.infer();
    Tensors outputs;
    for (const auto& output : request_.get_compiled_model().outputs()) {
      const ov::Tensor tensor = request_.get_tensor(output);
      const ov::Shape shape = tensor.get_shape();
      outputs[output.get_any_name()] = {numbers(tensor), {shape.begin(), shape.end()}};
    }
    return outputs;
  }

 private:
  static ov::Core& core() {
    static ov::Core core;
    return core;
  }

  /// OpenVINO finds sidecars only as files beside the graph.
  static std::shared_ptr<ov::Model> read(const Bundle& bundle, const ModelFile& file) {
    if (file.beside.empty()) return core().read_model(std::string(bundle.file(file.name)), ov::Tensor{});
    const TemporaryFolder folder(bundle, file);
    return core().read_model((folder.path() / file.name).string());
  }

  static Numbers numbers(const ov::Tensor& tensor) {
    const auto copy = [&](auto example) -> Numbers {
      const auto* data = tensor.data<decltype(example)>();
      return std::vector<decltype(example)>(data, data + tensor.get_size());
    };
    const ov::element::Type type = tensor.get_element_type();
    if (type == ov::element::f32) return copy(float{});
    if (type == ov::element::i32) return copy(int32_t{});
    if (type == ov::element::i64) return copy(int64_t{});
    if (type == ov::element::u8) return copy(uint8_t{});
    refuse("the engine gave numbers of an unknown type", type.get_type_name());
  }

  ov::InferRequest request_;
};

}  // namespace vae
