// LibTorch, which runs TorchScript files.
#pragma once

#include <ATen/Parallel.h>
#include <torch/script.h>

#include <cstddef>
#include <cstdint>
#include <sstream>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "../bundle.hpp"
#include "../errors.hpp"
#include "../manifest.hpp"
#include "../recommended.hpp"
#include "../tensor.hpp"

namespace vae {

/// A TorchScript file is a program. Its hash shows that it was not altered, not that it is harmless.
class LibTorch {
 public:
  static constexpr const char* format = "torchscript";
  static constexpr bool follows_recommendations = false;
  static bool supports(const ModelFile&) { return true; }

  /// The threads of `settings` are those of the whole process.
  LibTorch(const Bundle& bundle, const ModelFile& file, const Settings& settings) {
    if (settings.threads > 0) at::set_num_threads(settings.threads);
    std::istringstream stream{std::string(bundle.file(file.name))};
    module_ = torch::jit::load(stream);
    module_.eval();
    for (const TensorSpec& input : file.inputs) inputs_.push_back(input.name);
    for (const TensorSpec& output : file.outputs) outputs_.push_back(output.name);
  }

  Tensors run(const Tensors& inputs) {
    torch::InferenceMode no_gradients;
    std::vector<torch::jit::IValue> arguments;
    for (const std::string& name : inputs_) {
      const Tensor& tensor = inputs.at(name);
      arguments.push_back(std::visit(
          [&](const auto& numbers) {
            using Number = typename std::decay_t<decltype(numbers)>::value_type;
            // from_blob does not copy the numbers, and the network does not write to its inputs.
            return torch::from_blob(const_cast<Number*>(numbers.data()), tensor.shape,
                                    c10::CppTypeToScalarType<Number>::value);
          },
          tensor.data));
    }
    const torch::jit::IValue result = module_.forward(arguments);
    Tensors outputs;
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      const torch::Tensor tensor =
          (result.isTuple() ? result.toTupleRef().elements().at(i) : result).toTensor().contiguous();
      outputs[outputs_[i]] = {numbers(tensor), tensor.sizes().vec()};
    }
    return outputs;
  }

 private:
  static Numbers numbers(const torch::Tensor& tensor) {
    const auto copy = [&](auto example) -> Numbers {
      const auto* data = tensor.data_ptr<decltype(example)>();
      return std::vector<decltype(example)>(data, data + tensor.numel());
    };
    switch (tensor.scalar_type()) {
      case torch::kFloat32:
        return copy(float{});
      case torch::kInt32:
        return copy(int32_t{});
      case torch::kInt64:
        return copy(int64_t{});
      case torch::kUInt8:
        return copy(uint8_t{});
      default:
        refuse("the engine gave numbers of an unknown type");
    }
  }

  torch::jit::Module module_;
  std::vector<std::string> inputs_, outputs_;
};

}  // namespace vae
