// SPDX-License-Identifier: Apache-2.0
// GCC 12 with -fsanitize=address sees an uninitialised std::function inside <regex> where there is none.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

// Data sets defined by share/datasets/NAME.cfg over Debian packages that share/datasets/fetch.sh unpacks.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <map>
#include <regex>
#include <set>
#include <span>
#include <sstream>
#include <string_view>
#include <tuple>

#include "base/error.hpp"
#include "base/version.hpp"
#include "datasets/dataset_builder.hpp"
#include "datasets/prepare.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

struct Root {
  std::string package, path;
};

/// share/datasets/NAME.cfg; see share/datasets/README.md for the meaning of each key.
struct Definition {
  std::string name, file;
  std::string format = "images";              ///< images | idx | models
  std::vector<Root> roots;                    ///< root = PACKAGE:PATH, may be repeated
  std::vector<std::regex> include, exclude;   ///< on the path below the root
  std::optional<std::regex> label, group;     ///< what the captures hold, joined by '/'
  std::vector<std::string> classes;           ///< idx: names in order
  std::map<std::string, std::string> rename;  ///< label = new label
  bool links = false;
  int64_t min_class = 0;     ///< smaller classes are left out
  int64_t min_groups = 0;    ///< and those of fewer groups
  int views = 6, size = 96;  ///< models: pictures of each, and their side in pixels
  double val = 0, test = 0;  ///< fractions of each class
};

struct Item {
  Record record;
  std::string label;
  std::string part;  ///< train | val | test; empty when the set has no labels
  std::vector<Sidecar> sidecars;
};

[[noreturn]] void bad_definition(const std::string& file, int line, const std::string& why) {
  throw DataError(fmt::format("bad data set definition: {}: line {}: {}", file, line, why));
}

std::string trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r");
  if (begin == std::string_view::npos) return {};
  return std::string(text.substr(begin, text.find_last_not_of(" \t\r") + 1 - begin));
}

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

std::string definition_file(const std::string& name) {
  return share_dir() + "/datasets/" + name + ".cfg";
}

/// Each of the next three handles its kind of keys and returns false for other keys.
bool set_number(Definition& d, const std::string& key, const std::string& value, int line) {
  const bool known = key == "min-class" || key == "min-groups" || key == "views" || key == "size" ||
                     key == "val" || key == "test";
  if (!known) return false;
  double number = 0;
  const auto parsed = std::from_chars(value.data(), value.data() + value.size(), number);
  if (parsed.ec != std::errc() || parsed.ptr != value.data() + value.size() || !(number >= 0 && number < 1e9))
    bad_definition(d.file, line, key + " needs a number of 0 or more");
  if (key == "min-class") d.min_class = static_cast<int64_t>(number);
  if (key == "min-groups") d.min_groups = static_cast<int64_t>(number);
  if (key == "views") d.views = static_cast<int>(std::clamp(number, 1.0, 1000.0));
  if (key == "size") d.size = static_cast<int>(std::clamp(number, 16.0, 4096.0));
  if (key == "val") d.val = number;
  if (key == "test") d.test = number;
  return true;
}

bool set_pattern(Definition& d, const std::string& key, const std::string& value, int line) {
  if (key != "include" && key != "exclude" && key != "label" && key != "group") return false;
  try {
    std::regex pattern(value, std::regex::ECMAScript | std::regex::optimize);
    if (key == "include")
      d.include.push_back(std::move(pattern));
    else if (key == "exclude")
      d.exclude.push_back(std::move(pattern));
    else if (key == "label")
      d.label = std::move(pattern);
    else
      d.group = std::move(pattern);
  } catch (const std::regex_error& error) {
    bad_definition(d.file, line, fmt::format("{}: bad regular expression: {}", key, error.what()));
  }
  return true;
}

bool set_text(Definition& d, const std::string& key, const std::string& value, int line) {
  if (key == "format") {
    if (value != "images" && value != "idx" && value != "models")
      bad_definition(d.file, line, "format is images, idx or models");
    d.format = value;
  } else if (key == "root") {
    const size_t colon = value.find(':');
    if (colon == std::string::npos) bad_definition(d.file, line, "root is PACKAGE:PATH");
    d.roots.push_back({value.substr(0, colon), value.substr(colon + 1)});
  } else if (key == "rename") {
    const size_t arrow = value.find("->");
    if (arrow == std::string::npos) bad_definition(d.file, line, "rename is OLD -> NEW");
    d.rename[trimmed(value.substr(0, arrow))] = trimmed(value.substr(arrow + 2));
  } else if (key == "classes") {
    d.classes = words_of(value);
  } else if (key == "links") {
    d.links = value == "true";
  } else {
    return key == "title" || key == "licence";
  }
  return true;
}

