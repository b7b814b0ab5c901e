// SPDX-License-Identifier: Apache-2.0
#include "mesh.hpp"

#include <archive.h>
#include <archive_entry.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>

#include "base/error.hpp"
#include "storage/files.hpp"

namespace dino::render {
namespace {

constexpr int64_t kMaxMember = int64_t{256} << 20;

std::string text_of(const std::map<std::string, std::vector<uint8_t>>& files, const std::string& member) {
  const auto found = files.find(member);
  return found == files.end() ? std::string() : std::string(found->second.begin(), found->second.end());
}

std::string reason(archive* reader) {
  const char* text = archive_error_string(reader);
  return text == nullptr ? "not a readable zip archive" : text;
}

std::string folder_of(const std::string& member) {
  const size_t slash = member.rfind('/');
  return slash == std::string::npos ? "" : member.substr(0, slash + 1);
}

std::string rest_of_line(std::istringstream& line) {
  std::string rest;
  std::getline(line, rest);
  const size_t begin = rest.find_first_not_of(" \t");
  const size_t end = rest.find_last_not_of(" \t\r");
  return begin == std::string::npos ? "" : rest.substr(begin, end - begin + 1);
}

std::shared_ptr<const Image> load_texture(const std::map<std::string, std::vector<uint8_t>>& files,
                                          const std::string& member) {
  const auto found = files.find(member);
  if (found == files.end()) return nullptr;
  Decoded decoded = decode_image(found->second);
  if (decoded.status != DecodeStatus::ok) return nullptr;
  return std::make_shared<const Image>(std::move(decoded.image));
}

void load_mtl(const std::map<std::string, std::vector<uint8_t>>& files, const std::string& member, Mesh& mesh,
              std::map<std::string, int64_t>& names) {
  std::istringstream lines(text_of(files, member));
  std::string text;
  int64_t current = 0;
  while (std::getline(lines, text)) {
    std::istringstream line(text);
    std::string word;
    line >> word;
    if (word == "newmtl") {
      current = static_cast<int64_t>(mesh.materials.size());
      names[rest_of_line(line)] = current;
      mesh.materials.emplace_back();
    } else if (word == "Kd") {
      Vec3& kd = mesh.materials[static_cast<size_t>(current)].diffuse;
      line >> kd[0] >> kd[1] >> kd[2];
    } else if (word == "map_Kd") {
      mesh.materials[static_cast<size_t>(current)].texture =
          load_texture(files, folder_of(member) + rest_of_line(line));
    }
  }
}

struct Corner {
  int64_t position = 0, uv = -1;
};

/// "7", "7/1", "7/1/3", "7//3"; negative counts from the end.
Corner parse_corner(const std::string& word, size_t positions, size_t uvs, const std::string& where) {
  const auto resolve = [&](const char* text, size_t count) {
    const int64_t index = std::strtoll(text, nullptr, 10);
    const int64_t zero_based = index < 0 ? static_cast<int64_t>(count) + index : index - 1;
    if (zero_based < 0 || zero_based >= static_cast<int64_t>(count))
      throw DataError(fmt::format("bad mesh: {}: face index {} of {}", where, index, count));
    return zero_based;
  };
  Corner corner;
  corner.position = resolve(word.c_str(), positions);
  const size_t slash = word.find('/');
  if (slash != std::string::npos && slash + 1 < word.size() && word[slash + 1] != '/')
    corner.uv = resolve(word.c_str() + slash + 1, uvs);
  return corner;
}

}  // namespace

std::map<std::string, std::vector<uint8_t>> read_zip(const std::string& path) {
  if (!path_exists(path))
    throw MissingInputError("no such catalogue: " + path +
                            ": the file does not exist; fetch the package first");
  const std::unique_ptr<archive, int (*)(archive*)> reader(archive_read_new(), archive_read_free);
  archive_read_support_format_zip(reader.get());
  if (archive_read_open_filename(reader.get(), path.c_str(), 1 << 16) != ARCHIVE_OK) {
    throw DataError(fmt::format("bad catalogue: {}: {}", path, reason(reader.get())));
  }
  std::map<std::string, std::vector<uint8_t>> files;
  archive_entry* entry = nullptr;
  int status = ARCHIVE_OK;
  while ((status = archive_read_next_header(reader.get(), &entry)) == ARCHIVE_OK) {
    std::vector<uint8_t> data;
    std::array<uint8_t, 1 << 16> buffer;
    la_ssize_t got = 0;
    while ((got = archive_read_data(reader.get(), buffer.data(), buffer.size())) > 0) {
      data.insert(data.end(), buffer.begin(), buffer.begin() + got);
      if (static_cast<int64_t>(data.size()) > kMaxMember)
        throw DataError(fmt::format("bad catalogue: {}: member {} is above 256 MiB", path,
                                    archive_entry_pathname(entry)));
    }
    if (got < 0)
      throw DataError(fmt::format("bad catalogue: {}: {}", path, reason(reader.get())));
    files.emplace(archive_entry_pathname(entry), std::move(data));
  }
  if (status != ARCHIVE_EOF)
    throw DataError(fmt::format("bad catalogue: {}: {}", path, reason(reader.get())));
  return files;
}

Mesh load_obj(const std::map<std::string, std::vector<uint8_t>>& files, const std::string& member) {
  if (!files.contains(member)) throw DataError("bad catalogue: no member " + member);
  Mesh mesh;
  mesh.materials.emplace_back();
  std::map<std::string, int64_t> names;
  std::vector<Vec3> positions;
  std::vector<std::array<float, 2>> uvs;
  std::istringstream lines(text_of(files, member));
  std::string text;
  int64_t material = 0, number = 0;
  while (std::getline(lines, text)) {
    ++number;
    std::istringstream line(text);
    std::string word;
    line >> word;
    if (word == "v") {
      Vec3 p{};
      line >> p[0] >> p[1] >> p[2];
      positions.push_back(p);
    } else if (word == "vt") {
      std::array<float, 2> uv{};
      line >> uv[0] >> uv[1];
      uvs.push_back(uv);
    } else if (word == "mtllib") {
      load_mtl(files, folder_of(member) + rest_of_line(line), mesh, names);
    } else if (word == "usemtl") {
      const auto found = names.find(rest_of_line(line));
      material = found == names.end() ? 0 : found->second;
    } else if (word == "f") {
      std::vector<Corner> corners;
      while (line >> word)
        corners.push_back(
            parse_corner(word, positions.size(), uvs.size(), fmt::format("{} line {}", member, number)));
      for (size_t i = 2; i < corners.size(); ++i) {
        Triangle triangle;
        triangle.material = material;
        const std::array<Corner, 3> fan = {corners[0], corners[i - 1], corners[i]};
        for (size_t c = 0; c < 3; ++c) {
          triangle.position[c] = positions[static_cast<size_t>(fan[c].position)];
          if (fan[c].uv >= 0) triangle.uv[c] = uvs[static_cast<size_t>(fan[c].uv)];
        }
        mesh.triangles.push_back(triangle);
      }
    }
  }
  return mesh;
}

std::vector<CatalogueEntry> read_catalogue(const std::map<std::string, std::vector<uint8_t>>& files) {
  const std::string text = text_of(files, "PluginFurnitureCatalog.properties");
  if (text.empty()) throw DataError("bad catalogue: no PluginFurnitureCatalog.properties");
  std::map<int64_t, CatalogueEntry> entries;
  std::istringstream lines(text);
  std::string line;
  while (std::getline(lines, line)) {
    const size_t hash = line.find('#'), equals = line.find('=');
    if (line.empty() || line[0] == '#' || hash == std::string::npos || equals == std::string::npos ||
        hash > equals)
      continue;
    CatalogueEntry& entry = entries[std::strtoll(line.c_str() + hash + 1, nullptr, 10)];
    const std::string key = line.substr(0, hash);
    std::string value = line.substr(equals + 1);
    value.erase(value.find_last_not_of(" \t\r") + 1);
    if (key == "id") entry.id = value;
    if (key == "category") entry.category = value;
    if (key == "model") entry.model = value.starts_with('/') ? value.substr(1) : value;
  }
  std::vector<CatalogueEntry> list;
  for (const auto& [number, entry] : entries) {
    if (!entry.model.empty() && !entry.category.empty()) list.push_back(entry);
  }
  return list;
}

}  // namespace dino::render
