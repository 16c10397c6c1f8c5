// host BUNDLE [PICTURE [SEED]] runs the bundle's ONNX files with OpenVINO on the CPU.
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
    vae::Tensors outputs;
    for (const auto& output : request_.get_compiled_model().outputs()) {
      const ov::Tensor tensor = request_.get_tensor(output);
      const ov::Shape shape = tensor.get_shape();
      outputs[output.get_any_name()] = {numbers(tensor), {shape.begin(), shape.end()}};
    }
    return outputs;
  }

 private:
  static vae::Data numbers(const ov::Tensor& tensor) {
    const auto copy = [&](auto example) -> vae::Data {
      const auto* data = tensor.data<decltype(example)>();
      return std::vector<decltype(example)>(data, data + tensor.get_size());
    };
    if (tensor.get_element_type() == ov::element::i32) return copy(int32_t{});
    if (tensor.get_element_type() == ov::element::i64) return copy(int64_t{});
    return copy(float{});
  }

  ov::InferRequest request_;
};

int main(int argc, char** argv) { return vae::host<Engine>(argc, argv, "onnx"); }
