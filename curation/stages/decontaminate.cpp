// SPDX-License-Identifier: Apache-2.0
// Drops near-copies of excluded (evaluation) images, and groups of near-duplicates of which a member is one.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <unordered_map>

#include "base/log.hpp"
#include "base/signals.hpp"
#include "pipeline.hpp"
#include "stage_settings.hpp"
#include "storage/files.hpp"
#include "vector_commands.hpp"
#include "vectors/join.hpp"
#include "vectors/partial.hpp"

namespace dino::curation {
namespace {

constexpr int64_t kExcludeUnit = 256;

/// The excluded images, the same on every rank, in listing order; undecodable ones are left out.
struct Excluded {
  std::vector<int64_t> row;  ///< in the listing of excluded images
  std::vector<std::array<uint8_t, 32>> sha256;
  std::vector<uint64_t> phash;
  std::vector<float> features;  ///< [n, width]; empty where embeddings were given as a file
  int64_t width = 0;
  [[nodiscard]] int64_t count() const { return static_cast<int64_t>(row.size()); }
};

/// One excluded image that a row is a copy of.
struct Leak {
  int64_t excluded = -1;  ///< index into Excluded
  float similarity = 0;
};

void measure_item(const Run& run, const Item& item, const Embedder* embedder, Excluded& part) {
  const MeasuredImage one = measure_record(item.record, run.config);
  if (one.image.pixels.empty()) {
    log::warning(fmt::format("excluded image left out: {}: {}: {}", item.record.key,
                             name_of(one.measured.reason), one.measured.message));
    return;
  }
  part.row.push_back(item.row);
  part.sha256.push_back(one.measured.sha256);
  part.phash.push_back(one.measured.phash);
  if (embedder == nullptr) return;
  part.features.resize(part.features.size() + static_cast<size_t>(part.width));
  embedder->embed(std::span(&one.image, 1), part.features.data() + part.features.size() - part.width);
}

PartialState pack_excluded(const Excluded& part) {
  PartialState state;
  const int64_t n = part.count();
  const auto store = [&](const char* name, const void* data, Shape shape, DType dtype) {
    Tensor& array = state.arrays[name] = Tensor(shape, dtype);
    if (array.bytes() > 0) std::memcpy(array.view().data, data, static_cast<size_t>(array.bytes()));
  };
  store("row", part.row.data(), Shape{n}, DType::i64);
  store("sha256", part.sha256.data(), Shape{n, 32}, DType::u8);
  store("phash", part.phash.data(), Shape{n}, DType::i64);
  store("features", part.features.data(), Shape{n, part.features.empty() ? 0 : part.width}, DType::f32);
  return state;
}

void append_excluded(const PartialState& state, Excluded& all) {
  const auto take = [&]<class T>(const char* name, std::vector<T>& to) {
    const Tensor& array = state.arrays.at(name);
    const size_t old = to.size(), count = static_cast<size_t>(array.bytes()) / sizeof(T);
    to.resize(old + count);
    if (count > 0) std::memcpy(to.data() + old, array.view().data, count * sizeof(T));
  };
  take("row", all.row);
  take("sha256", all.sha256);
  take("phash", all.phash);
  take("features", all.features);
}

std::string excluded_folder(const Run& run) {
  return run.out + "/.partial/excluded";
}

/// Units that an earlier start has measured are read, where these are the same images and settings.
Excluded measure_excluded(const Run& run, const Listing& listing, const Embedder* embedder) {
  const Units units = share_units(
      listing.items, kExcludeUnit, [](int64_t) { return false; }, run.world);
  std::string fingerprint;
  for (const char* stage : {"ingest", "embed", "decontaminate"})
    fingerprint += stage_settings_text(run.config, stage);
  fingerprint += embed_device_text(run.config);
  fingerprint = sha256_hex(std::as_bytes(std::span(fingerprint)));
  for (const Input& input : listing.inputs) fingerprint += " " + input.hash;
  run.world.broadcast(fingerprint);
  Excluded mine;
  mine.width = embedder != nullptr ? embedder->width() : 0;
  const bool finished =
      process_units("decontaminate", units, run.world,
                    [&](int64_t unit, const std::vector<Item>& items, UnitCounter& counter) {
                      const std::string path = fmt::format("{}/unit_{:06}.h5", excluded_folder(run), unit);
                      std::optional<PartialState> state = PartialState::load(path, fingerprint);
                      if (!state) {
                        Excluded part;
                        part.width = mine.width;
                        for (const Item& item : items) {
                          measure_item(run, item, embedder, part);
                          counter.add();
                        }
                        state = pack_excluded(part);
                        state->save(path, fingerprint);
                      }
                      append_excluded(*state, mine);
                    });
  if (!finished) throw_stopped();
  // Ranks hold contiguous parts, so rank order is listing order.
  Excluded all;
  all.width = mine.width;
  all.row = run.world.all_gather_values<int64_t>(mine.row);
  all.sha256 = run.world.all_gather_values<std::array<uint8_t, 32>>(mine.sha256);
  all.phash = run.world.all_gather_values<uint64_t>(mine.phash);
  all.features = run.world.all_gather_values<float>(mine.features);
  return all;
}

/// The best excluded match of every embedding row, by cosine; gathered on rank 0.
std::vector<Edge> cosine_leaks(const Run& run, const Excluded& excluded) {
  std::vector<Edge> edges;
  if (excluded.features.empty()) {
    verify_embeddings(run);
  } else {
    const LocalRows local = load_rows(embeddings_path(run), true, run.world, do_again(run.out, "embed"));
    const ConstTensorView reference =
        view_of(excluded.features.data(), Shape{excluded.count(), excluded.width});
    edges = threshold_cross_join(local.rows, local.first, reference, run.config.leak_threshold);
    if (run.world.any(stop_requested())) throw_stopped();
  }
  return run.world.gather_values<Edge>(edges);
}

void offer(std::map<int64_t, Leak>& leaks, int64_t row, const Leak& leak) {
  auto [at, added] = leaks.emplace(row, leak);
  const bool better = leak.similarity > at->second.similarity ||
                      (leak.similarity == at->second.similarity && leak.excluded < at->second.excluded);
  if (!added && better) at->second = leak;
}

/// Whether the row came as far as here: a leak of what a filter dropped is none.
bool came_here(const Ledger& ledger, int64_t row) {
  return ledger.kept(row) || ledger.verdict[static_cast<size_t>(row)].stage == Stage::dedup;
}

/// Equal bytes or equal perceptual hash: similarity 1.
void offer_hash_leaks(std::map<int64_t, Leak>& leaks, const Ledger& ledger, const std::vector<int64_t>& rows,
                      const Excluded& excluded) {
  std::map<std::array<uint8_t, 32>, int64_t> by_bytes;
  std::unordered_map<uint64_t, int64_t> by_hash;
  for (int64_t i = 0; i < excluded.count(); ++i) {
    by_bytes.emplace(excluded.sha256[static_cast<size_t>(i)], i);
    if (excluded.phash[static_cast<size_t>(i)] != 0)
      by_hash.emplace(excluded.phash[static_cast<size_t>(i)], i);
  }
  for (const int64_t row : rows) {
    if (!came_here(ledger, row)) continue;
    const Measured& m = ledger.measured[static_cast<size_t>(row)];
    if (const auto at = by_bytes.find(m.sha256); at != by_bytes.end()) {
      offer(leaks, row, {at->second, 1});
    } else if (const auto hash = by_hash.find(m.phash); hash != by_hash.end()) {
      offer(leaks, row, {hash->second, 1});
    }
  }
}

void drop_leaks(const Run& run, Ledger& ledger, const std::map<int64_t, Leak>& leaks,
                const Excluded& excluded, const Listing& listing) {
  std::map<int64_t, int64_t> named;  // excluded image -> index into ledger.excluded
  for (const auto& [row, leak] : leaks) {
    const auto at = static_cast<size_t>(row);
    const int64_t image = excluded.row[static_cast<size_t>(leak.excluded)];
    const auto [name, added] = named.emplace(image, static_cast<int64_t>(ledger.excluded.size()));
    if (added) ledger.excluded.push_back(listing.items[static_cast<size_t>(image)].record.key);
    ledger.leak[at] = name->second;
    Verdict verdict = verdict_of(Reason::leak, Stage::decontaminate);
    verdict.similarity = verdict.value = leak.similarity;
    verdict.threshold = static_cast<float>(run.config.leak_threshold);
    ledger.drop(row, verdict);
  }
  // The representative of a leaking member stands for the leak.
  for (const auto& [row, leak] : leaks) {
    const Verdict& member = ledger.verdict[static_cast<size_t>(row)];
    if (member.reason != Reason::near_duplicate || member.representative < 0) continue;
    Verdict verdict = verdict_of(Reason::leak_group, Stage::decontaminate);
    verdict.representative = row;
    verdict.similarity = verdict.value = leak.similarity;
    verdict.threshold = static_cast<float>(run.config.leak_threshold);
    const auto group = static_cast<size_t>(member.representative);
    if (ledger.verdict[group].reason == Reason::kept)
      ledger.leak[group] = ledger.leak[static_cast<size_t>(row)];
    ledger.drop(member.representative, verdict);
  }
}

}  // namespace

bool decontaminate_stage(Run& run) {
  Excluded excluded;
  std::vector<Edge> edges;
  if (!run.config.exclude.empty()) {
    on_root(run.world, [&] { load_listing(run); });
    std::unique_ptr<Embedder> embedder;
    if (run.config.embeddings.empty()) embedder = std::make_unique<Embedder>(run.config);
    excluded = measure_excluded(run, run.excluded, embedder.get());
    edges = cosine_leaks(run, excluded);
  }
  on_root(run.world, [&] {
    Ledger ledger = load_stage(run, "dedup");
    if (!run.config.exclude.empty()) {
      const std::vector<int64_t> rows = embedded_rows(run, ledger);
      std::map<int64_t, Leak> leaks;
      offer_hash_leaks(leaks, ledger, rows, excluded);
      for (const Edge& edge : edges) {
        const int64_t row = rows[static_cast<size_t>(edge.source)];
        if (came_here(ledger, row)) offer(leaks, row, {edge.target, edge.similarity});
      }
      drop_leaks(run, ledger, leaks, excluded, run.excluded);
      log::info(fmt::format("decontaminate: {} images are near-copies of {} excluded ones", leaks.size(),
                            excluded.count()));
      const auto lost = static_cast<int64_t>(run.excluded.items.size()) - excluded.count();
      if (lost > 0) log::warning(fmt::format("decontaminate: {} excluded images cannot be decoded", lost));
    }
    save_stage(run, ledger, "decontaminate");
    if (!run.config.exclude.empty()) {
      run.add_written("stages/excluded.json");
      run.add_written("stages/excluded.tsv");
    }
    remove_partial(excluded_folder(run));
  });
  return true;
}

}  // namespace dino::curation
