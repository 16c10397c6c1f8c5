// manifest.json (section 3 of the specification): the contract, the model files, the golden vectors and the
// recommendations.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "archive.hpp"
#include "contract.hpp"
#include "errors.hpp"
#include "strict_json.hpp"
#include "tensor.hpp"

namespace vae {

/// A reader takes the first of these that a part has, and ignores files of any other precision.
inline constexpr std::array<std::string_view, 6> precisions = {"fp32", "fp16",        "bf16",
                                                               "int8", "int8-static", "int4-weights"};

struct StoredFile {
  std::string name;
  uint64_t size = 0;
  std::string sha256;
};

struct ModelFile : StoredFile {
  Part part = Part::decoder;
  std::string format, precision = "fp32", machine;  // the machine is empty for a file that runs on any
  std::vector<StoredFile> beside;                   // sidecars
  std::map<std::string, std::string> without_vnni;  // settings of ONNX Runtime for processors without VNNI
  std::vector<TensorSpec> inputs, outputs;
};

struct GoldenArray {
  std::string tensor, file, sha256;
  Dtype dtype = Dtype::float32;
  Shape shape;
  double band = 0;  // of outputs, as the next
  std::map<std::string, double> bands;

  /// Return the largest error that a model file of this precision may have here; 0 if its precision has none.
  double tolerance(const std::string& precision) const {
    if (precision == "fp32") return band;
    const auto found = bands.find(precision);
    return found == bands.end() ? 0 : found->second;
  }
};

struct GoldenPart {
  Part part = Part::decoder;
  std::vector<GoldenArray> inputs, outputs;
};

/// A checked manifest.
struct Manifest {
  std::string format;
  Contract contract;
  std::vector<ModelFile> files;
  std::vector<GoldenPart> golden;
  int64_t opset = 0;
  std::map<std::string, std::string> versions;
  Json provenance, recommended;

  /// Return the file of a part in a format, with the highest precision or with the given one; null if there is none.
  /// Files that were compiled for one kind of machine are passed over: nothing here can tell whether this is one.
  const ModelFile* find(Part part, std::string_view format, std::string_view precision = {}) const {
    for (const std::string_view known : precisions)
      for (const ModelFile& file : files)
        if (file.part == part && file.format == format && file.precision == known && file.machine.empty() &&
            (precision.empty() || precision == known))
          return &file;
    return nullptr;
  }

  /// Return the golden vectors of a part; null if there are none.
  const GoldenPart* golden_of(Part part) const {
    for (const GoldenPart& found : golden)
      if (found.part == part) return &found;
    return nullptr;
  }

