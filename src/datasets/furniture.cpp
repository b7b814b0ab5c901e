// SPDX-License-Identifier: Apache-2.0
#include "datasets/furniture.hpp"

#include <archive_entry.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <string_view>
#include <vector>

#include "base/error.hpp"
#include "datasets/archive_reader.hpp"

namespace dino {
namespace {

/// The members of a zip that are text of models, by name.
std::map<std::string, std::vector<uint8_t>> unzip_models(const std::string& path) {
  const ArchiveReader reader(archive_read_new());
  archive_read_support_format_zip(reader.get());
  open_archive(reader, path);
  std::map<std::string, std::vector<uint8_t>> files;
  size_t total = 0;
  archive_entry* entry = nullptr;
  int status = ARCHIVE_OK;
  while ((status = archive_read_next_header(reader.get(), &entry)) == ARCHIVE_OK) {
    const char* name = archive_entry_pathname(entry);
    const std::string_view view = name == nullptr ? "" : name;
    if (view.ends_with(".obj") || view.ends_with(".mtl") || view == "PluginFurnitureCatalog.properties")
      files[std::string(view)] = read_entry(reader, path, total);
  }
  if (status != ARCHIVE_EOF) fail_unpack(path, reader);
  return files;
}

std::string_view text_of(const std::vector<uint8_t>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::map<std::string, std::string> parse_properties(std::string_view text) {
  std::map<std::string, std::string> values;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.remove_suffix(1);
    const size_t equals = line.find('=');
    if (equals != std::string_view::npos && line[0] != '#')
      values[std::string(line.substr(0, equals))] = std::string(line.substr(equals + 1));
  }
  return values;
}

/// The models of PluginFurnitureCatalog.properties: keys KEY#1, KEY#2, ...
std::vector<CatalogueModel> parse_catalogue(std::string_view text, const std::string& path) {
  const auto values = parse_properties(text);
  std::vector<CatalogueModel> models;
  for (int i = 1; values.contains(fmt::format("id#{}", i)); ++i) {
    const auto get = [&](const char* key) {
      const auto found = values.find(fmt::format("{}#{}", key, i));
      if (found == values.end())
        throw DataError(fmt::format("bad catalogue: {}: model {} has no {}", path, i, key));
      return found->second;
    };
    const auto centimetres = [&](const char* key) {
      const float value = std::strtof(get(key).c_str(), nullptr);
      if (!(value > 0 && value < 10000))
        throw DataError(fmt::format("bad catalogue: {}: model {} has a bad {}", path, i, key));
      return 10 * value;
    };
    CatalogueModel model;
    model.id = get("id");
    model.category = get("category");
    model.file = get("model");
    while (model.file.starts_with('/')) model.file.erase(0, 1);
    model.size = {centimetres("width"), centimetres("height"), centimetres("depth")};
    if (const auto found = values.find(fmt::format("modelRotation#{}", i)); found != values.end()) {
      const char* p = found->second.c_str();
      for (float& entry : model.rotation) {
        char* end = nullptr;
        entry = std::strtof(p, &end);
        if (end == p || !(std::abs(entry) <= 2))
          throw DataError(fmt::format("bad catalogue: {}: model {} has a bad modelRotation", path, i));
        p = end;
      }
    }
    models.push_back(std::move(model));
  }
  return models;
}

}  // namespace

void each_model(const std::string& catalogue,
                const std::function<void(const CatalogueModel& model, Mesh& mesh)>& use) {
  const auto files = unzip_models(catalogue);
  const auto list = files.find("PluginFurnitureCatalog.properties");
  if (list == files.end())
    throw DataError(fmt::format("bad catalogue: {}: it has no PluginFurnitureCatalog.properties", catalogue));
  for (const CatalogueModel& model : parse_catalogue(text_of(list->second), catalogue)) {
    const auto find = [&](const std::string& name) {
      const auto file = files.find(name);
      if (file == files.end())
        throw DataError(fmt::format("bad catalogue: {}: it has no file {}", catalogue, name));
      return text_of(file->second);
    };
    const std::string folder = model.file.substr(0, model.file.rfind('/') + 1);
    // A few models name material files that their authors did not pack: those stay grey.
    const auto materials = [&](const std::string& name) {
      return files.contains(folder + name) ? std::string(find(folder + name)) : std::string();
    };
    Mesh mesh = parse_obj(find(model.file), catalogue + ":" + model.file, materials);
    fit_mesh(mesh, model.rotation, model.size);
    use(model, mesh);
  }
}

std::string folder_name(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    const bool plain = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
    if (!plain) c = '_';
  }
  return text;
}

}  // namespace dino
