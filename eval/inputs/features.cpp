// SPDX-License-Identifier: Apache-2.0
#include "inputs/features.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "base/error.hpp"
#include "base/json.hpp"
#include "base/json_text.hpp"
#include "base/log.hpp"
#include "base/loop_failure.hpp"
#include "base/progress.hpp"
#include "base/signals.hpp"
#include "base/text.hpp"
#include "comm/together.hpp"
#include "commands.hpp"
#include "datasets/on_all_ranks.hpp"
#include "imaging/decode_options.hpp"
#include "options.hpp"
#include "storage/files.hpp"
#include "storage/seal.hpp"
#include "storage/temporary.hpp"

namespace dino::eval {

double unit_hash(const std::string& text) {
  return static_cast<double>(xxh3(std::as_bytes(std::span(text))) >> 11) * 0x1p-53;
}

bool in_split(const Record& record, Split split, double test_fraction) {
  if (split == Split::all) return true;
  const bool test = unit_hash(record.group.empty() ? record.key : record.group) < test_fraction;
  return test == (split == Split::test);
}

namespace {

/// Rows wait here until their number is known, so that memory does not grow with the data set.
class Spool {
 public:
  explicit Spool(const std::string& beside)
      : path_(temporary_name(beside)), file_(::fdopen(create_new_file(path_, beside), "w+b")) {
    if (file_ == nullptr) fail();
    std::remove(path_.c_str());  // the open file stays usable, and a killed run leaves nothing behind
  }
  ~Spool() { std::fclose(file_); }
  Spool(const Spool&) = delete;
  Spool& operator=(const Spool&) = delete;
  void append(const float* values, int64_t count) {
    if (std::fwrite(values, sizeof(float), static_cast<size_t>(count), file_) != static_cast<size_t>(count))
      fail();
  }
  /// Takes all rows of a dataset.
  void fill(const Hdf5File& file, const std::string& name, int64_t rows, Shape shape) {
    const int64_t width = rows == 0 ? 0 : shape.numel() / rows,
                  step = std::max<int64_t>(1, (1 << 22) / std::max<int64_t>(width, 1));
    std::vector<float> buffer(static_cast<size_t>(std::min(step, rows) * width));
    for (int64_t begin = 0; begin < rows; begin += step) {
      const int64_t count = std::min(step, rows - begin);
      const Shape part = shape.rank() == 3 ? Shape{count, shape[1], shape[2]} : Shape{count, shape[1]};
      file.read_rows(name, begin, view_of(buffer.data(), part));
      append(buffer.data(), count * width);
    }
  }
  /// Moves all rows into a dataset of `file`.
  void drain(Hdf5File& file, const std::string& name, int64_t rows, Shape shape) {
    file.create_dataset(name, shape, DType::f32);
    if (std::fflush(file_) != 0) fail();
    std::rewind(file_);
    const int64_t width = rows == 0 ? 0 : shape.numel() / rows,
                  step = std::max<int64_t>(1, (1 << 22) / std::max<int64_t>(width, 1));
    std::vector<float> buffer(static_cast<size_t>(std::min(step, rows) * width));
    for (int64_t begin = 0; begin < rows; begin += step) {
      const int64_t count = std::min(step, rows - begin);
      if (std::fread(buffer.data(), sizeof(float), static_cast<size_t>(count * width), file_) !=
          static_cast<size_t>(count * width))
        fail();
      const Shape part = shape.rank() == 3 ? Shape{count, shape[1], shape[2]} : Shape{count, shape[1]};
      file.write_rows(name, begin, view_of(buffer.data(), part));
    }
  }