  /// Return every model file, each followed by its sidecars.
  std::vector<StoredFile> model_files() const {
    std::vector<StoredFile> found;
    for (const ModelFile& file : files) {
      found.push_back(file);
      found.insert(found.end(), file.beside.begin(), file.beside.end());
    }
    return found;
  }
};

namespace detail {

inline const std::string manifest_place = "manifest.json";
inline constexpr std::size_t manifest_limit = 1 << 20;
inline constexpr std::string_view reserved_names[] = {"sha256sums",       "sha256sums.sig",   "manifest.json",
                                                      "certificate.json", "certificate.html", "model_card.md",
                                                      "license"};

/// Ranges of Unicode's categories C and Z but the space. Characters that are not assigned yet are not among them.
inline constexpr std::pair<uint32_t, uint32_t> unshowable[] = {
    {0x00, 0x1f},       {0x7f, 0xa0},       {0xad, 0xad},       {0x600, 0x605},      {0x61c, 0x61c},
    {0x6dd, 0x6dd},     {0x70f, 0x70f},     {0x890, 0x891},     {0x8e2, 0x8e2},      {0x1680, 0x1680},
    {0x180e, 0x180e},   {0x2000, 0x200f},   {0x2028, 0x202f},   {0x205f, 0x2064},    {0x2066, 0x206f},
    {0x3000, 0x3000},   {0xd800, 0xf8ff},   {0xfdd0, 0xfdef},   {0xfeff, 0xfeff},    {0xfff9, 0xfffb},
    {0x110bd, 0x110bd}, {0x110cd, 0x110cd}, {0x13430, 0x1343f}, {0x1bca0, 0x1bca3},  {0x1d173, 0x1d17a},
    {0xe0001, 0xe0001}, {0xe0020, 0xe007f}, {0xf0000, 0xffffd}, {0x100000, 0x10fffd}};

/// Return whether a character can be shown on one line.
inline bool is_showable(uint32_t character) {
  if ((character & 0xfffe) == 0xfffe) return false;  // no characters, in any plane
  return std::none_of(std::begin(unshowable), std::end(unshowable),
                      [&](const auto& range) { return character >= range.first && character <= range.second; });
}

/// Return whether a text, which is UTF-8, can be shown on one line.
inline bool is_label(const Json& text) {
  if (!text.is_string()) return false;
  const std::string& bytes = text.get_ref<const std::string&>();
  for (std::size_t at = 0; at < bytes.size();) {
    const auto first = static_cast<unsigned char>(bytes[at]);
    const std::size_t length = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    uint32_t character = length == 1 ? first : first & (0x7fu >> length);
    for (std::size_t more = 1; more < length; ++more)
      character = character << 6 | (static_cast<unsigned char>(bytes.at(at + more)) & 0x3f);
    if (!is_showable(character)) return false;
    at += length;
  }
  return true;
}

/// Return texts by name, which all can be shown on one line.
inline std::map<std::string, std::string> read_labels(const Json& stated, const std::string& where) {
  std::map<std::string, std::string> labels;
  for (const auto& [name, text] : stated.get_ref<const Json::object_t&>()) {
    if (!is_label(name) || !is_label(text)) refuse("text cannot be shown", where);
    labels[name] = text.get<std::string>();
  }
  return labels;
}

inline Part read_part(const Json& stated, const std::string& where) {
  for (const Part part : all_parts)
    if (is_text(stated, part_names[static_cast<std::size_t>(part)])) return part;
  refuse("part is not known", where, {}, shown(stated));
}

/// Return whether a tensor of the manifest is the one of the contract.
inline bool is_tensor(const Json& stated, const TensorSpec& tensor) {
  const Json &shape = stated.at("shape"), &range = stated.at("range");
  if (!is_text(stated.at("name"), tensor.name) || !is_text(stated.at("dtype"), to_string(tensor.dtype))) return false;
  if (!shape.is_array() || shape.size() != tensor.shape.size()) return false;
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    const Size& size = tensor.shape[axis];
    if (size.is_number() ? !is_whole(shape[axis], 1) || shape[axis].get<int64_t>() != size.offset
                         : !is_text(shape[axis], size.text()))
      return false;
  }
  if (!tensor.range) return range.is_null();
  return range.is_array() && range.size() == 2 && range[0].is_number() && range[1].is_number() &&
         range[0].get<double>() == tensor.range->low && range[1].get<double>() == tensor.range->high;
}

/// Reads the model files and golden vectors of a manifest.
class ManifestReader {
 public:
  explicit ManifestReader(const Json& stated) {
    const Json &format = stated.at("format"), &precision = stated.at("precision");
    if (!is_text(format, "vae-export/1") && !is_text(format, "vae-export/2"))
      refuse("manifest of another version", manifest_place, "vae-export/1 or vae-export/2", shown(format));
    if (!is_text(precision, "float32"))
      refuse("inputs and outputs of another precision", manifest_place, "float32", shown(precision));
    found_.format = format.get<std::string>();
    found_.contract = read_contract(stated);
    const Json &files = stated.at("files"), &golden = stated.at("golden"), &opset = stated.at("opset");
    if (!files.is_array() || !golden.is_array() || files.empty() || golden.empty())
      refuse("bundle has no model or no golden vectors", manifest_place);
    found_.versions = read_labels(stated.at("versions"), manifest_place + ", versions");
    found_.provenance = stated.at("provenance");
    if (!found_.provenance.is_object()) refuse("manifest cannot be read", manifest_place);
    for (const Json& file : files) read_file(file);
    const auto& read = found_.files;
    const bool has_onnx =
        std::any_of(read.begin(), read.end(), [](const ModelFile& file) { return file.format == "onnx"; });
    if (!is_whole(opset, has_onnx ? 1 : 0)) refuse("opset cannot be read", manifest_place);
    found_.opset = opset.get<int64_t>();
    for (const Json& part : golden) read_golden(part);
    check_golden_parts();
    if (stated.contains("recommended")) found_.recommended = stated.at("recommended");
  }