Definition read_definition(const std::string& name) {
  Definition d;
  d.name = name;
  d.file = definition_file(name);
  std::istringstream text(read_text(d.file));
  std::string line;
  for (int number = 1; std::getline(text, line); ++number) {
    const std::string clean = trimmed(line);
    if (clean.empty() || clean[0] == '#' || clean[0] == ';' || clean[0] == '[') continue;
    const size_t equals = clean.find('=');
    if (equals == std::string::npos) bad_definition(d.file, number, "neither a comment nor KEY = VALUE");
    const std::string key = trimmed(clean.substr(0, equals)), value = trimmed(clean.substr(equals + 1));
    if (!set_number(d, key, value, number) && !set_pattern(d, key, value, number) &&
        !set_text(d, key, value, number))
      bad_definition(d.file, number, "unknown key " + key);
  }
  if (d.val + d.test >= 1) bad_definition(d.file, 0, "val and test leave nothing to train on");
  if (d.roots.empty()) bad_definition(d.file, 0, "root is missing");
  return d;
}

std::string package_folder(const Definition& d, const Root& root) {
  const std::string folder = data_dir() + "/packages/" + root.package;
  if (!is_folder(folder))
    throw MissingInputError(
        fmt::format("data set not fetched: {}: package {} is not in {}; run {}/datasets/fetch.sh {}", d.name,
                    root.package, data_dir() + "/packages", share_dir(), d.name));
  const std::string path = root.path.empty() ? folder : folder + "/" + root.path;
  if (!is_folder(path))
    throw DataError(
        fmt::format("data set incomplete: {}: no folder {}; another version of the package? remove {} "
                    "and run {}/datasets/fetch.sh {}",
                    d.name, path, folder, share_dir(), d.name));
  return path;
}

/// The captures of the first match joined by '/', or nothing.
std::optional<std::string> captures(const std::regex& pattern, const std::string& text) {
  std::smatch match;
  if (!std::regex_search(text, match, pattern)) return std::nullopt;
  std::string joined;
  for (size_t i = 1; i < match.size(); ++i)
    if (match[i].matched) joined += (joined.empty() ? "" : "/") + match[i].str();
  return joined;
}

bool any_match(const std::vector<std::regex>& patterns, const std::string& text) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const std::regex& pattern) { return std::regex_search(text, pattern); });
}

std::vector<Item> collect_images(const Definition& d, std::vector<std::string>& faults) {
  std::vector<Item> items;
  for (const Root& root : d.roots) {
    const std::string folder = package_folder(d, root);
    for (const FoundFile& file : walk_folder(folder, faults, d.links).files) {
      const std::string extension = lower_extension(file.relative);
      if (!is_image_extension(extension)) continue;
      if (!d.include.empty() && !any_match(d.include, file.relative)) continue;
      if (any_match(d.exclude, file.relative)) continue;
      Item item;
      if (d.label) {
        const auto label = captures(*d.label, file.relative);
        if (!label) continue;
        const auto renamed = d.rename.find(*label);
        item.label = renamed == d.rename.end() ? *label : renamed->second;
      }
      const std::string stem = without_extension(file.relative);
      item.record.key = d.roots.size() > 1 ? root.package + "/" + stem : stem;
      item.record.path = folder + "/" + file.relative;
      item.record.extension = extension;
      item.record.group = d.group ? captures(*d.group, file.relative).value_or(stem) : stem;
      items.push_back(std::move(item));
    }
  }
  return items;
}

struct Group {
  uint64_t order = 0;
  std::string name;
  int64_t images = 0;
  const char* part = "train";
};

struct Part {
  const char* name;
  double wanted;  ///< images
  int64_t given = 0;
};

