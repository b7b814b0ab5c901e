// SPDX-License-Identifier: Apache-2.0
#include "listing.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "base/error.hpp"
#include "base/working.hpp"
#include "storage/files.hpp"

namespace dino::curation {
namespace {

std::string base_name(std::string reference) {
  while (reference.size() > 1 && reference.back() == '/') reference.pop_back();
  return reference.substr(reference.rfind('/') + 1);
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
  out.text(r.extension), out.text(item.class_name);
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
  r.extension = in.text(), item.class_name = in.text();
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
    prefixes.push_back(name + "/");
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

void append(Listing& listing, const std::string& reference, const std::string& prefix) {
  Dataset data = open_dataset(reference);
  Input input{reference,
              static_cast<int64_t>(listing.items.size()),
              static_cast<int64_t>(data.records.size()),
              {},
              {}};
  for (Record& record : data.records) {
    work_point();
    Item item;
    item.row = static_cast<int64_t>(listing.items.size());
    if (record.size < 0) record.size = listed_size(record.path);
    if (record.label >= 0) item.class_name = data.classes[static_cast<size_t>(record.label)];
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
  listing.inputs.push_back(std::move(input));
  listing.faults.insert(listing.faults.end(), data.faults.begin(), data.faults.end());
}

}  // namespace

Listing list_inputs(const std::vector<std::string>& references) {
  Listing listing;
  const std::vector<std::string> prefixes = key_prefixes(references);
  for (size_t i = 0; i < references.size(); ++i) append(listing, references[i], prefixes[i]);
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
