// SPDX-License-Identifier: Apache-2.0
// GCC 12 with -fsanitize=address sees an uninitialised std::function inside <regex> where there is none.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include "datasets/dense_definition.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <regex>
#include <set>
#include <sstream>
#include <stdexcept>

#include "base/error.hpp"
#include "base/options.hpp"
#include "base/text.hpp"
#include "base/version.hpp"
#include "datasets/dataset_builder.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

constexpr const char* kFolderDefinition = "dense.cfg";

/// The two sides of "A -> B".
std::pair<std::string, std::string> sides_of(std::string_view text, const char* what) {
  const size_t arrow = text.find("->");
  if (arrow == std::string_view::npos) throw std::invalid_argument(what);
  return {trim(text.substr(0, arrow)), trim(text.substr(arrow + 2))};
}

/// The first of "A: B".
std::string head_of(std::string_view& text, const char* what) {
  const size_t colon = text.find(':');
  if (colon == std::string_view::npos) throw std::invalid_argument(what);
  std::string head = trim(text.substr(0, colon));
  text.remove_prefix(colon + 1);
  if (head.empty()) throw std::invalid_argument(what);
  return head;
}

/// PART: REGEX of the image's path -> path of its map, with $1 ... $9.
struct PairRule {
  std::string part, source, target;
  std::regex image;
  static PairRule from_text(std::string_view text) {
    const char* shape = "pairs is PART: REGEX -> PATH";
    PairRule rule;
    rule.part = head_of(text, shape);
    std::tie(rule.source, rule.target) = sides_of(text, shape);
    try {
      rule.image = std::regex(rule.source, std::regex::ECMAScript | std::regex::optimize);
    } catch (const std::regex_error& error) {
      throw std::invalid_argument(fmt::format("bad regular expression: {}", error.what()));
    }
    return rule;
  }
  [[nodiscard]] std::string text() const { return part + ": " + source + " -> " + target; }
  static const char* type_name() { return "PART: REGEX -> PATH"; }
};

/// PART: FILE: PATH -> PATH, where $1 ... $9 are the words of each line of FILE.
struct ListRule {
  std::string part, file, image, target;
  static ListRule from_text(std::string_view text) {
    const char* shape = "list is PART: FILE: PATH -> PATH";
    ListRule rule;
    rule.part = head_of(text, shape);
    rule.file = head_of(text, shape);
    std::tie(rule.image, rule.target) = sides_of(text, shape);
    return rule;
  }
  [[nodiscard]] std::string text() const { return part + ": " + file + ": " + image + " -> " + target; }
  static const char* type_name() { return "PART: FILE: PATH -> PATH"; }
};

struct DenseDefinition {
  std::string title, licence, root;
  DenseTask task = DenseTask::segmentation;
  std::vector<PairRule> pairs;
  std::vector<ListRule> lists;
  std::vector<std::string> classes;
  std::vector<int64_t> values, ignore;
  bool ignore_others = false;
  DepthCodingKind coding = DepthCodingKind::linear;
  bool visp = false;
  double scale = 1000, least = 1e-3, most = 10;
  DepthCrop crop = DepthCrop::none;
  ImageCrop image_crop = ImageCrop::none, train_crop = ImageCrop::none;
};

Schema<DenseDefinition> dense_settings() {
  using D = DenseDefinition;
  Schema<D> schema;
  schema.add("title", &D::title, "For people.").add("licence", &D::licence, "For people.");
  schema.add("task", &D::task, "What the maps hold.").required();
  schema.add("root", &D::root, "PACKAGE:PATH of a fetched package.");
  schema.add("pairs", &D::pairs, "Images below the root, and their maps.").by_line();
  schema.add("list", &D::lists, "The same from a file that lists them.").by_line();
  schema.add("classes", &D::classes, "Names in order.");
  schema.add("values", &D::values, "The number of each class (else 0, 1, ...).");
  schema.add("ignore", &D::ignore, "Numbers of pixels that do not count.");
  schema.add("ignore-others", &D::ignore_others, "And all that are of no class.");
  schema.add("coding", &D::coding, "How depths are stored.");
  schema.add("visp", &D::visp, "Maps are files of ViSP.");
  schema.add("scale", &D::scale, "Stored units in a metre.").range(1e-6, 1e9);
  schema.add("min-depth", &D::least, "Metres.").range(1e-6, 1e6);
  schema.add("max-depth", &D::most, "Metres.").range(1e-6, 1e6);
  schema.add("crop", &D::crop, "Where depths are compared.");
  schema.add("image-crop", &D::image_crop, "What is cut from every image.");
  schema.add("train-crop", &D::train_crop, "And from those of training.");
  return schema;
}

