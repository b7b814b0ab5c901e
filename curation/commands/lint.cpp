// SPDX-License-Identifier: Apache-2.0
// dino-curate lint TAR...: are these shards what a WebDataset reader expects?
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <unordered_set>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/text.hpp"
#include "commands.hpp"
#include "datasets/dataset_builder.hpp"
#include "imaging/image.hpp"
#include "storage/files.hpp"
#include "storage/tar.hpp"

namespace dino::curation {
namespace {

/// Kinds of sidecars that hold a picture.
bool is_map_extension(const std::string& extension) {
  const std::string last = extension.substr(extension.rfind('.') + 1);
  return last == "depth" || last == "seg" || last == "mask" || is_image_extension(last);
}

class Linter {
 public:
  explicit Linter(const std::string& path) : path_(path) {}

  std::vector<TarFault> run() {
    members_ = scan_tar(path_, faults_);
    if (members_.empty() && faults_.empty()) add(0, "the tar has no member");
    if (members_.empty()) return std::move(faults_);
    const PosixFile file(path_);
    samples_ = group_members(file, members_);
    std::unordered_set<std::string> names;
    for (const TarMember& m : members_) {
      check_name(m);
      if (!names.insert(m.name).second) add(m.header, "the name occurs twice: " + shown(m));
    }
    check_images(file);
    check_sidecars(file);
    check_order();
    std::stable_sort(faults_.begin(), faults_.end(),
                     [](const TarFault& a, const TarFault& b) { return a.offset < b.offset; });
    return std::move(faults_);
  }

 private:
  void add(int64_t offset, std::string what) { faults_.push_back({offset, std::move(what)}); }

  static std::string shown(const TarMember& m) {
    return printable_name(m.name.substr(0, 200)) + (m.name.size() > 200 ? "..." : "");
  }

  void check_name(const TarMember& m) {
    if (m.name_bytes > kMaxName)
      add(m.header, fmt::format("the name has {} bytes, more than {}: {}", m.name_bytes, kMaxName, shown(m)));
    if (m.name.starts_with('/')) add(m.header, "the name is absolute: " + shown(m));
    for (const std::string& part : split(m.name, '/')) {
      if (part == "..") {
        add(m.header, "the name leads out of the folder (..): " + shown(m));
        break;
      }
    }
    if (printable_name(m.name) != m.name)
      add(m.header, "the name holds control characters or is not UTF-8: " + shown(m));
  }

  [[nodiscard]] std::string first_bytes(const PosixFile& file, const TarMember& m) const {
    std::string bytes(static_cast<size_t>(std::min<int64_t>(m.size, 32)), '\0');
    file.read_exactly(m.offset, bytes.data(), static_cast<int64_t>(bytes.size()));
    return bytes;
  }

  [[nodiscard]] std::string content(const PosixFile& file, const TarMember& m) const {
    const std::string bytes = first_bytes(file, m);
    return std::string(image_extension_of({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()}));
  }

  void check_images(const PosixFile& file) {
    for (const TarImage& image : samples_.images) {
      const TarMember& m = members_[image.member];
      const std::string base = image.key.substr(image.key.rfind('/') + 1);
      if (m.size == 0)
        add(m.offset, "the member is empty: " + shown(m));
      else if (!image.named)
        add(m.offset, fmt::format("the name has no image's extension, the content is {}: {}", image.extension,
                                  shown(m)));
      else if (content(file, m).empty())
        add(m.offset, fmt::format("the name has an image's extension, the content is of none: {}", shown(m)));
      if (image.named && is_image_extension(lower_extension(base)))
        add(m.header, "double extension: " + shown(m));
      else if (base.find('.', 1) != std::string::npos && m.name_bytes <= kMaxName)
        add(m.header, fmt::format("dots in the key: readers that end it at the first one take {} for it: {}",
                                  printable_name(base.substr(0, base.find('.', 1))), shown(m)));
    }
    for (const size_t i : samples_.shared)
      add(members_[i].header, "a second image of the same key: " + shown(members_[i]));
  }

