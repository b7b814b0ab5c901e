// SPDX-License-Identifier: Apache-2.0
// One unit vector per image that can be decoded, also of those that filters drop, so that these can be
// changed at no cost: the copy descriptor, a backbone's class token, or given rows.
#include <fmt/format.h>

#include <algorithm>
#include <mutex>

#include "base/log.hpp"
#include "base/loop_failure.hpp"
#include "base/working.hpp"
#include "model/preparation.hpp"
#include "model/vit.hpp"
#include "model/weights.hpp"
#include "pipeline.hpp"
#include "stage_settings.hpp"
#include "storage/files.hpp"
#include "storage/hdf5.hpp"
#include "storage/seal.hpp"
#include "vector_commands.hpp"
#include "vectors/embeddings.hpp"

namespace dino::curation {
namespace {

constexpr int64_t kPlainSide = 8;
constexpr int64_t kBatch = 16;  ///< images per forward pass; fixed, so that results do not depend on ranks

/// Row `row` of a block that was read from `path`, which may be damaged.
const float* row_of(const Tensor& block, int64_t row, int64_t width, const std::string& path) {
  if (row < 0 || block.numel() / width <= row)
    throw DataError(
        fmt::format("bad work unit: {}: row {} of {} values is needed, it holds {}; delete it and run again",
                    path, row, width, block.numel()));
  return block.as<float>() + row * width;
}

/// Reads rows of a column of the ingest units, which lie end to end, `unit_size` images each.
class UnitRows {
 public:
  UnitRows(const Run& run, int64_t unit_size, std::string name)
      : run_(run), name_(std::move(name)), unit_size_(unit_size) {}
  void read(int64_t row, float* out, int64_t width) {
    const int64_t unit = row / unit_size_;
    if (unit != unit_) {
      path_ = run_.work(fmt::format("ingest/unit_{:06}.h5", unit));
      const std::string remedy = "the images are read again";
      if (!path_exists(path_)) throw DataError(fmt::format("work unit is gone: {}; {}", path_, remedy));
      rows_ = open_sealed(path_, remedy).read(name_, DType::f32);
      unit_ = unit;
    }
    std::copy_n(row_of(rows_, row - unit * unit_size_, width, path_), width, out);
  }

