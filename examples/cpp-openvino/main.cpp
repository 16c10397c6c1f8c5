// host BUNDLE PICTURE [SEED] runs the bundle's ONNX files with OpenVINO on the CPU.
#include <openvino/openvino.hpp>

#include "host.hpp"

class Engine {
 public:
  Engine(std::string_view model, const nlohmann::json&) {
    static ov::Core core;
    // Without the hint, OpenVINO computes in bfloat16 if the CPU can, and the self-test fails.
    const auto read = core.read_model(std::string(model), ov::Tensor{});
    request_ = core.compile_model(read, "CPU", ov::hint::inference_precision(ov::element::f32)).create_infer_request();
  }

  vae::Tensors run(const vae::Tensors& inputs) {
    for (const auto& [name, tensor] : inputs) {
      ov::Tensor input(ov::element::f32, ov::Shape(tensor.shape.begin(), tensor.shape.end()));
      std::copy(tensor.data.begin(), tensor.data.end(), input.data<float>());
      request_.set_tensor(name, input);
    }
    request_.infer();
    vae::Tensors outputs;
    for (const auto& output : request_.get_compiled_model().outputs()) {
      const ov::Tensor tensor = request_.get_tensor(output);
      const ov::Shape shape = tensor.get_shape();
      const float* data = tensor.data<float>();
      outputs[output.get_any_name()] = {{data, data + tensor.get_size()}, {shape.begin(), shape.end()}};
    }
    return outputs;
  }

 private:
  ov::InferRequest request_;
};

int main(int argc, char** argv) { return vae::host<Engine>(argc, argv, "onnx"); }