DenseDefinition read_dense_definition(const std::string& file) {
  const std::string kind = "bad data set definition";
  DenseDefinition d;
  OptionTable table(kind);
  table.bind(dense_settings(), d);
  try {
    table.parse_ini(read_text(file), file);
    table.check_required(file);
  } catch (const UsageError& error) {
    throw DataError(error.what());
  }
  const auto fail = [&](const std::string& why) {
    throw DataError(fmt::format("{}: {}: {}", kind, file, why));
  };
  if (d.pairs.empty() && d.lists.empty()) fail("neither pairs nor list says where its images are");
  if (d.least >= d.most) fail("min-depth is not below max-depth");
  if (d.task == DenseTask::depth) return d;
  if (d.classes.empty() || d.classes.size() > 32767) fail("classes names 1 to 32767 classes");
  if (d.values.empty())
    for (size_t c = 0; c < d.classes.size(); ++c) d.values.push_back(static_cast<int64_t>(c));
  if (d.values.size() != d.classes.size())
    fail(fmt::format("{} values for {} classes", d.values.size(), d.classes.size()));
  std::set<int64_t> seen;
  for (const auto* list : {&d.values, &d.ignore})
    for (const int64_t value : *list) {
      if (value < 0 || value > 65535) fail(fmt::format("number {} does not fit 16 bits", value));
      if (!seen.insert(value).second) fail(fmt::format("number {} stands for two things", value));
    }
  return d;
}

/// `pattern` with $1 ... $9 replaced.
std::string expand(const std::string& pattern, const std::vector<std::string>& words) {
  std::string out;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const bool number =
        pattern[i] == '$' && i + 1 < pattern.size() && pattern[i + 1] >= '1' && pattern[i + 1] <= '9';
    if (!number) {
      out += pattern[i];
      continue;
    }
    const auto at = static_cast<size_t>(pattern[++i] - '1');
    if (at < words.size()) out += words[at];
  }
  return out;
}

/// A path of a list must stay below the root.
bool stays_below(const std::string& path) {
  const auto parts = split(path, '/');
  return std::none_of(parts.begin(), parts.end(), [](const std::string& part) { return part == ".."; });
}

void add_pair(DenseDataset& dataset, const std::string& root, const std::string& image,
              const std::string& target) {
  DensePair pair;
  pair.key = printable_name(without_extension(image));
  pair.image.key = pair.target.key = pair.key;
  pair.image.path = root + "/" + image;
  pair.image.extension = lower_extension(image);
  pair.target.path = root + "/" + target;
  pair.target.extension = lower_extension(target);
  if (!path_exists(pair.target.path) || !path_exists(pair.image.path)) {
    const bool no_target = path_exists(pair.image.path);
    dataset.faults.push_back(fmt::format("{}: its {} is not there: {}", pair.key, no_target ? "map" : "image",
                                         printable_name(no_target ? target : image)));
    return;
  }
  dataset.pairs.push_back(std::move(pair));
}

bool wanted_part(const std::string& part, const std::string& of_rule) {
  return part == "all" || part == of_rule || (part == "trainval" && (of_rule == "train" || of_rule == "val"));
}

void collect_pairs(const DenseDefinition& d, const std::string& root, const std::string& part,
                   DenseDataset& dataset) {
  if (std::any_of(d.pairs.begin(), d.pairs.end(),
                  [&](const PairRule& r) { return wanted_part(part, r.part); }))
    for (const FoundFile& file : walk_folder(root, dataset.faults).files)
      for (const PairRule& rule : d.pairs) {
        std::smatch match;
        if (!wanted_part(part, rule.part) || !std::regex_match(file.relative, match, rule.image)) continue;
        std::vector<std::string> words;
        for (size_t i = 1; i < match.size(); ++i) words.push_back(match[i].str());
        add_pair(dataset, root, file.relative, expand(rule.target, words));
        break;
      }
  for (const ListRule& rule : d.lists) {
    if (!wanted_part(part, rule.part)) continue;
    std::istringstream text(read_text(root + "/" + rule.file));
    int64_t number = 0;
    for (std::string line; std::getline(text, line);) {
      ++number;
      std::istringstream words_of_line(line);
      std::vector<std::string> words;
      for (std::string word; words_of_line >> word;) words.push_back(word);
      if (words.empty()) continue;
      // KITTI's lists say None where there is no ground truth.
      if (std::find(words.begin(), words.end(), "None") != words.end()) {
        dataset.faults.push_back(fmt::format("{}:{}: it has no ground truth", rule.file, number));
        continue;
      }
      for (std::string& word : words) word.erase(0, word.find_first_not_of('/'));
      const std::string image = expand(rule.image, words), target = expand(rule.target, words);
      if (!stays_below(image) || !stays_below(target))
        throw DataError(
            fmt::format("bad list: {}/{}:{}: a path leaves the data set", root, rule.file, number));
      add_pair(dataset, root, image, target);
    }
  }
}