  Manifest take() { return std::move(found_); }

 private:
  StoredFile read_stored(const Json& stated) {
    const Json& name = stated.at("name");
    if (!name.is_string() || !is_entry_name(name.get_ref<const std::string&>()) ||
        name.get_ref<const std::string&>().find('/') != std::string::npos)
      refuse("file name is not allowed", "\"" + shown(name) + "\"");
    StoredFile file{name.get<std::string>(), 0, {}};
    const std::string folded = lower_case(file.name);
    const bool is_reserved =
        std::find(std::begin(reserved_names), std::end(reserved_names), folded) != std::end(reserved_names);
    if (is_reserved || !names_.insert(folded).second) refuse("two files have one name", file.name);
    if (!is_whole(stated.at("size")) || !stated.at("sha256").is_string())
      refuse("size or hash cannot be read", manifest_place + ", " + file.name);
    file.size = stated.at("size").get<uint64_t>();
    file.sha256 = stated.at("sha256").get<std::string>();
    return file;
  }

  void read_file(const Json& stated) {
    ModelFile file;
    static_cast<StoredFile&>(file) = read_stored(stated);
    const std::string where = manifest_place + ", " + file.name;
    const auto label = [&](const char* key, std::string* text) {
      if (!is_label(stated.at(key))) refuse("text cannot be shown", where);
      *text = stated.at(key).get<std::string>();
    };
    label("format", &file.format);
    if (stated.contains("precision")) label("precision", &file.precision);
    if (stated.contains("machine")) label("machine", &file.machine);
    if (stated.contains("without_vnni")) file.without_vnni = read_labels(stated.at("without_vnni"), where);
    if (stated.contains("beside")) {
      const auto& sidecars = stated.at("beside").get_ref<const Json::array_t&>();
      if (sidecars.empty()) refuse("sidecars cannot be read", where);
      for (const Json& item : sidecars) {
        file.beside.push_back(read_stored(item));
        const std::string& name = file.beside.back().name;
        const std::size_t dot = name.rfind('.');
        if (dot == std::string::npos || name.substr(0, dot) != file.name.substr(0, file.name.rfind('.')))
          refuse("name of a sidecar does not match its file", name, {}, file.name);
      }
    }
    file.part = read_part(stated.at("part"), file.name);
    Signature signature = found_.contract.tensors_of(file.part);
    check_tensors(stated.at("inputs"), signature.inputs, "inputs do not match the contract", file.name);
    check_tensors(stated.at("outputs"), signature.outputs, "outputs do not match the contract", file.name);
    file.inputs = std::move(signature.inputs);
    file.outputs = std::move(signature.outputs);
    if (!kinds_.insert({file.part, file.format, file.precision}).second)
      refuse("manifest lists a part twice in one format and precision", file.name);
    found_.files.push_back(std::move(file));
  }

  static void check_tensors(const Json& stated, const std::vector<TensorSpec>& tensors, const std::string& what,
                            const std::string& where) {
    bool is_right = stated.is_array() && stated.size() == tensors.size();
    for (std::size_t index = 0; is_right && index < tensors.size(); ++index)
      is_right = is_tensor(stated[index], tensors[index]);
    if (!is_right) refuse(what, where);
  }

  void read_golden(const Json& stated) {
    GoldenPart golden;
    golden.part = read_part(stated.at("part"), manifest_place + ", golden");
    const Signature signature = found_.contract.tensors_of(golden.part);
    Sizes values;
    int64_t rows = 0;
    const auto read = [&](const char* kind, const std::vector<TensorSpec>& tensors, bool are_outputs) {
      const auto& items = stated.at(kind).get_ref<const Json::array_t&>();
      if (items.size() != tensors.size()) refuse("golden vectors do not match the contract", to_string(golden.part));
      std::vector<GoldenArray> arrays;
      for (std::size_t index = 0; index < items.size(); ++index) {
        arrays.push_back(read_array(items[index], tensors[index], values, rows));
        if (are_outputs) read_bands(items[index], arrays.back());
      }
      return arrays;
    };
    golden.inputs = read("inputs", signature.inputs, false);
    golden.outputs = read("outputs", signature.outputs, true);
    found_.golden.push_back(std::move(golden));
  }