 private:
  [[noreturn]] void fail() const {
    throw IoError(fmt::format("cannot write: {}: {}; free some space, or name another --output", path_,
                              std::system_category().message(errno)));
  }
  std::string path_;
  std::FILE* file_;
};

struct Skipped {
  std::vector<std::string> keys, reasons;
};

/// One batch as its rank hands it over: reasons (empty = good), then the rows of all its images.
struct BatchResult {
  std::vector<std::string> faults;
  std::vector<float> features, patches;
};

BatchResult run_batch(Extractor& extractor, const FeaturesConfig& config, std::span<const Record> records,
                      int64_t width, int64_t patch_values) {
  std::vector<Image> images(records.size());
  BatchResult out;
  out.faults.resize(records.size());
  LoopFailure failure;
#pragma omp parallel for schedule(dynamic)
  for (size_t i = 0; i < records.size(); ++i) {
    failure.guard([&] {
      LoadedImage loaded = config.prepared ? config.prepared->load(records[i], config.protocol)
                                           : load_image(records[i], config.protocol);
      images[i] = std::move(loaded.image);
      out.faults[i] = std::move(loaded.fault);
    });
  }
  failure.rethrow();
  const size_t batch = records.size();
  out.features.resize(batch * static_cast<size_t>(width));
  out.patches.resize(batch * static_cast<size_t>(patch_values));
  extractor.extract(images, config.protocol, out.features.data(),
                    patch_values > 0 ? out.patches.data() : nullptr);
  return out;
}

std::string join_faults(const std::vector<std::string>& faults) {
  std::string out;
  for (const std::string& fault : faults) out += fault + '\0';
  return out;
}

class Writer {
 public:
  Writer(const std::string& output, int64_t width, int64_t patch_values)
      : features_(output), patches_(output + ".patches"), width_(width), patch_values_(patch_values) {}

  /// Takes the round's batches in order; `texts` holds one reason per record, each ended by a zero byte.
  void take(std::span<const Record> records, const std::vector<char>& texts,
            const std::vector<float>& features, const std::vector<float>& patches) {
    const char* reason = texts.data();
    for (size_t i = 0; i < records.size(); ++i, reason += std::strlen(reason) + 1) {
      if (*reason != '\0') {
        skipped.keys.push_back(records[i].key);
        skipped.reasons.emplace_back(reason);
        log::warning(fmt::format("skipped {}: {}", records[i].key, reason));
        continue;
      }
      const auto row = static_cast<int64_t>(i);
      features_.append(features.data() + row * width_, width_);
      if (patch_values_ > 0) patches_.append(patches.data() + row * patch_values_, patch_values_);
      set.labels.push_back(records[i].label);
      set.keys.push_back(records[i].key);
      set.groups.push_back(records[i].group);
    }
  }
  void commit(const std::string& output, int64_t patch_width) {
    commit_hdf5(output, [&](Hdf5File& file) { write(file, patch_width); });
  }
  /// What a stop leaves beside the output: the rows of the first `done` records, for a start of the same
  /// `fingerprint`.
  void leave(const std::string& path, int64_t patch_width, int64_t done, const std::string& fingerprint) {
    if (set.keys.empty()) return;
    commit_hdf5(path, [&](Hdf5File& file) {
      write(file, patch_width);
      file.write_attribute("/", "done", done);
      file.write_attribute("/", "fingerprint", fingerprint);
    });
  }
  /// Takes up what a stop left; returns how many records that were, 0 where nothing fits.
  int64_t go_on(const std::string& path, int64_t patch_width, const std::string& fingerprint) {
    if (!path_exists(path)) return 0;
    if (!seal_holds(path)) {
      log::warning(printable_name(path) + ": is damaged; the features are begun anew");
      return 0;
    }
    const Hdf5File file = open_sealed(path, "delete it");
    if (file.attribute_string("/", "fingerprint") != fingerprint) {
      log::warning(printable_name(path) +
                   ": belongs to other images or settings; the features are begun anew");
      return 0;
    }
    set.keys = file.read_strings("/keys");
    set.groups = file.read_strings("/groups");
    const Tensor labels = file.read("/labels", DType::i32);
    set.labels.assign(labels.as<int32_t>(), labels.as<int32_t>() + labels.numel());
    const auto rows = static_cast<int64_t>(set.keys.size());
    features_.fill(file, "/features", rows, {rows, width_});
    if (patch_values_ > 0)
      patches_.fill(file, "/patches", rows, {rows, patch_values_ / patch_width, patch_width});
    if (file.exists("/skipped/keys")) {
      skipped.keys = file.read_strings("/skipped/keys");
      skipped.reasons = file.read_strings("/skipped/reasons");
    }
    const auto done = static_cast<int64_t>(file.attribute_number("/", "done"));
    log::info(fmt::format("features: goes on after {} images", done));
    return done;
  }
  FeatureSet set;
  Skipped skipped;

