// SPDX-License-Identifier: Apache-2.0
#include "input_record.hpp"

#include <fmt/format.h>

#include <filesystem>
#include <sstream>
#include <unordered_set>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/text.hpp"
#include "stage_marker.hpp"
#include "storage/files.hpp"
#include "storage/seal.hpp"

namespace dino::curation {
namespace {

constexpr const char* kInputs = "inputs";
constexpr const char* kExcluded = "excluded";

std::string json_path(const std::string& out, const std::string& name) {
  return fmt::format("{}/stages/{}.json", out, name);
}
std::string lines_path(const std::string& out, const std::string& name) {
  return fmt::format("{}/stages/{}.tsv", out, name);
}

OrderedJson references(const Listing& listing) {
  OrderedJson list = OrderedJson::array();
  for (const Input& input : listing.inputs)
    list.push_back({{"reference", printable_name(input.reference)},
                    {"records", input.records},
                    {"passed_over", input.passed_over},
                    {"hash", input.hash}});
  return list;
}

/// Name and bytes of a line, as a person reads them.
struct Seen {
  std::string name, bytes;
  explicit Seen(const std::string& line) {
    const size_t tab = line.find('\t');
    name = line.substr(0, tab);
    if (tab != std::string::npos) bytes = line.substr(tab + 1, line.find('\t', tab + 1) - tab - 1);
  }
};

std::vector<std::string> split_lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(std::move(line));
  return lines;
}

std::unordered_set<std::string> names_of(const std::vector<std::string>& lines) {
  std::unordered_set<std::string> names;
  for (const std::string& line : lines) names.insert(Seen(line).name);
  return names;
}

std::string first_difference(const std::vector<std::string>& before, const std::vector<std::string>& now) {
  size_t i = 0;
  while (i < before.size() && i < now.size() && before[i] == now[i]) ++i;
  const auto had = names_of(before), has = names_of(now);
  if (i < before.size()) {
    const Seen old(before[i]);
    if (!has.contains(old.name)) return fmt::format("{} is gone", old.name);
    if (i < now.size()) {
      const Seen other(now[i]);
      if (!had.contains(other.name)) return fmt::format("{} was not there", other.name);
      if (other.name != old.name)
        return fmt::format("the order is another: {} where {} was", other.name, old.name);
      if (other.bytes != old.bytes)
        return fmt::format("{} has {} bytes and had {}", old.name, other.bytes, old.bytes);
      return fmt::format("{} has another class, place or other sidecars", old.name);
    }
  } else if (i < now.size()) {
    return fmt::format("{} was not there", Seen(now[i]).name);
  }
  return "the listing is another";
}

/// The lines of the part of the table that begins after `skip` records; empty when the file does not fit.
std::vector<std::string> lines_before(const std::string& path, int64_t skip, int64_t count) {
  if (!path_exists(path)) return {};
  std::vector<std::string> all = split_lines(read_text(path));
  if (static_cast<int64_t>(all.size()) < skip + count) return {};
  return {all.begin() + skip, all.begin() + skip + count};
}

/// The references of a record. `stage` is the one whose marker names its files.
OrderedJson read_record_of(const std::string& out, const std::string& name, const std::string& stage) {
  const std::string path = json_path(out, name), text = read_text(path);
  check_sealed_json(text, path, do_again(out, stage) + " after deleting this file too");
  return OrderedJson::parse(text).at(name);
}

void compare(const std::string& out, const std::string& name, const std::string& what,
             const std::string& stage, const Listing& listing) {
  const OrderedJson known = read_record_of(out, name, stage);
  if (known.size() != listing.inputs.size())
    throw DataError(fmt::format("damaged file: {}: it lists {} references for {}; name another --output",
                                json_path(out, name), known.size(), listing.inputs.size()));
  int64_t record = 0;
  for (size_t i = 0; i < known.size(); ++i) {
    const Input& input = listing.inputs[i];
    const auto records = known[i].at("records").get<int64_t>();
    if (known[i].at("hash") != input.hash) {
      const auto before = lines_before(lines_path(out, name), record, records);
      throw DataError(
          fmt::format("{} changed: {}: {} since this curation began ({} images then, {} now); put it back, "
                      "or name another "
                      "--output",
                      what, input.reference,
                      before.empty() && records > 0 ? "names or sizes differ"
                                                    : first_difference(before, split_lines(input.lines)),
                      records, input.records));
    }
    record += records;
  }
}

/// Are these the references that were recorded? Others are another setting, and no changed input.
bool same_references(const std::string& out, const std::string& name, const std::string& stage,
                     const Listing& listing) {
  const OrderedJson known = read_record_of(out, name, stage), now = references(listing);
  if (known.size() != now.size()) return false;
  for (size_t i = 0; i < known.size(); ++i)
    if (known[i].at("reference") != now[i].at("reference")) return false;
  return true;
}

void write_record(const std::string& out, const std::string& name, const Listing& listing) {
  std::string lines;
  for (const Input& input : listing.inputs) lines += input.lines;
  write_file_atomically(lines_path(out, name), lines);
  // A path may hold any bytes; JSON holds UTF-8.
  write_file_atomically(json_path(out, name), sealed_json(json_text({{name, references(listing)}}, 1)));
}

}  // namespace

void compare_inputs(const std::string& out, const Listing& inputs, const Listing& excluded) {
  if (path_exists(json_path(out, kInputs))) compare(out, kInputs, "input", "ingest", inputs);
  if (!excluded.inputs.empty() && path_exists(json_path(out, kExcluded)) &&
      same_references(out, kExcluded, "decontaminate", excluded))
    compare(out, kExcluded, "excluded set", "decontaminate", excluded);
}

void keep_inputs(const std::string& out, const Listing& inputs, const Listing& excluded) {
  if (!path_exists(json_path(out, kInputs))) write_record(out, kInputs, inputs);
  if (excluded.inputs.empty()) {
    std::filesystem::remove(json_path(out, kExcluded));
    std::filesystem::remove(lines_path(out, kExcluded));
  } else if (!path_exists(json_path(out, kExcluded)) ||
             !same_references(out, kExcluded, "decontaminate", excluded)) {
    write_record(out, kExcluded, excluded);
  }
}

}  // namespace dino::curation
