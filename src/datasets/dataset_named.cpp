// SPDX-License-Identifier: Apache-2.0
// GCC 12 with -fsanitize=address sees an uninitialised std::function inside <regex> where there is none.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

// Data sets defined by share/datasets/NAME.cfg over Debian packages that share/datasets/fetch.sh unpacks.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <map>
#include <regex>
#include <set>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string_view>
#include <tuple>

#include "base/error.hpp"
#include "base/options.hpp"
#include "base/version.hpp"
#include "datasets/dataset_builder.hpp"
#include "datasets/prepare.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

enum class Format : uint8_t { images, idx, models, rooms, slices };
constexpr auto names_of(Format) {
  return std::to_array<Named<Format>>({{"images", Format::images},
                                       {"idx", Format::idx},
                                       {"models", Format::models},
                                       {"rooms", Format::rooms},
                                       {"slices", Format::slices}});
}

/// PACKAGE:PATH
struct Root {
  std::string package, path;
  static Root from_text(std::string_view text) {
    const size_t colon = text.find(':');
    if (colon == std::string_view::npos) throw std::invalid_argument("root is PACKAGE:PATH");
    return {std::string(text.substr(0, colon)), std::string(text.substr(colon + 1))};
  }
  [[nodiscard]] std::string text() const { return package + ":" + path; }
  static const char* type_name() { return "PACKAGE:PATH"; }
};

/// A regular expression on the path below the root; an empty one was not given.
struct Pattern {
  std::string source;
  std::regex regex;
  static Pattern from_text(std::string_view text) {
    try {
      return {std::string(text),
              std::regex(text.begin(), text.end(), std::regex::ECMAScript | std::regex::optimize)};
    } catch (const std::regex_error& error) {
      throw std::invalid_argument(fmt::format("bad regular expression: {}", error.what()));
    }
  }
  [[nodiscard]] std::string text() const { return source; }
  static const char* type_name() { return "REGEX"; }
};

/// OLD -> NEW
struct Rename {
  std::string from, to;
  static Rename from_text(std::string_view text) {
    const size_t arrow = text.find("->");
    if (arrow == std::string_view::npos) throw std::invalid_argument("rename is OLD -> NEW");
    return {trim(text.substr(0, arrow)), trim(text.substr(arrow + 2))};
  }
  [[nodiscard]] std::string text() const { return from + " -> " + to; }
  static const char* type_name() { return "OLD -> NEW"; }
};

/// share/datasets/NAME.cfg; see share/datasets/README.md for the meaning of each key.
struct Definition {
  std::string name, title, licence;
  Format format = Format::images;
  std::vector<Root> roots;
  std::vector<Pattern> include, exclude;
  Pattern label, group;  ///< what the captures hold, joined by '/'
  std::string classes;   ///< idx: names in order, with spaces between them
  std::vector<Rename> rename;
  bool links = false;
  int64_t min_class = 0;         ///< smaller classes are left out
  int64_t min_groups = 0;        ///< and those of fewer groups
  int64_t views = 6, size = 96;  ///< models: pictures of each (rooms: of all), and their side in pixels
  double val = 0, test = 0;      ///< fractions of each class, or of the rooms
  std::string volume, regions, region_names;  ///< slices: files below the root
};

Schema<Definition> definition_settings() {
  using D = Definition;
  Schema<D> schema;
  schema.add("title", &D::title, "For people.").add("licence", &D::licence, "For people.");
  schema.add("format", &D::format, "What the files are.");
  schema.add("root", &D::roots, "Folders of unpacked packages.").by_line().required();
  schema.add("include", &D::include, "Images need one of these.").by_line();
  schema.add("exclude", &D::exclude, "And none of these.").by_line();
  schema.add("label", &D::label, "Its captures are the label.");
  schema.add("group", &D::group, "Its captures are the group.");
  schema.add("classes", &D::classes, "Names of idx classes.");
  schema.add("rename", &D::rename, "Of labels.").by_line();
  schema.add("links", &D::links, "Also take symbolic links.");
  schema.add("min-class", &D::min_class, "Least pictures of a class.").range(0, 1e9);
  schema.add("min-groups", &D::min_groups, "Least groups of a class.").range(0, 1e9);
  schema.add("views", &D::views, "Pictures of each model, or rooms.").range(1, 100000);
  schema.add("size", &D::size, "Side of these pictures.").range(16, 4096);
  schema.add("volume", &D::volume, "File whose slices are the pictures.");
  schema.add("regions", &D::regions, "File of the regions on its grid.");
  schema.add("region-names", &D::region_names, "File of their numbers and names.");
  schema.add("val", &D::val, "Fraction of each class.").range(0, 1);
  schema.add("test", &D::test, "Fraction of each class.").range(0, 1);
  return schema;
}