/// Walks the groups of one class in the order of a hash. A group that fits goes to the part that lacks most;
/// a part may overshoot by a quarter where it would else stay far below; larger groups stay in train. Where
/// none fits and there are three groups or more, a part gets the smallest.
void fill_parts(std::vector<Group>& groups, std::array<Part, 2> parts) {
  const std::string_view train = "train";
  for (const double limit : {1.0, 1.25}) {
    for (Group& group : groups) {
      if (group.part != train) continue;
      Part* neediest = nullptr;
      for (Part& part : parts) {
        const bool full = limit > 1 && static_cast<double>(part.given) > 0.75 * part.wanted;
        if (full || static_cast<double>(part.given + group.images) > limit * part.wanted) continue;
        // given / wanted, compared without dividing
        if (neediest == nullptr || static_cast<double>(part.given) * neediest->wanted <
                                       static_cast<double>(neediest->given) * part.wanted)
          neediest = &part;
      }
      if (neediest == nullptr) continue;
      group.part = neediest->name;
      neediest->given += group.images;
    }
  }
  for (const Part& part : parts) {
    if (part.given > 0 || part.wanted <= 0 || groups.size() < 3) continue;
    Group* smallest = nullptr;
    for (Group& group : groups)
      if (group.part == train && (smallest == nullptr || group.images < smallest->images)) smallest = &group;
    if (smallest != nullptr) smallest->part = part.name;
  }
}

/// Splits each class into test, val and train without cutting a group.
void split_by_group(const Definition& d, std::vector<Item>& items) {
  std::map<std::string, std::string> class_of_group;  // a group in two classes goes with its first
  std::map<std::string, std::map<std::string, int64_t>> classes;
  for (const Item& item : items) {
    const auto& owner = class_of_group.emplace(item.record.group, item.label).first->second;
    ++classes[owner][item.record.group];
  }
  std::map<std::string, std::string> part_of_group;
  for (const auto& [label, counts] : classes) {
    std::vector<Group> groups;
    double total = 0;
    for (const auto& [name, images] : counts) {
      groups.push_back({xxh3(std::as_bytes(std::span(name))), name, images});
      total += static_cast<double>(images);
    }
    std::sort(groups.begin(), groups.end(), [](const Group& a, const Group& b) {
      return std::tie(a.order, a.name) < std::tie(b.order, b.name);
    });
    fill_parts(groups, {Part{"test", d.test * total}, Part{"val", d.val * total}});
    for (const Group& group : groups) part_of_group[group.name] = group.part;
  }
  for (Item& item : items) item.part = part_of_group[item.record.group];
}

void drop_small_classes(const Definition& d, std::vector<Item>& items) {
  std::map<std::string, int64_t> images;
  std::map<std::string, std::set<std::string>> groups;
  for (const Item& item : items) {
    ++images[item.label];
    groups[item.label].insert(item.record.group);
  }
  std::erase_if(items, [&](const Item& item) {
    return images[item.label] < d.min_class || static_cast<int64_t>(groups[item.label].size()) < d.min_groups;
  });
}

/// The records of a prepared tar; the first folder of a key is the label.
void add_prepared(const std::string& tar, const std::string& part, std::vector<Item>& items,
                  Dataset& dataset) {
  DatasetBuilder builder(tar);
  builder.add_tar(tar, part);
  for (const auto& fault : builder.dataset().faults) dataset.faults.push_back(fault);
  for (size_t i = 0; i < builder.dataset().records.size(); ++i) {
    Item item;
    item.record = std::move(builder.dataset().records[i]);
    item.record.group = item.record.key;
    item.record.key_label = false;  // the set's own, and no guess
    item.label = builder.labels()[i].substr(0, builder.labels()[i].find('/'));
    item.part = part;
    items.push_back(std::move(item));
  }
  for (Sidecar& sidecar : builder.dataset().sidecars)
    items[items.size() - builder.dataset().records.size() + static_cast<size_t>(sidecar.record)]
        .sidecars.push_back(std::move(sidecar));
}

std::vector<Item> collect_idx(const Definition& d, Dataset& dataset) {
  std::vector<Item> train, test;
  for (const auto& [part, stem] : {std::pair<const char*, const char*>{"train", "train"}, {"test", "t10k"}}) {
    const std::string tar = fmt::format("{}/prepared/{}/{}.tar", data_dir(), d.name, part);
    if (!path_exists(tar)) {
      const std::string folder = package_folder(d, d.roots[0]);
      prepare_idx(fmt::format("{}/{}-images-idx3-ubyte.gz", folder, stem),
                  fmt::format("{}/{}-labels-idx1-ubyte.gz", folder, stem), d.classes, tar);
    }
    add_prepared(tar, part, part == std::string_view("train") ? train : test, dataset);
  }
  // The official test part stays as it is; val comes out of the official training part.
  Definition inner = d;
  inner.test = 0;
  split_by_group(inner, train);
  std::move(test.begin(), test.end(), std::back_inserter(train));
  return train;
}

