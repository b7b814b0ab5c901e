// SPDX-License-Identifier: Apache-2.0
// Files of tensors, told by content: safetensors, torch.save's formats, and shards under one index.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "model/pickle.hpp"
#include "model/tensor_source.hpp"
#include "storage/array_file.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

constexpr size_t kShownName = 100;
constexpr size_t kShownGroups = 8;
constexpr int64_t kMaxIndex = int64_t{16} << 20;
constexpr int64_t kMaxIndexValues = 1'000'000;

/// "148 tensors: blocks.* (120), cls_token [1, 1, 64], ..."
std::string summary(const TensorSource& source) {
  struct Group {
    std::string first;
    int64_t count = 0;
  };
  std::map<std::string, Group> groups;
  for (const auto& [name, info] : source.tensors) {
    Group& group = groups[name.substr(0, name.find('.'))];
    if (group.count++ == 0) group.first = name;
  }
  std::string text = fmt::format("{} tensor{}", source.tensors.size(), source.tensors.size() == 1 ? "" : "s");
  size_t shown = 0;
  for (const auto& [top, group] : groups) {
    if (shown == kShownGroups) {
      text += ", ...";
      break;
    }
    text += shown++ == 0 ? ": " : ", ";
    if (group.count > 1) {
      text += fmt::format("{}.* ({})", shown_name(top), group.count);
      continue;
    }
    const auto& shape = source.tensors.at(group.first).shape;
    text += shown_name(group.first) + " [";
    for (size_t i = 0; i < std::min<size_t>(shape.size(), 8); ++i)
      text += fmt::format("{}{}", i == 0 ? "" : ", ", shape[i]);
    text += "]";
  }
  return text;
}

/// Which file has which tensor. A key that is there twice is refused: JSON readers keep one of them silently.
Json parse_index(const std::string& path) {
  if (file_size(path) > kMaxIndex) fail_weights(path, "an index of more than 16 MiB");
  const std::string text = read_text(path);
  refuse_lfs_pointer(path, text);
  std::vector<std::set<std::string>> open;
  int64_t values = 0;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > 8) fail_weights(path, "nested too deeply for an index");
    if (++values > kMaxIndexValues) fail_weights(path, "implausibly many values for an index");
    if (event == Json::parse_event_t::object_start) open.emplace_back();
    if (event == Json::parse_event_t::object_end) open.pop_back();
    if (event == Json::parse_event_t::key && !open.back().insert(parsed.get<std::string>()).second)
      fail_weights(path, fmt::format("{} is listed twice", shown_name(parsed.get<std::string>())));
    return true;
  };
  Json json = Json::parse(text, watch, false);
  if (json.is_discarded() || !json.is_object()) fail_weights(path, "not a JSON object");
  if (!json.contains("weight_map") || !json.at("weight_map").is_object() || json.at("weight_map").empty())
    fail_weights(path, "no object \"weight_map\" that says which file has which tensor");
  return json.at("weight_map");
}

bool is_plain_name(const std::string& file) {
  return !file.empty() && file.size() <= 255 && file != "." && file != ".." &&
         file.find_first_of(std::string("/\\\0", 3)) == std::string::npos;
}

std::string_view as_text(const std::vector<uint8_t>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// What a file is that holds no tensors, in words; "" = nothing known.
std::string known_stranger(std::string_view head, const std::string& path) {
  if (head.empty()) return "the file is empty; copy it again";
  const size_t text = head.find_first_not_of(" \t\r\n");
  if (text != std::string_view::npos &&
      (head.substr(text).starts_with("<!") || head.substr(text).starts_with("<html")))
    return "a web page, not weights; the download failed or asked for a login";
  if (head.starts_with("\x89HDF\r\n\x1a\n")) return "an HDF5 file; give the checkpoint folder it belongs to";
  if (head.starts_with("\x1f\x8b")) return "compressed with gzip; unpack it first";
  if (head.starts_with("\x93NUMPY")) return "a NumPy array, not a set of named tensors";
  if (head.starts_with("GGUF")) return "a GGUF file, which is quantised; give the original weights";
  if (head.starts_with("\x80") || path.ends_with(".pth") || path.ends_with(".pt"))
    return "neither a zip archive nor the format of PyTorch 0.4 to 1.5; it must be saved again by a newer "
           "one";
  return "";
}

}  // namespace