struct Item {
  Record record;
  std::string label;
  std::string part;  ///< train | val | test; empty when the set has no labels
  std::vector<Sidecar> sidecars;
};

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

std::string definition_file(const std::string& name) {
  return share_dir() + "/datasets/" + name + ".cfg";
}

Definition read_definition(const std::string& name) {
  Definition d;
  d.name = name;
  const std::string file = definition_file(name), kind = "bad data set definition";
  OptionTable table(kind);
  table.bind(definition_settings(), d);
  try {
    table.parse_ini(read_text(file), file);
    table.check_required(file);
  } catch (const UsageError& error) {
    throw DataError(error.what());
  }
  if (d.format == Format::slices && (d.volume.empty() || d.regions.empty() || d.region_names.empty()))
    throw DataError(fmt::format("{}: {}: slices need volume, regions and region-names", kind, file));
  if (d.val + d.test >= 1)
    throw DataError(fmt::format("{}: {}: val and test leave nothing to train on; lower them", kind, file));
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
std::optional<std::string> captures(const Pattern& pattern, const std::string& text) {
  std::smatch match;
  if (!std::regex_search(text, match, pattern.regex)) return std::nullopt;
  std::string joined;
  for (size_t i = 1; i < match.size(); ++i)
    if (match[i].matched) joined += (joined.empty() ? "" : "/") + match[i].str();
  return joined;
}

bool any_match(const std::vector<Pattern>& patterns, const std::string& text) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const Pattern& pattern) { return std::regex_search(text, pattern.regex); });
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
      if (!d.label.source.empty()) {
        const auto label = captures(d.label, file.relative);
        if (!label) continue;
        const auto renamed = std::find_if(d.rename.rbegin(), d.rename.rend(),
                                          [&](const Rename& r) { return r.from == *label; });
        item.label = renamed == d.rename.rend() ? *label : renamed->to;
      }
      const std::string stem = without_extension(file.relative);
      item.record.key = d.roots.size() > 1 ? root.package + "/" + stem : stem;
      item.record.path = folder + "/" + file.relative;
      item.record.extension = extension;
      item.record.group = !d.group.source.empty() ? captures(d.group, file.relative).value_or(stem) : stem;
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
    const std::string& label = builder.label(i);
    item.label = label.substr(0, label.find('/'));
    item.record = std::move(builder.dataset().records[i]);
    item.record.group = item.record.key;
    item.record.key_label = false;  // the set's own, and no guess
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
                  fmt::format("{}/{}-labels-idx1-ubyte.gz", folder, stem), words_of(d.classes), tar);
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

std::vector<std::string> catalogues_of(const Definition& d, Dataset& dataset) {
  std::vector<std::string> catalogues;
  const std::string folder = package_folder(d, d.roots[0]);
  for (const FoundFile& file : walk_folder(folder, dataset.faults, false).files)
    if (lower_extension(file.relative) == "sh3f") catalogues.push_back(folder + "/" + file.relative);
  return catalogues;
}

std::vector<Item> collect_models(const Definition& d, Dataset& dataset) {
  const std::string tar = fmt::format("{}/prepared/{}/{}x{}.tar", data_dir(), d.name, d.views, d.size);
  if (!path_exists(tar))
    prepare_models(catalogues_of(d, dataset), static_cast<int>(d.views), static_cast<int>(d.size), tar);
  std::vector<Item> items;
  add_prepared(tar, "models", items, dataset);
  // models/LABEL/MODEL/VIEW: all views of a model stay together.
  for (Item& item : items) item.record.group = item.record.key.substr(0, item.record.key.rfind('/'));
  drop_small_classes(d, items);
  split_by_group(d, items);
  return items;
}

