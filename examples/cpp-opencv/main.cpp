// host BUNDLE PICTURE [SEED] runs the bundle's ONNX files with OpenCV's DNN module.
#include <opencv2/dnn.hpp>

#include "host.hpp"

class Engine {
 public:
  Engine(std::string_view model, const nlohmann::json& entry)
      : entry_(entry), net_(cv::dnn::readNetFromONNX(model.data(), model.size())) {}

  vae::Tensors run(const vae::Tensors& inputs) {
    for (const auto& [name, tensor] : inputs) {
      const std::vector<int> shape(tensor.shape.begin(), tensor.shape.end());
      // The matrix does not copy the numbers; setInput does.
      net_.setInput(cv::Mat(shape, CV_32F, const_cast<float*>(tensor.data.data())), name);
    }
    std::vector<cv::String> names;
    for (const auto& output : entry_.at("outputs")) names.push_back(output.at("name"));
    std::vector<cv::Mat> results;
    net_.forward(results, names);
    vae::Tensors outputs;
    for (std::size_t i = 0; i < names.size(); ++i) {
      const float* data = results[i].ptr<float>();
      outputs[names[i]] = {{data, data + results[i].total()},
                           {results[i].size.p, results[i].size.p + results[i].size.dims()}};
    }
    return outputs;
  }

 private:
  nlohmann::json entry_;
  cv::dnn::Net net_;
};

// OpenCV 4.6 cannot read the encoder, because its Clip has its bounds as inputs.
int main(int argc, char** argv) { return vae::host<Engine>(argc, argv, "onnx", {"decoder"}); }
