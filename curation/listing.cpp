// SPDX-License-Identifier: Apache-2.0
#include "listing.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "base/error.hpp"
#include "base/text.hpp"
#include "base/working.hpp"
#include "storage/files.hpp"

namespace dino::curation {
namespace {

std::string base_name(std::string reference) {
  while (reference.size() > 1 && reference.back() == '/') reference.pop_back();
  std::string name = reference.substr(reference.rfind('/') + 1);
  std::error_code ignored;
  if (name == "." || name == "..")
    name = std::filesystem::weakly_canonical(reference, ignored).filename().string();
  return name;
}

class Packer {
 public:
  void number(int64_t value) {
    const auto* p = reinterpret_cast<const std::byte*>(&value);
    bytes.insert(bytes.end(), p, p + sizeof value);
  }
  void text(const std::string& value) {
    number(static_cast<int64_t>(value.size()));
    const auto* p = reinterpret_cast<const std::byte*>(value.data());
    bytes.insert(bytes.end(), p, p + value.size());
  }
  std::vector<std::byte> bytes;
};

class Unpacker {
 public:
  explicit Unpacker(std::span<const std::byte> bytes) : bytes_(bytes) {}
  int64_t number() {
    int64_t value = 0;
    DINO_CHECK(bytes_.size() >= sizeof value, "message too short");
    std::memcpy(&value, bytes_.data(), sizeof value);
    bytes_ = bytes_.subspan(sizeof value);
    return value;
  }
  std::string text() {
    const auto size = static_cast<size_t>(number());
    DINO_CHECK(bytes_.size() >= size, "message too short");
    std::string value(reinterpret_cast<const char*>(bytes_.data()), size);
    bytes_ = bytes_.subspan(size);
    return value;
  }

