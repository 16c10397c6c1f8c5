// host BUNDLE [PICTURE [SEED]] runs the bundle's ONNX files with ONNX Runtime.
#include <onnxruntime_cxx_api.h>

#include <cstdlib>

#include "host.hpp"

class Engine {
 public:
  Engine(std::string_view model, const nlohmann::json& entry) : session_(open(model)) {
    for (const auto& input : entry.at("inputs")) inputs_.push_back(input.at("name"));
    for (const auto& output : entry.at("outputs")) outputs_.push_back(output.at("name"));
  }

  vae::Tensors run(const vae::Tensors& inputs) {
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    std::vector<Ort::Value> values;
    for (const auto& name : inputs_) {
      const vae::Tensor& tensor = inputs.at(name);
      values.push_back(std::visit(
          [&](const auto& numbers) {
            using Number = typename std::decay_t<decltype(numbers)>::value_type;
            // The value does not copy the numbers.
            return Ort::Value::CreateTensor<Number>(memory, const_cast<Number*>(numbers.data()), numbers.size(),
                                                    tensor.shape.data(), tensor.shape.size());
          },
          tensor.data));
    }
    const auto in = pointers(inputs_), out = pointers(outputs_);
    const auto results =
        session_.Run(Ort::RunOptions{nullptr}, in.data(), values.data(), values.size(), out.data(), out.size());
    vae::Tensors outputs;
    for (std::size_t i = 0; i < results.size(); ++i) {
      const auto info = results[i].GetTensorTypeAndShapeInfo();
      outputs[outputs_[i]] = {numbers(results[i], info), info.GetShape()};
    }
    return outputs;
  }

 private:
  static vae::Data numbers(const Ort::Value& value, const Ort::TensorTypeAndShapeInfo& info) {
    const auto copy = [&](auto example) -> vae::Data {
      const auto* data = value.GetTensorData<decltype(example)>();
      return std::vector<decltype(example)>(data, data + info.GetElementCount());
    };
    switch (info.GetElementType()) {
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32:
        return copy(int32_t{});
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
        return copy(int64_t{});
      default:
        return copy(float{});
    }
  }
  static Ort::Session open(std::string_view model) {
    static Ort::Env environment(ORT_LOGGING_LEVEL_WARNING, "vae");
    return Ort::Session(environment, model.data(), model.size(), Ort::SessionOptions{});
  }
  static std::vector<const char*> pointers(const std::vector<std::string>& names) {
    std::vector<const char*> result;
    for (const auto& name : names) result.push_back(name.c_str());
    return result;
  }

  Ort::Session session_;
  std::vector<std::string> inputs_, outputs_;
};

int main(int argc, char** argv) {
  setenv("ORT_DISABLE_TELEMETRY", "1", 0);  // must be set first: it reports the models that it opens to Microsoft
  return vae::host<Engine>(argc, argv, "onnx");
}