 private:
  void write(Hdf5File& file, int64_t patch_width) {
    set.rows = static_cast<int64_t>(set.keys.size());
    features_.drain(file, "/features", set.rows, {set.rows, width_});
    if (patch_values_ > 0)
      patches_.drain(file, "/patches", set.rows, {set.rows, patch_values_ / patch_width, patch_width});
    file.write("/labels", view_of(set.labels.data(), {set.rows}));
    file.write_strings("/keys", set.keys);
    file.write_strings("/groups", set.groups);
    write_feature_attributes(file, set);
    file.write_attribute("/", "skipped", static_cast<int64_t>(skipped.keys.size()));
    if (skipped.keys.empty()) return;
    file.write_strings("/skipped/keys", skipped.keys);
    file.write_strings("/skipped/reasons", skipped.reasons);
  }

  Spool features_, patches_;
  int64_t width_, patch_values_;
};

std::vector<Record> chosen_records(const FeaturesConfig& config, Dataset& dataset) {
  std::vector<Record> records;
  for (Record& record : dataset.records)
    if (in_split(record, config.protocol.split, config.protocol.test_fraction))
      records.push_back(std::move(record));
  if (records.empty())
    throw DataError(fmt::format("extracting features: {}: split {} holds no image; change --test-fraction",
                                config.data, name_of(config.protocol.split)));
  for (const std::string& fault : dataset.faults) log::warning(fault);
  return records;
}

/// Everything that decides the rows of a feature file.
std::string fingerprint_of(const FeaturesConfig& config, const ModelIdentity& model,
                           const std::vector<Record>& records) {
  std::string all = fmt::format("{}\n{}\n{}\n{}\n{} {} {}\n", config.protocol.card().json(), model.name,
                                model.weights, config.data, config.seed, config.batch, config.store_patches);
  for (const Record& r : records) all += fmt::format("{}\n{} {} {}\n", r.key, r.offset, r.size, r.label);
  return sha256_hex(std::as_bytes(std::span(all)));
}

}  // namespace

FeaturesOutcome write_features(const Communicator& world, FeaturesConfig config, const std::string& output) {
  const log::Phase phase("features");
  Dataset dataset = open_on_all_ranks(config.data, world);
  const std::vector<Record> records = chosen_records(config, dataset);
  settle_device(config.model.device, world);
  const auto extractor = make_extractor(config.model, static_cast<uint64_t>(config.seed));
  extractor->settle(config.input, config.protocol);
  const int64_t width = extractor->columns(config.protocol).width();
  const int64_t grid = config.protocol.size / extractor->patch_side();
  if (config.store_patches && grid * extractor->patch_side() != config.protocol.size)
    throw UsageError(
        fmt::format("extracting features: --size {}: is not a multiple of the patch side {}; choose another",
                    config.protocol.size, extractor->patch_side()));
  const int64_t patch_values = config.store_patches ? grid * grid * extractor->patch_width() : 0;
  log::info(fmt::format("{} images of {} through {}", records.size(), config.data, extractor->describe()));

  std::unique_ptr<Writer> writer;
  if (world.root()) {
    check_replaceable(output);
    if (const size_t slash = output.rfind('/'); slash != std::string::npos && slash > 0)
      make_folders(output.substr(0, slash));
    remove_leftovers_of(output);
    writer = std::make_unique<Writer>(output, width, patch_values);
    writer->set.data = config.data;
    writer->set.model = extractor->identity();
    writer->set.protocol = config.protocol;
    writer->set.columns = extractor->columns(config.protocol);
    writer->set.classes = dataset.classes;
  }
  const std::string partial = output + ".partial",
                    fingerprint = fingerprint_of(config, extractor->identity(), records);
  int64_t done = 0;
  if (world.root()) done = writer->go_on(partial, extractor->patch_width(), fingerprint);
  world.broadcast_span(std::span(&done, 1));
  const auto n = static_cast<int64_t>(records.size()), per_round = config.batch * world.size();
  Progress progress("features", n, "images");
  for (int64_t begin = done; begin < n; begin += per_round) {
    if (world.any(stop_requested())) {
      if (world.root()) writer->leave(partial, extractor->patch_width(), begin, fingerprint);
      return {true, 0, 0, extractor->identity()};
    }
    const int64_t first = std::min(begin + world.rank() * config.batch, n),
                  last = std::min(first + config.batch, n);
    BatchResult mine;
    together(world, [&] {
      if (last > first)
        mine = run_batch(
            *extractor, config,
            std::span(records).subspan(static_cast<size_t>(first), static_cast<size_t>(last - first)), width,
            patch_values);
    });
    const std::string texts = join_faults(mine.faults);
    const auto all_texts = world.gather_values<char>(std::span(texts));
    const auto features = world.gather_values<float>(std::span<const float>(mine.features));
    const auto patches = world.gather_values<float>(std::span<const float>(mine.patches));
    const int64_t end = std::min(begin + per_round, n);
    if (world.root())
      writer->take(std::span(records).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)),
                   all_texts, features, patches);
    progress.set(end);
  }
  progress.finish();
  FeaturesOutcome outcome{false, 0, 0, extractor->identity()};
  together(world, [&] {
    if (!world.root()) return;
    outcome.rows = static_cast<int64_t>(writer->set.keys.size());
    outcome.skipped = static_cast<int64_t>(writer->skipped.keys.size());
    if (outcome.rows == 0)
      throw DataError(
          fmt::format("extracting features: {}: none of {} images could be decoded; the first: {}",
                      config.data, n, writer->skipped.reasons.front()));
    writer->commit(output, extractor->patch_width());
    std::remove(partial.c_str());
  });
  return outcome;
}