std::vector<Item> collect_models(const Definition& d, Dataset& dataset) {
  const std::string tar = fmt::format("{}/prepared/{}/{}x{}.tar", data_dir(), d.name, d.views, d.size);
  if (!path_exists(tar)) {
    const std::string folder = package_folder(d, d.roots[0]);
    std::vector<std::string> catalogues;
    for (const FoundFile& file : walk_folder(folder, dataset.faults, false).files)
      if (lower_extension(file.relative) == "sh3f") catalogues.push_back(folder + "/" + file.relative);
    prepare_models(catalogues, d.views, d.size, tar);
  }
  std::vector<Item> items;
  add_prepared(tar, "models", items, dataset);
  // models/LABEL/MODEL/VIEW: all views of a model stay together.
  for (Item& item : items) item.record.group = item.record.key.substr(0, item.record.key.rfind('/'));
  drop_small_classes(d, items);
  split_by_group(d, items);
  return items;
}

std::vector<Item> collect(const Definition& d, Dataset& dataset) {
  if (d.format == "idx") return collect_idx(d, dataset);
  if (d.format == "models") return collect_models(d, dataset);
  auto items = collect_images(d, dataset.faults);
  if (d.label) {
    drop_small_classes(d, items);
    split_by_group(d, items);
  }
  return items;
}

}  // namespace

std::string data_dir() {
  if (const char* folder = std::getenv("DINO_DATA"); folder != nullptr && *folder != '\0') return folder;
  const char* home = std::getenv("HOME");
  return std::string(home == nullptr ? "" : home) + "/.cache/dinohpc";
}

std::vector<std::string> dataset_names() {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(share_dir() + "/datasets", error))
    if (entry.path().extension() == ".cfg") names.push_back(entry.path().stem().string());
  std::sort(names.begin(), names.end());
  return names;
}

std::optional<Dataset> open_named_dataset(const std::string& reference) {
  const size_t slash = reference.find('/');
  const std::string name = reference.substr(0, slash);
  const std::string part = slash == std::string::npos ? "all" : reference.substr(slash + 1);
  if (name.empty() || name[0] == '.' || !path_exists(definition_file(name))) return std::nullopt;
  const std::set<std::string> known = {"all", "train", "val", "trainval", "test"};
  if (!known.contains(part))
    throw MissingInputError(fmt::format("unknown part of a data set: {}: '{}' is not one of {}", reference,
                                        part, fmt::join(known, ", ")));
  const Definition definition = read_definition(name);
  DatasetBuilder builder(reference);
  std::vector<Item> items = collect(definition, builder.dataset());
  std::vector<std::string> classes;
  const bool labelled =
      std::any_of(items.begin(), items.end(), [](const Item& item) { return !item.label.empty(); });
  if (part != "all" && !labelled)
    throw MissingInputError(fmt::format(
        "unknown part of a data set: {}: '{}' has no labels and no parts; use {}", reference, name, name));
  for (const Item& item : items) classes.push_back(item.label);
  std::sort(classes.begin(), classes.end());
  classes.erase(std::unique(classes.begin(), classes.end()), classes.end());
  for (Item& item : items) {
    const bool wanted = part == "all" || item.part == part ||
                        (part == "trainval" && (item.part == "train" || item.part == "val"));
    if (!wanted) continue;
    for (Sidecar& sidecar : item.sidecars) {
      sidecar.record = static_cast<int64_t>(builder.dataset().records.size());
      builder.dataset().sidecars.push_back(std::move(sidecar));
    }
    builder.add(std::move(item.record), labelled ? item.label : "");
  }
  // Class numbers are those of the whole set, so that its parts agree even when one lacks a class.
  std::vector<std::string> labels = builder.labels();
  Dataset dataset = builder.finish();
  if (labelled) {
    for (size_t i = 0; i < dataset.records.size(); ++i)
      dataset.records[i].label =
          static_cast<int32_t>(std::lower_bound(classes.begin(), classes.end(), labels[i]) - classes.begin());
    dataset.classes = std::move(classes);
  }
  return dataset;
}

}  // namespace dino
