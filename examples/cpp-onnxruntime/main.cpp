// host BUNDLE PICTURE [SEED] runs the bundle's ONNX files with ONNX Runtime.
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
      // The value does not copy the numbers.
      values.push_back(Ort::Value::CreateTensor<float>(memory, const_cast<float*>(tensor.data.data()),
                                                       tensor.data.size(), tensor.shape.data(), tensor.shape.size()));
    }
    const auto in = pointers(inputs_), out = pointers(outputs_);
    const auto results =
        session_.Run(Ort::RunOptions{nullptr}, in.data(), values.data(), values.size(), out.data(), out.size());
    vae::Tensors outputs;
    for (std::size_t i = 0; i < results.size(); ++i) {
      const auto info = results[i].GetTensorTypeAndShapeInfo();
      const float* data = results[i].GetTensorData<float>();
      outputs[outputs_[i]] = {{data, data + info.GetElementCount()}, info.GetShape()};
    }
    return outputs;
  }

 private:
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