 private:
  const Run& run_;
  std::string name_, path_;
  Tensor rows_;
  int64_t unit_size_, unit_ = -1;
};

using RowSource = std::function<void(size_t index, int64_t row, float* out)>;

/// Streams unit vectors of `rows` into embeddings.h5.
void write_embeddings(Run& run, const std::vector<int64_t>& rows, int64_t width, const std::string& kind,
                      const RowSource& source) {
  constexpr int64_t kBlock = 4096;
  const auto n = static_cast<int64_t>(rows.size());
  commit_hdf5(embeddings_path(run), [&](Hdf5File& file) {
    file.create_dataset("/features", Shape{n, width}, DType::f32);
    for (int64_t begin = 0; begin < n; begin += kBlock) {
      work_point();
      const int64_t count = std::min(kBlock, n - begin);
      Tensor block(Shape{count, width});
      for (int64_t i = 0; i < count; ++i) {
        const auto at = static_cast<size_t>(begin + i);
        source(at, rows[at], block.as<float>() + i * width);
      }
      normalize_rows(block.as<float>(), count, width);
      file.write_rows("/features", begin, block);
    }
    file.write("/row", view_of(rows.data(), Shape{n}));
    file.write_attribute("/", "embedding", kind);
  });
  run.add_written("embeddings.h5");
}

void embed_given(Run& run, const Ledger& ledger, const std::vector<int64_t>& rows) {
  const EmbeddingStore store =
      open_rows(run.config.embeddings, Communicator::self(), "copy it again, or make it again");
  if (store.rows() != ledger.rows()) {
    throw DataError(
        fmt::format("bad embeddings: {}: {} rows for {} input images; give one row per image, in "
                    "input order",
                    run.config.embeddings, store.rows(), ledger.rows()));
  }
  write_embeddings(run, rows, store.width(), "given",
                   [&](size_t /*index*/, int64_t row, float* out) { store.read(row, 1, out); });
}

std::string embed_unit_path(const Run& run, int64_t unit) {
  return run.work(fmt::format("embed/unit_{:06}.h5", unit));
}

/// Images of a unit go through the backbone in batches of kBatch, in order.
void embed_unit(const Run& run, const Embedder& embedder, int64_t unit, const std::vector<Item>& items,
                UnitCounter& counter) {
  const auto n = static_cast<int64_t>(items.size());
  Tensor features(Shape{n, embedder.width()});
  std::vector<uint8_t> changed(items.size(), 0);
  for (int64_t begin = 0; begin < n; begin += kBatch) {
    const int64_t count = std::min(kBatch, n - begin);
    std::vector<Image> images(static_cast<size_t>(count));
    LoopFailure failure;
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < count; ++i) {
      failure.guard([&] {
        const Item& item = items[static_cast<size_t>(begin + i)];
        const MeasuredImage one = measure_record(item.record, run.config);
        if (one.measured.reason == Reason::decode_memory)
          throw IoError(
              fmt::format("cannot decode: {}: ingest could: {}", item.record.path, one.measured.message));
        const bool same = one.measured.sha256 == item.sha256;
        if (same && one.image.pixels.empty())
          throw DataError(fmt::format("cannot decode: {}: ingest could, and it did not change: {}; run again",
                                      item.record.path, one.measured.message));
        changed[static_cast<size_t>(begin + i)] = same ? 0 : 1;
        if (!embedder.batched()) {
          if (same)
            embedder.embed(std::span(&one.image, 1), features.as<float>() + (begin + i) * embedder.width());
          return;
        }
        // A plain picture keeps the place of another, so that the rest meet the same batch; a batch of whole
        // pictures has no bound.
        images[static_cast<size_t>(i)] = embedder.input(
            same ? one.image
                 : Image{kPlainSide, kPlainSide, 3, std::vector<uint8_t>(kPlainSide * kPlainSide * 3)});
      });
    }
    failure.rethrow();
    if (embedder.batched()) embedder.embed(images, features.as<float>() + begin * embedder.width());
    counter.add(count);
  }
  commit_hdf5(embed_unit_path(run, unit), [&](Hdf5File& file) {
    file.write("/features", features);
    file.write("/changed", view_of(std::as_const(changed).data(), Shape{n}));
  });
}

/// Rank 0: the vectors of all units, without the rows whose picture is another now than ingest judged.
void merge_embed_units(Run& run, const std::vector<int64_t>& rows, int64_t width, int64_t unit_size) {
  const auto open_unit = [&](int64_t unit) {
    return open_sealed(embed_unit_path(run, unit), "the same command makes it again");
  };
  std::vector<int64_t> place, same;  // in the units' order, and the row of the ledger
  for (size_t begin = 0; begin < rows.size(); begin += static_cast<size_t>(unit_size)) {
    const int64_t unit = static_cast<int64_t>(begin) / unit_size;
    const auto count = std::min(static_cast<size_t>(unit_size), rows.size() - begin);
    const Tensor changed = open_unit(unit).read("/changed", DType::u8);
    DINO_CHECK(changed.numel() == static_cast<int64_t>(count), "a work unit is of another size");
    for (size_t i = 0; i < count; ++i) {
      if (changed.as<uint8_t>()[i] != 0) continue;
      place.push_back(static_cast<int64_t>(begin + i));
      same.push_back(rows[begin + i]);
    }
  }
  if (same.size() < rows.size())
    log::warning(
        fmt::format("embed: {} images changed since ingest and are dropped", rows.size() - same.size()));
  Tensor block;
  std::string path;
  int64_t loaded = -1;
  write_embeddings(run, same, width, run.config.embedding, [&](size_t index, int64_t /*row*/, float* out) {
    const int64_t unit = place[index] / unit_size;
    if (unit != loaded) {
      path = embed_unit_path(run, unit);
      block = open_unit(unit).read("/features", DType::f32);
      loaded = unit;
    }
    std::copy_n(row_of(block, place[index] - unit * unit_size, width, path), width, out);
  });
}

/// Reads the images again, and embeds them unit by unit.
bool embed_by_units(Run& run, const Ledger& ledger, const std::vector<int64_t>& rows) {
  const Embedder embedder(run.config);
  std::vector<Item> items;
  int64_t unit = 0;
  on_root(run.world, [&] {
    load_listing(run);
    unit = unit_size(run.config, ledger.rows());
    begin_units(run, "embed",
                fmt::format("{}{}{}unit {}", run.after, stage_settings_text(run.config, "embed"),
                            embed_device_text(run.config), unit));
    items = judged_items(run, ledger, rows);
  });
  const Units units = share_units(
      items, unit, [&](int64_t number) { return unit_done(embed_unit_path(run, number)); }, run.world);
  const bool finished = process_units(
      "embed", units, run.world, [&](int64_t number, const std::vector<Item>& part, UnitCounter& counter) {
        embed_unit(run, embedder, number, part, counter);
      });
  if (!finished) return false;
  on_root(run.world, [&] { merge_embed_units(run, rows, embedder.width(), unit); });
  return true;
}

/// The copy descriptors that ingest made on its way. False where they are gone, as they are after the last
/// stage, or damaged: they can be made again from the images.
bool embed_by_ingest(Run& run, const Ledger& ledger, const std::vector<int64_t>& rows) {
  int64_t done = 0;
  on_root(run.world, [&] {
    if (!units_made_from(run, "ingest", ingest_identity(run, ledger.rows()))) return;
    try {
      UnitRows units(run, unit_size(run.config, ledger.rows()), "/copy");
      write_embeddings(
          run, rows, kCopyDescriptorSize, "copy",
          [&](size_t /*index*/, int64_t row, float* out) { units.read(row, out, kCopyDescriptorSize); });
      done = 1;
    } catch (const DataError& error) {
      log::warning(error.what());
    }
  });
  run.world.broadcast_span(std::span(&done, 1));
  return done != 0;
}

}  // namespace