 private:
  std::span<const std::byte> bytes_;
};

void pack(Packer& out, const Item& item) {
  const Record& r = item.record;
  out.number(item.row), out.text(r.key), out.text(r.path), out.number(r.offset), out.number(r.size);
  out.number(r.label), out.text(r.extension), out.text(r.fault), out.text(item.class_name);
  out.number(static_cast<int64_t>(item.sidecars.size()));
  for (const Sidecar& s : item.sidecars) {
    out.text(s.extension), out.text(s.path), out.number(s.offset), out.number(s.size);
  }
  out.text({item.sha256.begin(), item.sha256.end()});
}

Item unpack(Unpacker& in) {
  Item item;
  item.row = in.number();
  Record& r = item.record;
  r.key = in.text(), r.path = in.text(), r.offset = in.number(), r.size = in.number();
  r.label = static_cast<int32_t>(in.number());
  r.extension = in.text(), r.fault = in.text(), item.class_name = in.text();
  item.sidecars.resize(static_cast<size_t>(in.number()));
  for (Sidecar& s : item.sidecars) {
    s.extension = in.text(), s.path = in.text(), s.offset = in.number(), s.size = in.number();
  }
  const std::string digest = in.text();
  DINO_CHECK(digest.size() == item.sha256.size(), "message too short");
  std::copy(digest.begin(), digest.end(), item.sha256.begin());
  return item;
}

/// One prefix per reference: its base name, numbered where two are alike; none for a single reference.
std::vector<std::string> key_prefixes(const std::vector<std::string>& references) {
  std::vector<std::string> prefixes;
  if (references.size() == 1) return {""};
  std::unordered_set<std::string> seen;
  for (const std::string& reference : references) {
    std::string name = base_name(reference);
    for (int copy = 2; !seen.insert(name).second; ++copy) {
      name = fmt::format("{}~{}", base_name(reference), copy);
    }
    prefixes.push_back(printable_name(name) + "/");
  }
  return prefixes;
}

/// Tabs and line breaks of names are written as two characters.
std::string one_field(const std::string& text) {
  std::string field;
  for (const char c : text) {
    if (c == '\t' || c == '\n' || c == '\\') field += '\\';
    field += c == '\t' ? 't' : c == '\n' ? 'n' : c;
  }
  return field;
}

/// What a later start compares.
std::string line_of(const Item& item) {
  const Record& r = item.record;
  std::string line = fmt::format("{}{}{}\t{}\t{}\t{}", one_field(r.key), r.extension.empty() ? "" : ".",
                                 one_field(r.extension), r.size, one_field(item.class_name), r.offset);
  for (const Sidecar& sidecar : item.sidecars)
    line += fmt::format("\t{} {}", one_field(sidecar.extension), sidecar.size);
  return line + "\n";
}

/// Returns the input's classes, where images have one.
std::vector<std::string> append(Listing& listing, const std::string& reference, const std::string& prefix) {
  Dataset data = open_dataset(reference);
  Input input;
  input.reference = reference;
  input.first = static_cast<int64_t>(listing.items.size());
  input.records = static_cast<int64_t>(data.records.size());
  for (Record& record : data.records) {
    work_point();
    Item item;
    item.row = static_cast<int64_t>(listing.items.size());
    if (record.size < 0) record.size = listed_size(record.path);
    // The folder in a tar's key travels with the key; no .cls is made of it.
    if (record.label >= 0 && !record.key_label)
      item.class_name = data.classes[static_cast<size_t>(record.label)];
    item.record = std::move(record);
    listing.items.push_back(std::move(item));
  }
  for (Sidecar& sidecar : data.sidecars) {
    Item& owner = listing.items[static_cast<size_t>(input.first + sidecar.record)];
    owner.sidecars.push_back(std::move(sidecar));
  }
  for (size_t i = static_cast<size_t>(input.first); i < listing.items.size(); ++i) {
    input.lines += line_of(listing.items[i]);
    listing.items[i].record.key.insert(0, prefix);
  }
  input.hash = sha256_hex(std::as_bytes(std::span(input.lines))).substr(0, 16);
  input.passed_over = data.passed_over;
  listing.inputs.push_back(std::move(input));
  listing.faults.insert(listing.faults.end(), data.faults.begin(), data.faults.end());
  const auto has_class = [](const Item& item) { return !item.class_name.empty(); };
  const bool any =
      std::any_of(listing.items.begin() + listing.inputs.back().first, listing.items.end(), has_class);
  return any ? std::move(data.classes) : std::vector<std::string>();
}

/// Numbers where all inputs have numbers, else names: one list for all inputs, and every item's place in it.
void number_classes(Listing& listing, const std::vector<std::vector<std::string>>& lists) {
  const auto is_numbered = [](const std::vector<std::string>& names) {
    for (size_t i = 0; i < names.size(); ++i)
      if (names[i] != std::to_string(i)) return false;
    return true;
  };
  if (std::all_of(lists.begin(), lists.end(), is_numbered)) {
    for (const auto& names : lists)
      if (names.size() > listing.classes.size()) listing.classes = names;
  } else if (lists.size() == 1) {
    listing.classes = lists[0];
  } else {
    std::set<std::string> names;
    for (const auto& list : lists) names.insert(list.begin(), list.end());
    listing.classes.assign(names.begin(), names.end());
  }
  std::unordered_map<std::string_view, int32_t> place;
  for (size_t i = 0; i < listing.classes.size(); ++i)
    place.emplace(listing.classes[i], static_cast<int32_t>(i));
  for (Item& item : listing.items)
    item.record.label = item.class_name.empty() ? -1 : place.at(item.class_name);
}

}  // namespace

Listing list_inputs(const std::vector<std::string>& references) {
  Listing listing;
  const std::vector<std::string> prefixes = key_prefixes(references);
  std::vector<std::vector<std::string>> classes;
  for (size_t i = 0; i < references.size(); ++i) {
    if (std::find(references.begin(), references.begin() + static_cast<std::ptrdiff_t>(i), references[i]) !=
        references.begin() + static_cast<std::ptrdiff_t>(i))
      listing.faults.push_back(fmt::format(
          "{}: the input is given twice: its images are duplicates of themselves", references[i]));
    classes.push_back(append(listing, references[i], prefixes[i]));
  }
  number_classes(listing, classes);
  return listing;
}

std::vector<std::byte> pack_items(const std::vector<std::vector<Item>>& units) {
  Packer out;
  out.number(static_cast<int64_t>(units.size()));
  for (const auto& unit : units) {
    out.number(static_cast<int64_t>(unit.size()));
    for (const Item& item : unit) pack(out, item);
  }
  return std::move(out.bytes);
}

std::vector<std::vector<Item>> unpack_items(std::span<const std::byte> bytes) {
  if (bytes.empty()) return {};
  Unpacker in(bytes);
  std::vector<std::vector<Item>> units(static_cast<size_t>(in.number()));
  for (auto& unit : units) {
    const int64_t count = in.number();
    for (int64_t i = 0; i < count; ++i) unit.push_back(unpack(in));
  }
  return units;
}

std::vector<std::vector<Item>> scatter_units(const std::vector<std::vector<std::vector<Item>>>& parts,
                                             const Communicator& world) {
  std::vector<std::vector<std::byte>> send(static_cast<size_t>(world.size()));
  if (world.root()) {
    for (size_t r = 0; r < parts.size(); ++r) send[r] = pack_items(parts[r]);
  }
  const auto received = world.all_to_all(send);
  return unpack_items(received[0]);
}

}  // namespace dino::curation