/// Rooms of one part show models of that part alone. Their classes are those of pixels, in classes.txt beside
/// the tars.
std::vector<Item> collect_rooms(const Definition& d, Dataset& dataset) {
  const std::string folder = fmt::format("{}/prepared/{}", data_dir(), d.name);
  std::vector<Item> items;
  for (const auto& [part, share] :
       {std::pair<const char*, double>{"train", 1 - d.val - d.test}, {"val", d.val}, {"test", d.test}}) {
    const auto rooms = static_cast<int>(std::lround(share * static_cast<double>(d.views)));
    if (rooms == 0) continue;
    const std::string tar = fmt::format("{}/{}-{}x{}.tar", folder, part, rooms, d.size);
    if (!path_exists(tar) || !path_exists(folder + "/classes.txt")) {
      const auto names = prepare_rooms(catalogues_of(d, dataset), part, rooms, static_cast<int>(d.size), tar);
      write_file_atomically(folder + "/classes.txt", fmt::format("{}\n", fmt::join(names, "\n")));
    }
    add_prepared(tar, part, items, dataset);
  }
  for (Item& item : items) item.label.clear();
  return items;
}

/// The three parts are blocks of slices; classes are those of pixels.
std::vector<Item> collect_slices(const Definition& d, Dataset& dataset) {
  const std::string folder = fmt::format("{}/prepared/{}", data_dir(), d.name);
  std::vector<Item> items;
  for (const char* part : {"train", "val", "test"}) {
    const std::string tar = fmt::format("{}/{}.tar", folder, part);
    if (!path_exists(tar) || !path_exists(folder + "/classes.txt")) {
      const std::string root = package_folder(d, d.roots[0]) + "/";
      const auto names = prepare_slices(root + d.volume, root + d.regions, root + d.region_names, part, tar);
      write_file_atomically(folder + "/classes.txt", fmt::format("{}\n", fmt::join(names, "\n")));
    }
    add_prepared(tar, part, items, dataset);
  }
  for (Item& item : items) item.label.clear();
  return items;
}

std::vector<Item> collect(const Definition& d, Dataset& dataset) {
  if (d.format == Format::idx) return collect_idx(d, dataset);
  if (d.format == Format::models) return collect_models(d, dataset);
  if (d.format == Format::rooms) return collect_rooms(d, dataset);
  if (d.format == Format::slices) return collect_slices(d, dataset);
  auto items = collect_images(d, dataset.faults);
  if (!d.label.source.empty()) {
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

bool is_copy(const std::string& path) {
  return path.starts_with(data_dir() + "/unpacked/") || path.starts_with(data_dir() + "/prepared/");
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
  const bool parted =
      std::any_of(items.begin(), items.end(), [](const Item& item) { return !item.part.empty(); });
  if (part != "all" && !parted)
    throw MissingInputError(fmt::format(
        "unknown part of a data set: {}: '{}' has no labels and no parts; use {}", reference, name, name));
  for (const Item& item : items) classes.push_back(item.label);
  std::sort(classes.begin(), classes.end());
  classes.erase(std::unique(classes.begin(), classes.end()), classes.end());
  std::vector<int32_t> numbers;  // of the records, where they have labels
  for (Item& item : items) {
    const bool wanted = part == "all" || item.part == part ||
                        (part == "trainval" && (item.part == "train" || item.part == "val"));
    if (!wanted) continue;
    for (Sidecar& sidecar : item.sidecars) {
      sidecar.record = static_cast<int64_t>(builder.dataset().records.size());
      builder.dataset().sidecars.push_back(std::move(sidecar));
    }
    numbers.push_back(
        static_cast<int32_t>(std::lower_bound(classes.begin(), classes.end(), item.label) - classes.begin()));
    builder.add(std::move(item.record), labelled ? item.label : "");
  }
  Dataset dataset = builder.finish();
  if (labelled) {
    // Class numbers are those of the whole set, so that its parts agree even when one lacks a class.
    for (size_t i = 0; i < dataset.records.size(); ++i) dataset.records[i].label = numbers[i];
    dataset.classes = std::move(classes);
  }
  return dataset;
}

}  // namespace dino