std::string embed_device_text(const CurateConfig& config) {
  return kind_of(config.compute.device) == Device::Kind::cpu ? "" : "device = cuda\n";
}

struct Embedder::Backend {
  std::unique_ptr<Backbone> backbone;  ///< null = the copy descriptor
  std::unique_ptr<Vit> vit;
  std::unique_ptr<Workplace> place;
  Normalisation normalisation;
  int64_t size = 0;
};

Embedder::Embedder(const CurateConfig& config) : backend_(std::make_unique<Backend>()) {
  if (config.embedding == "copy") return;
  backend_->backbone = load_backbone(config.embedding, LoadOptions{Network::teacher, config.heads});
  backend_->normalisation = preparation_of(config.embedding).normalisation;
  const VitConfig& vit = backend_->backbone->config;
  // fp32, so that the same bytes come from machines with and without bf16 instructions.
  backend_->vit = std::make_unique<Vit>(vit);
  backend_->place =
      std::make_unique<Workplace>(backend_of(config.compute.device), Communicator::self(), Precision::f32);
  bring_to_device(*backend_->backbone, backend_->place->context());
  backend_->size = std::max(vit.patch, config.image_size / vit.patch * vit.patch);
}

Embedder::~Embedder() = default;

int64_t Embedder::width() const {
  return backend_->backbone ? backend_->backbone->config.width : kCopyDescriptorSize;
}

bool Embedder::batched() const {
  return backend_->backbone != nullptr;
}

Image Embedder::input(const Image& image) const {
  // The whole picture, squeezed into a square: near-copies of another aspect must meet.
  return backend_->backbone ? resize(image, backend_->size, backend_->size) : image;
}

void Embedder::embed(std::span<const Image> images, float* out) const {
  const auto n = static_cast<int64_t>(images.size());
  if (!backend_->backbone) {
    for (size_t i = 0; i < images.size(); ++i) {
      copy_descriptor(images[i], out + static_cast<int64_t>(i) * kCopyDescriptorSize);
    }
    return;
  }
  const int64_t side = backend_->size;
  Tensor pixels(Shape{n, 3, side, side});
  for (int64_t i = 0; i < n; ++i) {
    normalize_to(input(images[static_cast<size_t>(i)]), backend_->normalisation,
                 pixels.as<float>() + i * 3 * side * side);
  }
  const Context& c = backend_->place->context();
  c.arena.reset();
  const CropBatch batch{device_view(c, pixels), {}};
  const VitOutput tokens = backend_->vit->forward(c, backend_->backbone->weights, std::span(&batch, 1), {});
  const int64_t width = backend_->backbone->config.width;
  Tensor buffer;
  const float* const norm = host_view(c, tokens.norm, buffer).as<float>();
  for (int64_t i = 0; i < n; ++i) {
    const float* row = norm + tokens.entries[0].cls_row(i) * width;
    std::copy_n(row, width, out + i * width);
  }
  normalize_rows(out, n, width);
}

bool embed_stage(Run& run) {
  Ledger ledger;
  std::vector<int64_t> rows;
  on_root(run.world, [&] {
    ledger = load_stage(run, "ingest");
    rows = rows_to_embed(ledger, run.config);
    if (rows.empty()) {
      throw DataError(fmt::format(
          "nothing left to embed: {}: all {} images were dropped by ingest; see `dino-curate list "
          "--output {}`, and give other images in another --output",
          run.out, ledger.rows(), run.out));
    }
  });
  if (!run.config.embeddings.empty()) {
    on_root(run.world, [&] { embed_given(run, ledger, rows); });
    return true;
  }
  if (run.config.embedding == "copy" && embed_by_ingest(run, ledger, rows)) return true;
  return embed_by_units(run, ledger, rows);
}

}  // namespace dino::curation