  /// Check an array. `rows` is that of the first one, or 0.
  GoldenArray read_array(const Json& stated, const TensorSpec& tensor, Sizes& values, int64_t& rows) const {
    const Json& file = stated.at("file");
    if (!file.is_string() || !is_entry_name(file.get_ref<const std::string&>()) ||
        file.get_ref<const std::string&>().rfind("golden/", 0) != 0)
      refuse("golden vector is not in golden/", shown(file));
    GoldenArray array;
    array.file = file.get<std::string>();
    const Json dtype = stated.value("dtype", Json("float32"));
    const auto known = dtype.is_string() ? dtype_of(dtype.get_ref<const std::string&>()) : std::nullopt;
    if (!known || *known == Dtype::uint8 || !stated.at("sha256").is_string())
      refuse("golden vector cannot be read", array.file);
    array.sha256 = stated.at("sha256").get<std::string>();
    array.dtype = *known;
    for (const Json& size : stated.at("shape").get_ref<const Json::array_t&>()) {
      if (!is_whole(size, 1)) refuse("shape cannot be read", array.file);
      array.shape.push_back(size.get<int64_t>());
    }
    if (array.shape.empty()) refuse("shape cannot be read", array.file);
    const int64_t low = found_.contract.fewest_rows(), high = found_.contract.most_rows();
    const int64_t fewest = std::max(low, std::min<int64_t>(2, high)), most = std::max<int64_t>(16, low),
                  count = array.shape.front();
    if (count < fewest || count > most)
      refuse("wrong number of rows", array.file, std::to_string(fewest) + " to " + std::to_string(most),
             std::to_string(count));
    if (rows == 0) rows = count;
    if (!is_text(stated.at("tensor"), tensor.name) || array.dtype != tensor.dtype || count != rows ||
        !fits({array.shape.begin() + 1, array.shape.end()}, tensor, values))
      refuse("golden vectors do not match the contract", array.file,
             tensor.name + " " + to_string(tensor.dtype) + " " + tensor.shape_text(),
             shown(stated.at("tensor")) + " " + to_string(array.dtype) + " " + to_string(array.shape));
    array.tensor = tensor.name;
    return array;
  }

  static void read_bands(const Json& stated, GoldenArray& array) {
    const auto read = [&](const Json& band) {
      const bool is_right = array.dtype == Dtype::float32 ? band.is_number() && band.get<double>() > 0 : is_whole(band);
      if (!is_right) refuse("tolerance cannot be read", array.file);
      return band.get<double>();
    };
    array.band = read(stated.at("band"));
    if (!stated.contains("bands")) return;
    for (const auto& [precision, band] : stated.at("bands").get_ref<const Json::object_t&>())
      array.bands[precision] = read(band);
  }

  /// Check that there are golden vectors for each part that does not give bytes, once.
  void check_golden_parts() const {
    std::set<Part> wanted, have;
    for (const ModelFile& file : found_.files) wanted.insert(gives_bytes(file.part) ? Part::decoder : file.part);
    for (const GoldenPart& golden : found_.golden) have.insert(golden.part);
    if (wanted != have || have.size() != found_.golden.size())
      refuse("golden vectors do not match the files", manifest_place);
  }

  Manifest found_;
  std::set<std::string> names_;
  std::set<std::tuple<Part, std::string, std::string>> kinds_;
};

}  // namespace detail

/// Check a manifest.
inline Manifest read_manifest(std::string_view bytes) {
  const Json stated = parse_json(bytes, detail::manifest_place, detail::manifest_limit);
  return read_document(detail::manifest_place, [&] { return detail::ManifestReader(stated).take(); });
}

}  // namespace vae
