// SPDX-License-Identifier: Apache-2.0
#pragma once
// The input records in global order. Only rank 0 holds the list; the others receive the records of their work
// units.

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.hpp"
#include "datasets/dataset.hpp"

namespace dino::curation {

/// A record with what travels with it into a shard.
struct Item {
  int64_t row = 0;  ///< in the ledger
  Record record;
  std::string class_name;  ///< empty = unknown; record.label is its place in Listing::classes
  std::vector<Sidecar> sidecars;
  std::array<uint8_t, 32> sha256{};  ///< of the bytes that ingest judged; filled in where they are read again
};

struct Input {
  std::string reference;
  int64_t first = 0, records = 0;
  int64_t passed_over = 0;  ///< files that are no images
  std::string lines;        ///< one a record: name, bytes, class, offset, sidecars
  std::string hash;         ///< of lines
};

struct Listing {
  std::vector<Input> inputs;
  std::vector<Item> items;           ///< rows 0, 1, ...; keys are unique over all inputs
  std::vector<std::string> classes;  ///< of all inputs: numbers keep their value, names are in order
  std::vector<std::string> faults;
  bool compared = false, kept = false;  ///< with what ingest saw; for later starts
};

/// Opens every reference. With more than one, keys are prefixed by the reference's base name.
[[nodiscard]] Listing list_inputs(const std::vector<std::string>& references);

/// Sends parts[r] from rank 0 to rank r. Collective; `parts` is read on rank 0 only.
[[nodiscard]] std::vector<std::vector<Item>> scatter_units(
    const std::vector<std::vector<std::vector<Item>>>& parts, const Communicator& world);

[[nodiscard]] std::vector<std::byte> pack_items(const std::vector<std::vector<Item>>& units);
[[nodiscard]] std::vector<std::vector<Item>> unpack_items(std::span<const std::byte> bytes);

}  // namespace dino::curation
