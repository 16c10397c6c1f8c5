// host BUNDLE [PICTURE [SEED]] runs the bundle's TorchScript files with LibTorch.
#include <torch/script.h>

#include <sstream>

#include "host.hpp"

/// A TorchScript file is a program. Its hash shows that it was not altered, not that it is harmless.
class Engine {
 public:
  Engine(std::string_view model, const nlohmann::json& entry) : entry_(entry) {
    std::istringstream stream{std::string(model)};
    module_ = torch::jit::load(stream);
    module_.eval();
  }

  vae::Tensors run(const vae::Tensors& inputs) {
    torch::InferenceMode no_gradients;
    std::vector<torch::jit::IValue> arguments;
    for (const auto& input : entry_.at("inputs")) {
      const vae::Tensor& tensor = inputs.at(input.at("name"));
      arguments.push_back(std::visit(
          [&](const auto& numbers) {
            using Number = typename std::decay_t<decltype(numbers)>::value_type;
            // from_blob does not copy the numbers, and the network does not write to its inputs.
            return torch::from_blob(const_cast<Number*>(numbers.data()), tensor.shape, c10::CppTypeToScalarType<Number>::value);
          },
          tensor.data));
    }
    const torch::jit::IValue result = module_.forward(arguments);
    vae::Tensors outputs;
    std::size_t index = 0;
    for (const auto& output : entry_.at("outputs")) {
      const torch::Tensor tensor =
          (result.isTuple() ? result.toTupleRef().elements().at(index++) : result).toTensor().contiguous();
      outputs[output.at("name")] = {numbers(tensor), tensor.sizes().vec()};
    }
    return outputs;
  }

 private:
  static vae::Data numbers(const torch::Tensor& tensor) {
    const auto copy = [&](auto example) -> vae::Data {
      const auto* data = tensor.data_ptr<decltype(example)>();
      return std::vector<decltype(example)>(data, data + tensor.numel());
    };
    if (tensor.scalar_type() == torch::kInt32) return copy(int32_t{});
    if (tensor.scalar_type() == torch::kInt64) return copy(int64_t{});
    return copy(float{});
  }

  nlohmann::json entry_;
  torch::jit::Module module_;
};

int main(int argc, char** argv) { return vae::host<Engine>(argc, argv, "torchscript"); }
