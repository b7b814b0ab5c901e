// SPDX-License-Identifier: Apache-2.0
// The rules that need nothing but what ingest measured: filters of quality, equal files, equal hashes. A
// setting of theirs is changed without an image being read again.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <unordered_map>

#include "base/log.hpp"
#include "pipeline.hpp"

namespace dino::curation {
namespace {

/// A filter of quality: what it measures of an image, and from where on an image passes.
struct Filter {
  const char* option;
  Reason reason;
  double limit, by_default;
  bool upper;  ///< the limit is the largest value that passes
  double (*value)(const Measured&);
  [[nodiscard]] bool off() const { return limit <= 0; }
  [[nodiscard]] bool drops(double measured) const {
    return !off() && (upper ? measured > limit : measured < limit);
  }
};

/// In the order in which they are asked; the first that drops an image is its reason.
std::array<Filter, 5> filters_of(const CurateConfig& c) {
  const CurateConfig d;
  const auto smaller = [](const Measured& m) { return static_cast<double>(std::min(m.width, m.height)); };
  const auto aspect = [](const Measured& m) {
    return static_cast<double>(std::max(m.width, m.height)) /
           static_cast<double>(std::min(m.width, m.height));
  };
  return {{{"min-size", Reason::too_small, static_cast<double>(c.min_size), static_cast<double>(d.min_size),
            false, smaller},
           {"max-aspect", Reason::aspect, c.max_aspect, d.max_aspect, true, aspect},
           {"min-contrast", Reason::contrast, c.min_contrast, d.min_contrast, false,
            [](const Measured& m) { return static_cast<double>(m.quality.contrast); }},
           {"min-blur", Reason::blur, c.min_blur, d.min_blur, false,
            [](const Measured& m) { return static_cast<double>(m.quality.blur); }},
           {"min-entropy", Reason::entropy, c.min_entropy, d.min_entropy, false,
            [](const Measured& m) { return static_cast<double>(m.quality.entropy); }}}};
}

/// A record that was to be embedded and has no vector was another when it was read again.
void drop_changed(Ledger& ledger, const std::vector<int64_t>& asked, const std::vector<int64_t>& embedded) {
  size_t next = 0;
  for (const int64_t row : asked) {
    if (next < embedded.size() && embedded[next] == row)
      ++next;
    else
      ledger.drop(row, verdict_of(Reason::changed, Stage::embed));
  }
}

void apply_filters(Ledger& ledger, const CurateConfig& config) {
  const auto filters = filters_of(config);
  for (const int64_t row : ledger.kept_rows()) {
    for (const Filter& filter : filters) {
      const double value = filter.value(ledger.measured[static_cast<size_t>(row)]);
      if (!filter.drops(value)) continue;
      Verdict verdict = verdict_of(filter.reason, Stage::filter);
      verdict.value = static_cast<float>(value);
      verdict.threshold = static_cast<float>(filter.limit);
      ledger.drop(row, verdict);
      break;
    }
  }
}

/// Of every row that ingest passed, the first one of equal bytes: itself, mostly; -1 of other rows. Of copies
/// of one file none has more pixels or another coding, so that the lowest row stands for all.
std::vector<int64_t> first_of_equal(const Ledger& ingested) {
  std::vector<int64_t> first(ingested.key.size(), -1);
  std::map<std::array<uint8_t, 32>, int64_t> seen;
  for (const int64_t row : ingested.kept_rows())
    first[static_cast<size_t>(row)] =
        seen.emplace(ingested.measured[static_cast<size_t>(row)].sha256, row).first->second;
  return first;
}

void drop_copy(Ledger& ledger, int64_t row, int64_t representative, Reason reason) {
  Verdict verdict = verdict_of(reason, Stage::filter);
  verdict.representative = representative;
  verdict.similarity = 1;
  ledger.drop(row, verdict);
}

/// Equal perceptual hashes: the best copy stays. Hash 0 (a plain picture) says nothing.
void drop_equal_hashes(Ledger& ledger) {
  std::unordered_map<uint64_t, int64_t> best;
  const std::vector<int64_t> rows = ledger.kept_rows();
  const auto hash_of = [&](int64_t row) { return ledger.measured[static_cast<size_t>(row)].phash; };
  for (const int64_t row : rows) {
    if (hash_of(row) == 0) continue;
    const auto [at, added] = best.emplace(hash_of(row), row);
    if (!added && represents_before(ledger, row, at->second)) at->second = row;
  }
  for (const int64_t row : rows)
    if (const auto at = best.find(hash_of(row)); at != best.end() && at->second != row)
      drop_copy(ledger, row, at->second, Reason::hash_duplicate);
}

/// "12 too_small (--min-size 32, the default; --min-size 0 keeps them)" for every filter that dropped.
std::string what_filters_dropped(const Ledger& ledger, const CurateConfig& config) {
  std::vector<std::string> parts;
  const std::vector<int64_t> counts = ledger.counts();
  for (const Filter& filter : filters_of(config)) {
    const int64_t count = counts[static_cast<size_t>(filter.reason)];
    if (count == 0) continue;
    parts.push_back(fmt::format("{} {} (--{} {:g}{}; --{} 0 keeps them)", count, name_of(filter.reason),
                                filter.option, filter.limit,
                                filter.limit == filter.by_default ? ", the default" : "", filter.option));
  }
  return fmt::format("{}", fmt::join(parts, ", "));
}

}  // namespace

std::string filters_text(const CurateConfig& config) {
  std::vector<std::string> on, off;
  for (const Filter& filter : filters_of(config)) {
    if (filter.off())
      off.emplace_back(fmt::format("--{}", filter.option));
    else
      on.push_back(fmt::format("--{} {:g}{}", filter.option, filter.limit,
                               filter.limit == filter.by_default ? " (default)" : ""));
  }
  return fmt::format("{}{}{}",
                     on.empty() ? "none" : fmt::format("{}; 0 switches one off", fmt::join(on, ", ")),
                     off.empty() ? "" : "; off: ", fmt::join(off, ", "));
}

std::vector<std::pair<std::string, double>> filters_in_force(const CurateConfig& config) {
  std::vector<std::pair<std::string, double>> filters;
  for (const Filter& filter : filters_of(config)) filters.emplace_back(filter.option, filter.limit);
  return filters;
}

std::vector<int64_t> rows_to_embed(const Ledger& ingested, const CurateConfig& config) {
  std::vector<int64_t> rows = ingested.kept_rows();
  if (!config.exact_duplicates) return rows;
  const std::vector<int64_t> first = first_of_equal(ingested);
  std::erase_if(rows, [&](int64_t row) { return first[static_cast<size_t>(row)] != row; });
  return rows;
}

bool filter_stage(Run& run) {
  on_root(run.world, [&] {
    Ledger ledger = load_stage(run, "ingest");
    const std::vector<int64_t> first = first_of_equal(ledger);
    const auto usable = static_cast<int64_t>(ledger.kept_rows().size());
    drop_changed(ledger, rows_to_embed(ledger, run.config), embedded_rows(run, ledger));
    apply_filters(ledger, run.config);
    const std::string dropped = what_filters_dropped(ledger, run.config);
    if (run.config.exact_duplicates) {
      for (const int64_t row : ledger.kept_rows())
        if (first[static_cast<size_t>(row)] != row)
          drop_copy(ledger, row, first[static_cast<size_t>(row)], Reason::exact_duplicate);
    }
    if (run.config.hash_duplicates) drop_equal_hashes(ledger);
    const auto left = static_cast<int64_t>(ledger.kept_rows().size());
    if (left == 0)
      throw DataError(fmt::format(
          "nothing left: {}: none of {} images passes the filters: {}; change them, and run again", run.out,
          usable, dropped.empty() ? "they changed since ingest" : dropped));
    save_stage(run, ledger, "filter");
    if (!dropped.empty()) log::info("filter: dropped " + dropped);
    log::info(fmt::format("filter: {} of {} images pass", left, usable));
  });
  return true;
}

}  // namespace dino::curation