  void check_sidecars(const PosixFile& file) {
    std::unordered_set<size_t> checked;
    for (const TarSidecar& sidecar : samples_.sidecars) {
      if (!checked.insert(sidecar.member).second) continue;
      const TarMember& m = members_[sidecar.member];
      if (m.size == 0 && sidecar.extension != "txt") add(m.offset, "the member is empty: " + shown(m));
      if (!is_map_extension(sidecar.extension) && !content(file, m).empty())
        add(m.offset, fmt::format("the name has no image's extension, the content is {}: {}",
                                  content(file, m), shown(m)));
      const size_t double_at = sidecar.extension.find('.');
      if (double_at != std::string::npos && is_image_extension(sidecar.extension.substr(0, double_at)))
        add(m.header, "double extension: " + shown(m));
    }
    for (const size_t i : samples_.refused) {
      const bool large = members_[i].size > kMaxSidecar;
      add(members_[i].header, large ? fmt::format("a sidecar of {} bytes, more than {}: {}", members_[i].size,
                                                  kMaxSidecar, shown(members_[i]))
                                    : "a second sidecar of its kind: " + shown(members_[i]));
    }
    for (const size_t i : samples_.orphans)
      add(members_[i].header, "no image for the key of " + shown(members_[i]));
    for (const size_t i : samples_.hidden)
      add(members_[i].header, "a file of the desktop: " + shown(members_[i]));
  }

  /// Readers that stream take what follows each other as one sample.
  void check_order() {
    std::vector<size_t> image_of(members_.size(), kNone);
    for (const TarSidecar& sidecar : samples_.sidecars) image_of[sidecar.member] = sidecar.image;
    for (size_t i = 0; i < samples_.images.size(); ++i) image_of[samples_.images[i].member] = i;
    std::unordered_set<std::string> left;
    std::string current;
    for (size_t i = 0; i < members_.size(); ++i) {
      if (image_of[i] == kNone) continue;
      const std::string& key = samples_.images[image_of[i]].key;
      if (key == current) continue;
      if (left.contains(key))
        add(members_[i].offset, "the key comes back after another: " + printable_name(key));
      left.insert(current);
      current = key;
    }
  }

  static constexpr size_t kNone = SIZE_MAX;
  const std::string& path_;
  std::vector<TarFault> faults_;
  std::vector<TarMember> members_;
  TarSamples samples_;
};

struct LintConfig {
  std::vector<std::string> tars;
};

Schema<LintConfig> lint_options() {
  Schema<LintConfig> schema;
  schema.add("tars", &LintConfig::tars, "Tar files.").positional().required();
  return schema;
}

ExitCode run_lint(const LintConfig& config, CommandContext& context) {
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  for (const std::string& path : config.tars) {
    for (const TarFault& fault : Linter(path).run()) {
      if (!context.common.json)
        fmt::print("{}: offset {}: {}\n", printable_name(path), fault.offset, fault.what);
      all.push_back({{"path", path}, {"offset", fault.offset}, {"fault", fault.what}});
    }
  }
  context.result = json_line({{"tars", config.tars.size()}, {"faults", all}});
  return all.empty() ? ExitCode::done : ExitCode::bad_data;
}

}  // namespace

Command lint_command() {
  Command command;
  command.name = "lint";
  command.summary = "check tar shards";
  command.usage = "TAR...";
  command.description =
      "Reads the headers of every tar, and the first bytes of every member, and prints each fault with its "
      "offset: bad checksums, truncated members, compression, joined archives, links, devices and sparse "
      "members, names that lead out of the folder, are absolute, longer than 4,096 bytes, hold control "
      "characters, occur twice or have two extensions, dots in keys, keys whose members are apart, sidecars "
      "without an image or of more than 16 MiB, contents that do not fit the extension, empty members. Exit "
      "65 "
      "if there is any.";
  command.uses_mpi = false;
  command.examples = {{"shards/000000.tar shards/000001.tar"}};
  command.make = with_options(lint_options(), run_lint);
  return command;
}

}  // namespace dino::curation