DenseDataset open_with(const DenseDefinition& d, const std::string& reference, const std::string& name,
                       const std::string& part, const std::string& root) {
  std::set<std::string> parts = {"all"};
  for (const PairRule& rule : d.pairs) parts.insert(rule.part);
  for (const ListRule& rule : d.lists) parts.insert(rule.part);
  if (parts.contains("train") && parts.contains("val")) parts.insert("trainval");
  if (!parts.contains(part))
    throw MissingInputError(fmt::format("unknown part of a data set: {}: '{}' is not one of {}", reference,
                                        part, fmt::join(parts, ", ")));
  DenseDataset dataset;
  dataset.reference = reference;
  dataset.name = part == "all" ? name : name + "/" + part;
  dataset.task = d.task;
  dataset.classes = d.classes;
  dataset.labels = LabelCoding(d.values, d.ignore, d.ignore_others);
  dataset.depth = {d.coding, d.scale, d.least, d.most};
  dataset.visp_depth = d.visp;
  dataset.crop = d.crop;
  dataset.image_crop = d.image_crop;
  dataset.train_crop = d.train_crop;
  collect_pairs(d, root, part, dataset);
  if (dataset.pairs.empty())
    throw DataError(fmt::format(
        "data set incomplete: {}: {} holds no pair of an image and its map where {} has them{}", reference,
        root, name, dataset.faults.empty() ? "" : "; the first: " + dataset.faults.front()));
  return dataset;
}

/// Where the data lie when the user does not say: a package's folder, or $DINO_DATA/NAME.
std::string default_root(const DenseDefinition& d, const std::string& name) {
  const size_t colon = d.root.find(':');
  if (colon == std::string::npos) {
    const std::string folder = data_dir() + "/" + name;
    if (!is_folder(folder))
      throw MissingInputError(fmt::format(
          "data set not there: {}: no folder {}; give its root as {}:ROOT, or put it (or a link to it) there",
          name, folder, name));
    return folder;
  }
  const std::string folder = data_dir() + "/packages/" + d.root.substr(0, colon);
  if (!is_folder(folder))
    throw MissingInputError(
        fmt::format("data set not fetched: {}: package {} is not in {}; run "
                    "{}/datasets/fetch.sh dense/{}",
                    name, d.root.substr(0, colon), data_dir() + "/packages", share_dir(), name));
  return folder + "/" + d.root.substr(colon + 1);
}

}  // namespace

std::optional<DenseDataset> open_defined_dense(const std::string& reference) {
  const size_t colon = reference.find(':');
  const std::string named = reference.substr(0, colon);
  const size_t slash = named.find('/');
  const std::string name = named.substr(0, slash);
  const std::string file = share_dir() + "/datasets/dense/" + name + ".cfg";
  if (name.empty() || name[0] == '.' || !path_exists(file)) return std::nullopt;
  const DenseDefinition d = read_dense_definition(file);
  const std::string root = colon == std::string::npos ? default_root(d, name) : reference.substr(colon + 1);
  if (!is_folder(root))
    throw MissingInputError(fmt::format("cannot find data: {}: no folder {}", reference, root));
  return open_with(d, reference, name, slash == std::string::npos ? "all" : named.substr(slash + 1), root);
}

std::optional<DenseDataset> open_folder_defined_dense(const std::string& reference) {
  std::string folder = reference, part = "all";
  if (!is_folder(folder)) {
    const size_t slash = folder.rfind('/');
    if (slash == std::string::npos) return std::nullopt;
    part = folder.substr(slash + 1);
    folder = folder.substr(0, slash);
  }
  const std::string file = folder + "/" + kFolderDefinition;
  if (!path_exists(file)) return std::nullopt;
  const DenseDefinition d = read_dense_definition(file);
  if (!d.root.empty())
    throw DataError(fmt::format("bad data set definition: {}: root is for packages", file));
  return open_with(d, reference, std::filesystem::path(folder).filename().string(), part, folder);
}

std::vector<std::string> dense_dataset_names() {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(share_dir() + "/datasets/dense", error))
    if (entry.path().extension() == ".cfg") names.push_back(entry.path().stem().string());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace dino