std::string shown_name(const std::string& name) {
  std::string text = json_ascii(name.substr(0, kShownName));
  text = text.substr(1, text.size() - 2);
  return name.size() > kShownName ? text + "..." : text;
}

void fail_weights(const std::string& path, const std::string& why) {
  throw DataError(fmt::format("bad weights: {}: {}", path, why));
}

void fail_weights(const TensorSource& source, const std::string& why) {
  fail_weights(source.path, why + "; it holds " + (source.held.empty() ? summary(source) : source.held));
}

void refuse_lfs_pointer(const std::string& path, std::string_view text) {
  if (text.starts_with("version https://git-lfs") || text.starts_with("version https://hawser"))
    fail_weights(path, "a Git LFS pointer in place of the file; fetch it with `git lfs pull`");
}

TensorSource open_safetensors(const std::string& path) {
  auto file = std::make_shared<SafetensorsFile>(SafetensorsFile::open(path));
  TensorSource source;
  source.path = path;
  source.bytes = file_size(path);
  source.facts = file->metadata();
  for (const auto& [name, entry] : file->entries())
    source.tensors.emplace(name, TensorInfo{entry.shape, entry.dtype});
  source.read = [file](const std::string& name) { return file->read_f32(name); };
  return source;
}

TensorSource open_index(const std::string& path) {
  const Json weight_map = parse_index(path);
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  std::map<std::string, TensorSource> shards;
  std::map<std::string, std::string> place;
  TensorSource source;
  source.path = path;
  for (const auto& [name, value] : weight_map.items()) {
    const std::string file = value.is_string() ? value.get<std::string>() : "";
    if (!is_plain_name(file))
      fail_weights(path, fmt::format("the file of {} is {}, not a name in its folder", shown_name(name),
                                     shown_name(json_ascii(value))));
    const std::string where = (folder / file).string();
    if (!shards.contains(file)) {
      if (!path_exists(where) || is_folder(where))
        throw MissingInputError(fmt::format(
            "no weights: {}: the shard {} that it names is missing; download it", path, shown_name(file)));
      shards.emplace(file, open_tensors(where));
    }
    const auto found = shards.at(file).tensors.find(name);
    if (found == shards.at(file).tensors.end())
      fail_weights(path, fmt::format("it says that {} is in {}, which has none of that name",
                                     shown_name(name), shown_name(file)));
    source.tensors.emplace(name, found->second);
    place.emplace(name, file);
  }
  for (const auto& [file, shard] : shards) {
    for (const auto& [name, info] : shard.tensors) {
      const auto listed = place.find(name);
      if (listed == place.end())
        fail_weights(path, fmt::format("{} has a tensor {} that it does not list", shown_name(file),
                                       shown_name(name)));
      if (listed->second != file)
        fail_weights(path, fmt::format("{} is in {} and in {}", shown_name(name), shown_name(listed->second),
                                       shown_name(file)));
    }
    source.bytes += shard.bytes;
    source.facts.insert(shard.facts.begin(), shard.facts.end());
  }
  source.read = [shards = std::move(shards), place = std::move(place)](const std::string& name) {
    return shards.at(place.at(name)).read(name);
  };
  source.held = summary(source);
  return source;
}

TensorSource open_tensors(const std::string& path) {
  if (path.ends_with(".index.json")) return open_index(path);
  const std::vector<uint8_t> bytes = read_bytes(path, 0, std::min<int64_t>(file_size(path), 512));
  const std::string_view head = as_text(bytes);
  refuse_lfs_pointer(path, head);
  TensorSource source;
  // The length that a .safetensors file begins with can look like the start of any other format.
  if (head.size() > 8 && head[8] == '{' && head.substr(4, 4) == std::string_view("\0\0\0\0", 4)) {
    source = open_safetensors(path);
  } else if (head.starts_with("PK\x03\x04") || is_legacy_file(bytes)) {
    source = open_pth(path);
  } else if (const std::string stranger = known_stranger(head, path); !stranger.empty()) {
    fail_weights(path, stranger);
  } else if (path.ends_with(".safetensors")) {
    source = open_safetensors(path);
  } else {
    fail_weights(path, "not a .safetensors or .pth file, nor a folder");
  }
  source.held = summary(source);
  return source;
}

}  // namespace dino
