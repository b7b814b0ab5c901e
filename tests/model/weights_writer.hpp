// SPDX-License-Identifier: Apache-2.0
#pragma once
// Weights as other software leaves them: tensors of a backbone under any names, as .safetensors and as both
// of torch.save's formats.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/json.hpp"
#include "model/pth_writer.hpp"
#include "model/weights.hpp"
#include "storage/array_file.hpp"

namespace dino {

struct Values {
  std::vector<int64_t> shape;
  std::vector<float> data;
};
using NamedValues = std::map<std::string, Values>;

inline NamedValues tensors_of(const Backbone& backbone) {
  NamedValues named;
  for (const ParameterInfo& info : backbone.layout.parameters()) {
    Values& values = named[info.name.substr(info.module.size() + 1)];
    for (int i = 0; i < info.shape.rank(); ++i) values.shape.push_back(info.shape[i]);
    const auto there = backbone.weights.view(info).f32();
    values.data.assign(there.begin(), there.end());
  }
  return named;
}

inline NamedValues renamed(const NamedValues& named,
                           const std::function<std::string(const std::string&)>& rename) {
  NamedValues result;
  for (const auto& [name, values] : named) result.emplace(rename(name), values);
  return result;
}

inline NamedValues prefixed(const NamedValues& named, const std::string& prefix) {
  return renamed(named, [&](const std::string& name) { return prefix + name; });
}

inline Values filled(std::vector<int64_t> shape, float value) {
  int64_t count = 1;
  for (const int64_t dim : shape) count *= dim;
  return {std::move(shape), std::vector<float>(static_cast<size_t>(count), value)};
}

inline std::string with(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

inline void write(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

/// Without fsync, which would be most of the time of a test of hundreds of files.
inline void save_safetensors(const std::string& path, const NamedValues& named,
                             const std::map<std::string, std::string>& metadata = {}) {
  nlohmann::json header = nlohmann::json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::string data;
  for (const auto& [name, values] : named) {
    const size_t begin = data.size();
    data.append(reinterpret_cast<const char*>(values.data.data()), 4 * values.data.size());
    header[name] = {{"dtype", "F32"}, {"shape", values.shape}, {"data_offsets", {begin, data.size()}}};
  }
  const std::string text = header.dump();
  std::filesystem::remove(path);
  write(path, bytes_of(static_cast<uint64_t>(text.size())) + text + data);
}

inline std::vector<int64_t> row_major(const std::vector<int64_t>& shape) {
  std::vector<int64_t> stride(shape.size(), 1);
  for (size_t i = shape.size(); i-- > 1;) stride[i - 1] = stride[i] * shape[i];
  return stride;
}

/// A pickle with the storages that its tensors name.
class PthWriter {
 public:
  PickleWriter pickle;

  PthWriter& tensor(const Values& values, const std::vector<int64_t>& stride = {}) {
    pickle.tensor(std::to_string(contents_.size()), static_cast<int64_t>(values.data.size()), values.shape,
                  stride.empty() ? row_major(values.shape) : stride);
    contents_.emplace_back(reinterpret_cast<const char*>(values.data.data()), 4 * values.data.size());
    return *this;
  }
  /// As state_dict() gives it.
  PthWriter& dict(const NamedValues& named) {
    pickle.global("collections", "OrderedDict").raw(")R(");
    for (const auto& [name, values] : named) {
      pickle.string(name);
      tensor(values);
    }
    pickle.raw("u");
    return *this;
  }
  [[nodiscard]] std::string finish() const {
    ZipWriter zip;
    zip.add("archive/data.pkl", pickle.finish());
    zip.add("archive/byteorder", "little");
    for (size_t i = 0; i < contents_.size(); ++i) zip.add("archive/data/" + std::to_string(i), contents_[i]);
    return zip.finish(true);
  }
  /// PyTorch before 1.6; storages in the order of their keys as text.
  [[nodiscard]] std::string finish_legacy() const {
    std::map<std::string, const std::string*> sorted;
    for (size_t i = 0; i < contents_.size(); ++i) sorted.emplace(std::to_string(i), &contents_[i]);
    PickleWriter keys, system;
    keys.raw("](");
    for (const auto& [key, content] : sorted) keys.string(key);
    keys.raw("e");
    system.raw("}(").string("protocol_version").raw("M\xe9\x03").string("little_endian").raw("\x88u");
    std::string file("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15);
    file += PickleWriter().raw("M\xe9\x03").finish() + system.finish() + pickle.finish() + keys.finish();
    for (const auto& [key, content] : sorted)
      file += bytes_of(static_cast<uint64_t>(content->size() / 4)) + *content;
    return file;
  }

 private:
  std::vector<std::string> contents_;
};

/// The message of the error that loading `reference` throws as E: one line that names the file.
template <class E>
std::string refusal(const std::string& reference, const LoadOptions& options = {}) {
  try {
    (void)load_backbone(reference, options);
  } catch (const E& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find(reference.substr(0, reference.rfind('/'))), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    EXPECT_LT(message.size(), 2000u);
    return message;
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another error: " << error.what();
    return "";
  }
  ADD_FAILURE() << reference << " was accepted";
  return "";
}

inline void expect_contains(const std::string& message, const std::string& part) {
  EXPECT_NE(message.find(part), std::string::npos) << message << "\n  lacks: " << part;
}

}  // namespace dino
