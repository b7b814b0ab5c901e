// SPDX-License-Identifier: Apache-2.0
// dino-curate lint TAR...: are these shards what a WebDataset reader expects?
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "commands.hpp"
#include "datasets/dataset.hpp"
#include "storage/files.hpp"
#include "storage/tar.hpp"

namespace dino::curation {
namespace {

bool names_an_image(const std::string& extension) {
  const std::string last = extension.substr(extension.rfind('.') + 1);
  for (const char* known : {"jpg", "jpeg", "png",  "webp", "gif",  "bmp", "tif", "tiff", "ppm",  "pgm",
                            "pbm", "pnm",  "heic", "heif", "avif", "jxl", "jp2", "jpe",  "jfif", "img"}) {
    if (last == known) return true;
  }
  return false;
}

/// Faults of the container (scan_tar), then of the grouping: a name twice, a key that comes back after
/// another, a key without an image, a member without content.
std::vector<TarFault> lint(const std::string& path) {
  std::vector<TarFault> faults;
  const std::vector<TarMember> members = scan_tar(path, faults);
  std::unordered_set<std::string> names, keys;
  bool image = true;  // of the current key
  for (size_t i = 0; i < members.size(); ++i) {
    const TarMember& m = members[i];
    if (!names.insert(m.name).second) faults.push_back({m.offset, "the name occurs twice: " + m.name});
    if (m.size == 0) faults.push_back({m.offset, "the member is empty: " + m.name});
    if (i == 0 || members[i - 1].key != m.key) {
      if (!image) faults.push_back({members[i - 1].offset, "no image for the key: " + members[i - 1].key});
      if (!keys.insert(m.key).second)
        faults.push_back({m.offset, "the key comes back after another: " + m.key});
      image = false;
    }
    image = image || names_an_image(m.extension);
  }
  if (!image) faults.push_back({members.back().offset, "no image for the key: " + members.back().key});
  if (members.empty() && faults.empty()) faults.push_back({0, "the tar has no member"});
  return faults;
}

ExitCode run(const std::vector<std::string>& tars, const CommandContext& context) {
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  for (const std::string& path : tars) {
    for (const TarFault& fault : lint(path)) {
      if (!context.common.json) fmt::print("{}: offset {}: {}\n", path, fault.offset, fault.what);
      all.push_back({{"path", path}, {"offset", fault.offset}, {"fault", fault.what}});
    }
  }
  if (context.common.json) {
    const nlohmann::ordered_json result = {{"tars", tars.size()}, {"faults", all}};
    std::printf("%s\n",
                result.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace).c_str());
  }
  return all.empty() ? ExitCode::done : ExitCode::bad_data;
}

}  // namespace

Command lint_command() {
  Command command;
  command.name = "lint";
  command.summary = "check tar shards";
  command.usage = "TAR...";
  command.description =
      "Reads the headers of every tar and prints each fault with its offset: bad checksums, truncated "
      "members, "
      "names that occur twice, keys whose members are apart, keys without an image, empty members. Exit 65 "
      "if "
      "there is any.";
  command.uses_mpi = false;
  command.make = [](OptionTable& table) -> std::function<ExitCode(CommandContext&)> {
    const auto tars = std::make_shared<std::vector<std::string>>();
    table.add("tars", tars.get(), "Tar files.").positional().required();
    return [tars](CommandContext& context) { return run(*tars, context); };
  };
  return command;
}

}  // namespace dino::curation