namespace {

/// A name that promises another format would be found out by whoever opens the file.
void require_hdf5_name(const std::string& output) {
  if (output.ends_with(".h5") || output.ends_with(".hdf5")) return;
  throw UsageError(
      fmt::format("extracting features: --output {}: must end in .h5: the file holds labels and keys beside "
                  "the features, and "
                  "an .npy has no room for them; every command that reads embeddings takes the .h5",
                  output));
}

}  // namespace

namespace {

Schema<FeaturesConfig> features_options() {
  using C = FeaturesConfig;
  Schema<C> schema;
  schema.add(&C::model, model_options());
  schema.section("data");
  schema.add("data", &C::data, "Data reference.").required();
  schema.add("split", &C::protocol, &FeatureProtocol::split,
             "Which part of the data: groups are never torn apart.");
  schema
      .add("test-fraction", &C::protocol, &FeatureProtocol::test_fraction,
           "Share of the groups that --split test takes.")
      .range(0.001, 0.999);
  declare_extraction(schema);
  schema.add("store-patches", &C::store_patches, "Also write every patch token of the last block.");
  return schema;
}

ExitCode start_features(FeaturesConfig config, CommandContext& context) {
  require_hdf5_name(context.common.output);
  config.seed = context.common.seed;
  if (context.common.dry_run) {
    const auto n = open_dataset(config.data).records.size();
    log::info(
        fmt::format("{} records of {} would be read, {} written", n, config.data, context.common.output));
    return ExitCode::done;
  }
  const FeaturesOutcome outcome = write_features(context.world, config, context.common.output);
  if (outcome.stopped) {
    log::warning("stopped before the end; start the same command again to go on");
    return ExitCode::stopped;
  }
  if (context.world.root()) {
    log::info(fmt::format("{}: {} rows, {} skipped", context.common.output, outcome.rows, outcome.skipped));
    context.result = json_line({{"output", context.common.output},
                                {"rows", outcome.rows},
                                {"skipped", outcome.skipped},
                                {"model", outcome.model.name},
                                {"weights", outcome.model.weights}});
  }
  return ExitCode::done;
}

}  // namespace

Command features_command() {
  Command command;
  command.name = "features";
  command.summary = "Extract features of a data set with a frozen model";
  command.usage = "--weights W --data REF [--size N] [--tokens cls|patch|both] [--layers 1] --output F.h5";
  command.description =
      "Writes F.h5: /features (float32 N x D: class tokens of the last --layers blocks, oldest first, then "
      "the mean patch token "
      "when --tokens asks for patches), /labels (int32, -1 unknown), /keys, /groups, and /patches with "
      "--store-patches; the "
      "attribute classes names the labels. Images that cannot be decoded are left out, counted and listed "
      "with their reason in "
      "/skipped. The file has the same bytes for any number of ranks. A stop (exit code 75) leaves "
      "F.h5.partial, from which the same command goes on.";
  command.output = "Feature file to write, ending in .h5.";
  command.examples = {{"--weights run --data photos --split train --output train.h5"},
                      {"--weights raw-pixels --data photos --split test --output floor.h5",
                       "The floor that a model has to beat."}};
  command.make = with_options(features_options(), start_features);
  return command;
}

}  // namespace dino::eval
