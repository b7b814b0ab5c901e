// SPDX-License-Identifier: Apache-2.0
#include "datasets/prepare.hpp"

#include <archive_entry.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <numbers>
#include <span>
#include <string_view>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/random.hpp"
#include "base/working.hpp"
#include "datasets/archive_reader.hpp"
#include "datasets/mesh.hpp"
#include "storage/files.hpp"
#include "storage/tar.hpp"
#include "storage/temporary.hpp"

namespace dino {
namespace {

constexpr size_t kMostBytes = size_t{1} << 30;  ///< unpacked, of one input file
constexpr double kLeastCoverage = 0.03;         ///< a view that shows less of its object is left out

[[noreturn]] void fail_unpack(const std::string& path, const ArchiveReader& reader) {
  const char* why = archive_error_string(reader.get());
  throw DataError(fmt::format("cannot unpack: {}: {}", path, why == nullptr ? "unknown format" : why));
}

void open_archive(const ArchiveReader& reader, const std::string& path) {
  static_cast<void>(read_bytes(path, 0, 0));  // a missing file as such
  if (archive_read_open_filename(reader.get(), path.c_str(), 1 << 16) != ARCHIVE_OK)
    fail_unpack(path, reader);
}

/// Data of the entry that the reader stands at; `total` counts over all entries of the file.
std::vector<uint8_t> read_entry(const ArchiveReader& reader, const std::string& path, size_t& total) {
  std::vector<uint8_t> bytes, chunk(1 << 16);
  while (true) {
    const auto got = archive_read_data(reader.get(), chunk.data(), chunk.size());
    if (got < 0) fail_unpack(path, reader);
    if (got == 0) return bytes;
    bytes.insert(bytes.end(), chunk.begin(), chunk.begin() + got);
    total += static_cast<size_t>(got);
    if (total > kMostBytes)
      throw DataError(fmt::format("cannot unpack: {}: more than {} bytes", path, kMostBytes));
  }
}

std::vector<uint8_t> gunzip(const std::string& path) {
  const ArchiveReader reader(archive_read_new());
  archive_read_support_filter_gzip(reader.get());
  archive_read_support_format_raw(reader.get());
  open_archive(reader, path);
  archive_entry* entry = nullptr;
  if (archive_read_next_header(reader.get(), &entry) != ARCHIVE_OK) fail_unpack(path, reader);
  size_t total = 0;
  return read_entry(reader, path, total);
}

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

void prepare_once(const std::string& out, const std::function<void(TarWriter&)>& fill) {
  make_once(out, [&](const std::string& temporary) {
    TarWriter tar(temporary);
    fill(tar);
    tar.close();
  });
}

uint32_t big_endian(const std::vector<uint8_t>& bytes, size_t at) {
  return static_cast<uint32_t>(bytes[at]) << 24 | static_cast<uint32_t>(bytes[at + 1]) << 16 |
         static_cast<uint32_t>(bytes[at + 2]) << 8 | bytes[at + 3];
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

/// For names of folders: lower case, everything but letters, digits and '-' becomes '_'.
std::string slug(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    const bool plain = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
    if (!plain) c = '_';
  }
  return text;
}

struct CatalogueModel {
  std::string id, category, file;
  Vec3 size{};  ///< millimetres: width, height, depth
  std::array<float, 9> rotation{1, 0, 0, 0, 1, 0, 0, 0, 1};
};

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

View random_view(Random& random, int index, int views) {
  View view;
  view.azimuth = static_cast<float>(2 * std::numbers::pi * (index + random.uniform_double()) / views);
  view.elevation = static_cast<float>(random.uniform(0.1, 0.9));
  const double around = random.uniform(0, 2 * std::numbers::pi), up = random.uniform(0.2, 0.95);
  const double flat = std::sqrt(1 - up * up);
  view.light = {static_cast<float>(flat * std::cos(around)), static_cast<float>(up),
                static_cast<float>(flat * std::sin(around))};
  for (Vec3* colour : {&view.sky, &view.ground})
    for (float& channel : *colour) channel = random.uniform();
  return view;
}

std::vector<uint8_t> with_header(const std::string& header, std::span<const uint8_t> data) {
  std::vector<uint8_t> bytes(header.begin(), header.end());
  bytes.insert(bytes.end(), data.begin(), data.end());
  return bytes;
}

void add_views(TarWriter& tar, const Mesh& mesh, const std::string& name, int views, int size) {
  for (int v = 0; v < views; ++v) {
    work_point();
    // Keyed by the model's name, so that a picture does not depend on which others there are.
    Random random(xxh3(std::as_bytes(std::span(name))), RandomStream::render, static_cast<uint64_t>(v));
    const Rendering picture = render(mesh, random_view(random, v, views), size);
    if (picture.coverage() < kLeastCoverage) continue;
    tar.add(fmt::format("{}/{:02}.ppm", name, v),
            with_header(fmt::format("P6\n{} {}\n255\n", size, size), picture.rgb));
    std::vector<uint8_t> depth;
    for (const float z : picture.depth) {
      const auto millimetres = static_cast<uint16_t>(std::clamp(std::lround(z), 0L, 65535L));
      depth.push_back(static_cast<uint8_t>(millimetres >> 8));
      depth.push_back(static_cast<uint8_t>(millimetres & 0xffu));
    }
    tar.add(fmt::format("{}/{:02}.depth", name, v),
            with_header(fmt::format("P5\n{} {}\n65535\n", size, size), depth));
  }
}

}  // namespace

void make_once(const std::string& out, const std::function<void(const std::string&)>& fill) {
  make_folders(std::filesystem::path(out).parent_path().string());
  const std::string lock_path = out + ".lock";
  const int lock = open_without_links(lock_path, O_RDWR | O_CREAT);
  // Without flock (some network file systems) all may write: the bytes are equal, and the rename is atomic.
  while (::flock(lock, LOCK_EX) != 0 && errno == EINTR) {
  }
  try {
    if (!path_exists(out)) {
      log::info(fmt::format("preparing {}: this is done once", out));
      remove_leftovers_of(out);
      commit_file(out, fill);
    }
  } catch (...) {
    ::close(lock);
    throw;
  }
  ::close(lock);
}

void prepare_idx(const std::string& images_path, const std::string& labels_path,
                 const std::vector<std::string>& classes, const std::string& out) {
  prepare_once(out, [&](TarWriter& tar) {
    const auto images = gunzip(images_path), labels = gunzip(labels_path);
    if (images.size() < 16 || big_endian(images, 0) != 0x803)
      throw DataError(fmt::format("bad IDX file: {}: not 8-bit images", images_path));
    if (labels.size() < 8 || big_endian(labels, 0) != 0x801)
      throw DataError(fmt::format("bad IDX file: {}: not 8-bit labels", labels_path));
    const uint64_t count = big_endian(images, 4), rows = big_endian(images, 8),
                   columns = big_endian(images, 12);
    if (rows == 0 || columns == 0 || rows > 65535 || columns > 65535 ||
        images.size() != 16 + count * rows * columns || labels.size() != 8 + count ||
        count != big_endian(labels, 4))
      throw DataError(
          fmt::format("bad IDX file: {}: its size does not fit its header or its labels", images_path));
    const std::string header = fmt::format("P5\n{} {}\n255\n", columns, rows);
    for (uint64_t i = 0; i < count; ++i) {
      const uint8_t label = labels[8 + i];
      if (label >= classes.size())
        throw DataError(fmt::format("bad IDX file: {}: class {} of image {}", labels_path, label, i));
      tar.add(fmt::format("{}/{:05}.pgm", classes[label], i),
              with_header(header, std::span(images).subspan(16 + i * rows * columns, rows * columns)));
    }
  });
}

void prepare_models(const std::vector<std::string>& catalogues, int views, int size, const std::string& out) {
  prepare_once(out, [&](TarWriter& tar) {
    for (const std::string& path : catalogues) {
      const auto files = unzip_models(path);
      const auto catalogue = files.find("PluginFurnitureCatalog.properties");
      if (catalogue == files.end())
        throw DataError(fmt::format("bad catalogue: {}: it has no PluginFurnitureCatalog.properties", path));
      for (const CatalogueModel& model : parse_catalogue(text_of(catalogue->second), path)) {
        const auto find = [&](const std::string& name) {
          const auto file = files.find(name);
          if (file == files.end())
            throw DataError(fmt::format("bad catalogue: {}: it has no file {}", path, name));
          return text_of(file->second);
        };
        const std::string folder = model.file.substr(0, model.file.rfind('/') + 1);
        // A few models name material files that their authors did not pack: those stay grey.
        const auto materials = [&](const std::string& name) {
          return files.contains(folder + name) ? std::string(find(folder + name)) : std::string();
        };
        Mesh mesh = parse_obj(find(model.file), path + ":" + model.file, materials);
        fit_mesh(mesh, model.rotation, model.size);
        add_views(tar, mesh, slug(model.category) + "/" + slug(model.id), views, size);
      }
    }
  });
}

}  // namespace dino
