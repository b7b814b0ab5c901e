// SPDX-License-Identifier: Apache-2.0
#include "input_record.hpp"

#include <fmt/format.h>

#include <sstream>
#include <unordered_set>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/text.hpp"
#include "stage_marker.hpp"
#include "storage/files.hpp"
#include "storage/seal.hpp"

namespace dino::curation {
namespace {

using Json = nlohmann::ordered_json;

std::string json_path(const std::string& out) {
  return out + "/stages/inputs.json";
}
std::string lines_path(const std::string& out) {
  return out + "/stages/inputs.tsv";
}

Json references(const Listing& listing) {
  Json list = Json::array();
  for (const Input& input : listing.inputs)
    list.push_back({{"reference", printable_name(input.reference)},
                    {"records", input.records},
                    {"passed_over", input.passed_over},
                    {"hash", input.hash}});
  return list;
}

void write_record(const std::string& out, const Listing& inputs, const Listing& excluded) {
  std::string lines;
  for (const Listing* listing : {&inputs, &excluded})
    for (const Input& input : listing->inputs) lines += input.lines;
  write_file_atomically(lines_path(out), lines);
  const Json json = {{"inputs", references(inputs)}, {"exclude", references(excluded)}};
  // A path may hold any bytes; JSON holds UTF-8.
  write_file_atomically(json_path(out),
                        sealed_json(json.dump(1, ' ', false, Json::error_handler_t::replace)));
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

/// The lines of the part of inputs.tsv that begins after `skip` records; empty when the file does not fit.
std::vector<std::string> lines_before(const std::string& out, int64_t skip, int64_t count) {
  if (!path_exists(lines_path(out))) return {};
  std::vector<std::string> all = split_lines(read_text(lines_path(out)));
  if (static_cast<int64_t>(all.size()) < skip + count) return {};
  return {all.begin() + skip, all.begin() + skip + count};
}

void compare(const std::string& out, const Json& known, const Listing& listing, const std::string& what,
             int64_t& record) {
  if (known.size() != listing.inputs.size())
    throw DataError(fmt::format("damaged file: {}: it lists {} references for {}; name another --output",
                                json_path(out), known.size(), listing.inputs.size()));
  for (size_t i = 0; i < known.size(); ++i) {
    const Input& input = listing.inputs[i];
    const auto records = known[i].at("records").get<int64_t>();
    if (known[i].at("hash") != input.hash) {
      const auto before = lines_before(out, record, records);
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

}  // namespace

void keep_or_compare_inputs(const std::string& out, const Listing& inputs, const Listing& excluded) {
  const std::string path = json_path(out);
  if (!path_exists(path)) return write_record(out, inputs, excluded);
  const std::string text = read_text(path);
  check_sealed_json(text, path, do_again(out, "ingest") + " after deleting this file too");
  const Json known = Json::parse(text);
  int64_t record = 0;
  compare(out, known.at("inputs"), inputs, "input", record);
  compare(out, known.at("exclude"), excluded, "excluded set", record);
}

}  // namespace dino::curation
