// SPDX-License-Identifier: Apache-2.0
#include "inputs/feature_file.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <filesystem>
#include <map>

#include "base/error.hpp"
#include "base/text.hpp"
#include "datasets/dataset.hpp"
#include "storage/files.hpp"
#include "storage/seal.hpp"

namespace dino::eval {

Card FeatureProtocol::card() const {
  Card card;
  card.set("size", size).set("resize", resize_to()).set("crop", pad ? "pad to square" : "centre");
  card.set("background", background.text()).set("tokens", name_of(tokens)).set("layers", layers);
  card.set("max_pixels", max_pixels);
  card.set("interpolation", "bicubic, antialiased");
  return card;
}

void write_feature_attributes(Hdf5File& file, const FeatureSet& set) {
  file.write_attribute("/", "classes", set.classes);
  file.write_attribute("/", "data", set.data);
  file.write_attribute("/", "model", set.model.name);
  file.write_attribute("/", "weights", set.model.weights);
  file.write_attribute("/", "input", set.model.input);
  const FeatureProtocol& p = set.protocol;
  file.write_attribute("/", "size", p.size);
  file.write_attribute("/", "resize", p.resize_to());
  file.write_attribute("/", "pad", static_cast<int64_t>(p.pad));
  file.write_attribute("/", "background", p.background.text());
  file.write_attribute("/", "max_pixels", p.max_pixels);
  file.write_attribute("/", "tokens", name_of(p.tokens));
  file.write_attribute("/", "layers", p.layers);
  file.write_attribute("/", "split", name_of(p.split));
  file.write_attribute("/", "test_fraction", p.test_fraction);
  file.write_attribute("/", "class_width", set.columns.class_width);
  file.write_attribute("/", "class_layers", set.columns.layers);
  file.write_attribute("/", "mean_width", set.columns.mean_width);
}

namespace {

[[noreturn]] void broken(const std::string& path, const std::string& why) {
  throw DataError("reading features: " + path + ": " + why + "; make the file again with dino-eval features");
}

template <class E>
E named(const std::string& name, const std::string& path) {
  const auto value = value_named<E>(name);
  if (!value) broken(path, fmt::format("'{}' is not one of {}", name, fmt::join(all_names<E>(), ", ")));
  return *value;
}

void read_attributes(const Hdf5File& file, FeatureSet& set) {
  const auto number = [&](const char* name) {
    if (!file.has_attribute("/", name)) broken(set.path, fmt::format("has no attribute {}", name));
    return static_cast<int64_t>(file.attribute_number("/", name));
  };
  const auto text = [&](const char* name) {
    if (!file.has_attribute("/", name)) broken(set.path, fmt::format("has no attribute {}", name));
    return file.attribute_string("/", name);
  };
  set.data = text("data");
  set.model = {text("model"), text("weights"),
               file.has_attribute("/", "input") ? text("input") : std::string()};
  FeatureProtocol& p = set.protocol;
  p.size = number("size");
  p.resize = number("resize");
  p.pad = number("pad") != 0;
  try {
    p.background = Background::from_text(text("background"));
  } catch (const std::invalid_argument& fault) {
    broken(set.path, fmt::format("has a wrong attribute background: {}", fault.what()));
  }
  p.max_pixels = number("max_pixels");
  p.tokens = named<Tokens>(text("tokens"), set.path);
  p.layers = number("layers");
  p.split = named<Split>(text("split"), set.path);
  p.test_fraction = file.attribute_number("/", "test_fraction");
  set.columns = {number("class_width"), number("class_layers"), number("mean_width")};
}

}  // namespace

FeatureSet read_features(const std::string& path) {
  const Hdf5File file = open_checked(path, "make the file again with dino-eval features");
  FeatureSet set;
  set.path = path;
  for (const char* name : {"/features", "/labels", "/keys"})
    if (!file.exists(name)) broken(path, fmt::format("has no dataset {}", name));
  read_attributes(file, set);
  const Hdf5File::Info info = file.info("/features");
  if (info.dims.size() != 2) broken(path, "/features is not a matrix");
  set.rows = info.dims[0];
  if (set.columns.class_width < 0 || set.columns.layers < 0 || set.columns.width() != info.dims[1])
    broken(path,
           fmt::format("/features has {} columns, its attributes say {}", info.dims[1], set.columns.width()));
  set.features = file.read("/features", DType::f32);
  const std::span<const float> values = std::as_const(set.features).f32();
  for (size_t i = 0; i < values.size(); ++i)
    if (!std::isfinite(values[i]))
      broken(path,
             fmt::format("row {} holds a value that is not finite", static_cast<int64_t>(i) / info.dims[1]));
  const Tensor labels = file.read("/labels", DType::i32);
  set.labels.assign(labels.as<int32_t>(), labels.as<int32_t>() + labels.numel());
  set.keys = file.read_strings("/keys");
  set.groups =
      file.exists("/groups") ? file.read_strings("/groups") : std::vector<std::string>(set.keys.size());
  if (file.has_attribute("/", "classes")) set.classes = file.attribute_strings("/", "classes");
  const auto n = static_cast<size_t>(set.rows);
  if (set.labels.size() != n || set.keys.size() != n || set.groups.size() != n)
    broken(path, fmt::format("{} feature rows, {} labels, {} keys", n, set.labels.size(), set.keys.size()));
  for (const int32_t label : set.labels)
    if (label < -1 || label >= static_cast<int32_t>(set.classes.size()))
      broken(path, fmt::format("label {} of {} classes", label, set.classes.size()));
  return set;
}

std::string dataset_name(const std::string& reference) {
  if (!path_exists(reference)) return reference;
  std::filesystem::path path = std::filesystem::path(reference).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();  // "photos/"
  const std::string leaf = path.filename().string();
  if (leaf == "." || leaf == ".." || (!path.has_parent_path() && names_a_part(leaf))) {
    path = std::filesystem::absolute(path).lexically_normal();
    if (!path.has_filename()) path = path.parent_path();
  }
  const std::string parent = path.parent_path().filename().string(), name = path.filename().string();
  if (name.empty()) return reference;  // the root folder
  return printable_name(parent.empty() || parent == ".." ? name : parent + "/" + name);
}

std::string keys_hash(const std::vector<std::string>& keys) {
  std::string all;
  for (const std::string& key : keys) all += key + "\n";
  return sha256_hex(std::as_bytes(std::span(all)));
}

FeatureView columns_of(const FeatureSet& set, int64_t layers, bool mean) {
  const FeatureColumns& c = set.columns;
  DINO_CHECK(layers <= c.layers && (!mean || c.mean_width > 0), "columns that the file does not have");
  const int64_t skip = (c.layers - layers) * c.class_width;
  return {set.features.as<float>() + skip, set.rows, layers * c.class_width + (mean ? c.mean_width : 0),
          c.width()};
}

std::vector<int32_t> map_labels(const FeatureSet& train, const FeatureSet& test) {
  if (train.model.name != test.model.name || train.model.weights != test.model.weights)
    throw UsageError(
        fmt::format("comparing features: {} and {}: made by different models ({} and {}); make both with the "
                    "same --weights",
                    train.path, test.path, train.model.name, test.model.name));
  if (train.protocol.card().json() != test.protocol.card().json() ||
      train.columns.width() != test.columns.width())
    throw UsageError(
        fmt::format("comparing features: {} and {}: made with different protocols ({} and {}); make both "
                    "with the same options",
                    train.path, test.path, train.protocol.card().json(), test.protocol.card().json()));
  std::map<std::string, int32_t> index;
  for (size_t c = 0; c < train.classes.size(); ++c) index[train.classes[c]] = static_cast<int32_t>(c);
  std::vector<int32_t> labels;
  labels.reserve(test.labels.size());
  for (const int32_t label : test.labels) {
    const auto it = label < 0 ? index.end() : index.find(test.classes[static_cast<size_t>(label)]);
    labels.push_back(it == index.end() ? -1 : it->second);
  }
  return labels;
}

}  // namespace dino::eval
