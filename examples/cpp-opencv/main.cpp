// host BUNDLE [PICTURE [SEED]] runs the bundle's ONNX files with OpenCV's DNN module.
#include <opencv2/core/utils/logger.hpp>
#include <opencv2/dnn.hpp>

#include "host.hpp"

class Engine {
 public:
  Engine(std::string_view model, const nlohmann::json& entry) : entry_(entry) {
    for (const auto& input : entry.at("inputs"))
      if (input.at("dtype") != "float32")
        throw std::runtime_error("OpenCV takes float32 only: input '" + input.at("name").get<std::string>() + "' is " +
                                 input.at("dtype").get<std::string>());
    cv::utils::logging::setLogLevel(cv::utils::logging::LOG_LEVEL_SILENT);  // its exceptions say the same
    try {
      net_ = cv::dnn::readNetFromONNX(model.data(), model.size());
    } catch (const cv::Exception& error) {  // its message has several lines
      throw std::runtime_error("OpenCV cannot read " + entry.at("name").get<std::string>() + ": " +
                               error.err.substr(0, error.err.find('\n')));
    }
  }

  vae::Tensors run(const vae::Tensors& inputs) {
    for (const auto& [name, tensor] : inputs) {
      const std::vector<int> shape(tensor.shape.begin(), tensor.shape.end());
      // The matrix does not copy the numbers; setInput does.
      net_.setInput(cv::Mat(shape, CV_32F, const_cast<float*>(tensor.floats().data())), name);
    }
    std::vector<cv::String> names;
    for (const auto& output : entry_.at("outputs")) names.push_back(output.at("name"));
    std::vector<cv::Mat> results;
    net_.forward(results, names);
    vae::Tensors outputs;
    for (std::size_t i = 0; i < names.size(); ++i) {
      const float* data = results[i].ptr<float>();
      outputs[names[i]] = {std::vector<float>(data, data + results[i].total()),
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
