// OpenCV's DNN module, which reads ONNX files of float32 networks.
#pragma once

#include <cstddef>
#include <opencv2/core.hpp>
#include <opencv2/core/utils/logger.hpp>
#include <opencv2/dnn.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "../bundle.hpp"
#include "../errors.hpp"
#include "../manifest.hpp"
#include "../recommended.hpp"
#include "../tensor.hpp"

namespace vae {

class OpenCv {
 public:
  static constexpr const char* format = "onnx";
  static constexpr bool follows_recommendations = false;
  /// OpenCV has no bytes as outputs: the pixels are rounded from the decoder's image.
  static bool supports(const ModelFile& file) { return !gives_bytes(file.part) && file.beside.empty(); }

  /// The threads of `settings` are those of the whole process.
  OpenCv(const Bundle& bundle, const ModelFile& file, const Settings& settings) {
    for (const TensorSpec& input : file.inputs)
      if (input.dtype != Dtype::float32)
        refuse("OpenCV takes float32 only", "input '" + input.name + "'", {}, to_string(input.dtype));
    if (settings.threads > 0) cv::setNumThreads(settings.threads);
    cv::utils::logging::setLogLevel(cv::utils::logging::LOG_LEVEL_SILENT);  // its exceptions say the same
    const std::string_view model = bundle.file(file.name);
    try {
      net_ = cv::dnn::readNetFromONNX(model.data(), model.size());
    } catch (const cv::Exception& error) {  // its message has several lines
      refuse("OpenCV cannot read " + file.name, {}, {}, printable(error.err.substr(0, error.err.find('\n'))));
    }
    for (const TensorSpec& output : file.outputs) outputs_.push_back(output.name);
  }

  Tensors run(const Tensors& inputs) {
    for (const auto& [name, tensor] : inputs) {
      const std::vector<int> shape(tensor.shape.begin(), tensor.shape.end());
      // The matrix does not copy the numbers; setInput does.
      net_.setInput(cv::Mat(shape, CV_32F, const_cast<float*>(tensor.as<float>().data())), name);
    }
    std::vector<cv::Mat> results;
    net_.forward(results, outputs_);
    Tensors outputs;
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      const auto* data = results[i].ptr<float>();
      outputs[outputs_[i]] = {std::vector<float>(data, data + results[i].total()),
                              {results[i].size.p, results[i].size.p + results[i].size.dims()}};
    }
    return outputs;
  }

 private:
  cv::dnn::Net net_;
  std::vector<cv::String> outputs_;
};

}  // namespace vae
