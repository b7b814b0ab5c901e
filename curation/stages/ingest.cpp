// SPDX-License-Identifier: Apache-2.0
// Reads, decodes and measures every record.
#include <fmt/format.h>

#include <limits>
#include <new>

#include "base/log.hpp"
#include "base/loop_failure.hpp"
#include "base/text.hpp"
#include "base/working.hpp"
#include "imaging/decode_options.hpp"
#include "pipeline.hpp"
#include "stage_settings.hpp"
#include "storage/files.hpp"
#include "storage/hdf5.hpp"
#include "vector_commands.hpp"

namespace dino::curation {
namespace {

std::string unit_path(const Run& run, int64_t unit) {
  return run.work(fmt::format("ingest/unit_{:06}.h5", unit));
}

bool copy_embedding(const CurateConfig& config) {
  return config.embeddings.empty() && config.embedding == "copy";
}

QualityMeasures no_quality() {
  constexpr float none = std::numeric_limits<float>::quiet_NaN();
  return {none, none, none, none, none, none};
}

/// The copy descriptor is made here, where the pixels are at hand, so that images are decoded once.
void ingest_unit(const Run& run, int64_t unit, const std::vector<Item>& items, UnitCounter& counter) {
  const auto n = static_cast<int64_t>(items.size());
  const bool with_copy = copy_embedding(run.config);
  Ledger part;
  part.resize(n);
  Tensor copies(Shape{n, with_copy ? kCopyDescriptorSize : 1});
  LoopFailure failure;
#pragma omp parallel for schedule(dynamic)
  for (int64_t i = 0; i < n; ++i) {
    failure.guard([&] {
      const auto at = static_cast<size_t>(i);
      MeasuredImage one = measure_record(items[at].record, run.config);
      if (with_copy && !one.image.pixels.empty()) {
        copy_descriptor(one.image, copies.as<float>() + i * kCopyDescriptorSize);
      }
      part.key[at] = items[at].record.key;
      part.path[at] = printable_name(items[at].record.path);
      part.offset[at] = items[at].record.offset;
      part.measured[at] = std::move(one.measured);
      part.measured[at].message = printable_line(part.measured[at].message);
      part.verdict[at] = verdict_of(part.measured[at].reason, Stage::ingest);
      counter.add();
    });
  }
  failure.rethrow();
  part.save(unit_path(run, unit), {}, [&](Hdf5File& file) {
    if (with_copy) file.write("/copy", copies);
  });
}

Ledger merge_units(const Run& run, int64_t units) {
  Ledger ledger;
  ledger.resize(static_cast<int64_t>(run.listing.items.size()));
  size_t row = 0;
  for (int64_t unit = 0; unit < units; ++unit) {
    work_point();
    Ledger part = Ledger::load(unit_path(run, unit), "the same command makes it again");
    for (size_t i = 0; i < part.key.size(); ++i, ++row) {
      DINO_CHECK(row < ledger.key.size() && part.key[i] == run.listing.items[row].record.key,
                 "a work unit is out of place");
      ledger.key[row] = std::move(part.key[i]);
      ledger.path[row] = std::move(part.path[i]);
      ledger.offset[row] = part.offset[i];
      ledger.measured[row] = std::move(part.measured[i]);
      const Reason reason = part.verdict[i].reason;
      ledger.verdict[row] = verdict_of(reason, reason == Reason::kept ? Stage::none : Stage::ingest);
    }
  }
  DINO_CHECK(row == ledger.key.size(), "a work unit is missing");
  for (const Input& input : run.listing.inputs) {
    for (int64_t i = 0; i < input.records; ++i) {
      ledger.source[static_cast<size_t>(input.first + i)] = printable_name(input.reference);
    }
  }
  return ledger;
}

MeasuredImage read_and_measure(const Record& record, const CurateConfig& config) {
  MeasuredImage one;
  Measured& m = one.measured;
  m.quality = no_quality();
  if (!record.fault.empty()) {
    m.reason = Reason::bad_name;
    m.message = record.fault;
    return one;
  }
  m.bytes = record.size >= 0 ? record.size : listed_size(record.path);
  if (m.bytes > config.max_bytes) {
    m.reason = Reason::too_large;
    m.message = fmt::format("{} bytes, the limit is {}", m.bytes, config.max_bytes);
    return one;
  }
  if (record.size >= 0) check_size(record);
  // What fails here is the file system, and no verdict on the image.
  const std::vector<uint8_t> bytes = read_record(record);
  m.bytes = static_cast<int64_t>(bytes.size());
  m.sha256 = sha256_of(bytes);
  DecodeOptions options;
  options.limits.max_pixels = config.max_pixels;
  options.limits.max_bytes = config.max_bytes;
  options.limits.max_memory = config.decode_memory.bytes;
  Decoded decoded = decode_image(bytes, options);
  m.format = decoded.format;
  m.width = decoded.file_width;
  m.height = decoded.file_height;
  m.reason = reason_of(decoded.status);
  m.message = decoded.message;
  m.note = decoded.note;
  m.coding = coding_of(bytes, decoded.format);
  if (decoded.status != DecodeStatus::ok) return one;
  one.image = std::move(decoded.image);
  m.quality = measure_quality(one.image);
  m.phash = perceptual_hash(one.image);
  return one;
}

}  // namespace

MeasuredImage measure_record(const Record& record, const CurateConfig& config) {
  try {
    return read_and_measure(record, config);
  } catch (const std::bad_alloc&) {
    MeasuredImage none;
    none.measured.quality = no_quality();
    none.measured.reason = Reason::decode_memory;
    none.measured.message = "the machine has not enough memory for it; use fewer --threads";
    return none;
  }
}

std::string ingest_identity(const Run& run, int64_t images) {
  return fmt::format("{}{}unit {}, copy {}", read_text(run.stage_file("inputs.json")),
                     stage_settings_text(run.config, "ingest"), unit_size(run.config, images),
                     copy_embedding(run.config));
}

bool ingest_stage(Run& run) {
  int64_t unit = 0;
  on_root(run.world, [&] {
    load_listing(run);
    unit = unit_size(run.config, static_cast<int64_t>(run.listing.items.size()));
    begin_units(run, "ingest", ingest_identity(run, static_cast<int64_t>(run.listing.items.size())));
  });
  const Units units = share_units(
      run.listing.items, unit, [&](int64_t number) { return unit_done(unit_path(run, number)); }, run.world);
  const bool finished = process_units(
      "ingest", units, run.world, [&](int64_t number, const std::vector<Item>& items, UnitCounter& counter) {
        ingest_unit(run, number, items, counter);
      });
  if (!finished) return false;
  on_root(run.world, [&] {
    const Ledger ledger = merge_units(run, units.total);
    save_stage(run, ledger, "ingest");
    run.add_written("stages/inputs.json");
    run.add_written("stages/inputs.tsv");
    log::info(fmt::format("ingest: {} of {} images can be used", ledger.kept_rows().size(), ledger.rows()));
  });
  return true;
}

}  // namespace dino::curation
