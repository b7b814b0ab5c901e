// SPDX-License-Identifier: Apache-2.0
#include "data_loader.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <new>
#include <numeric>
#include <span>
#include <utility>

#include "base/keyed_permutation.hpp"
#include "base/log.hpp"
#include "base/random.hpp"
#include "base/timing.hpp"
#include "imaging/decode_options.hpp"
#include "imaging/image.hpp"
#include "ops/device_option.hpp"
#include "storage/files.hpp"

namespace dino::pretrain {

namespace {

constexpr int64_t kBadExamples = 3;
/// What the cache keeps of an image beside its pixels.
constexpr int64_t kEntryBytes = 128;

/// What is done to every image before it is cut into crops.
Image prepare(Decoded decoded, const LoaderConfig& config) {
  Image image = std::move(decoded.image);
  const int64_t side = std::max(image.width, image.height);
  if (config.max_side > 0 && side > config.max_side) {
    const auto scaled = [&](int64_t length) { return std::max<int64_t>(1, length * config.max_side / side); };
    image = resize(image, scaled(image.width), scaled(image.height), Resampling::bicubic);
  }
  if (config.pad) image = pad_to_square(image, decoded.background);
  return image;
}

/// What is handed on where a GPU makes the crop: the picture, or of one that is too large for it what the
/// crop shows, already of its size.
CropSource source_of(std::shared_ptr<const Image> picture, CropSteps steps, int64_t size,
                     const LoaderConfig& config) {
  if (static_cast<int64_t>(picture->pixels.size()) <= config.picture_bytes &&
      std::max(steps.height, steps.width) <= ops::Backend::kMostReduction * size)
    return {std::move(picture), steps};
  const Box box{steps.top, steps.left, steps.height, steps.width};
  auto cut = std::make_shared<const Image>(resize(*picture, box, size, size, config.augment.resampling));
  steps.top = steps.left = 0;
  steps.height = steps.width = static_cast<int32_t>(size);
  return {std::move(cut), steps};
}

}  // namespace

LoaderConfig make_loader_config(const TrainConfig& config, uint64_t seed, int threads) {
  LoaderConfig loader;
  loader.augment = config.augment;
  loader.max_side = config.max_side;
  loader.pad = config.pad;
  loader.background = config.background.colour;
  loader.decode_memory = config.decode_memory.bytes;
  loader.batch = config.batch;
  loader.workers = config.workers > 0 ? config.workers : threads;
  loader.prefetch = config.prefetch;
  loader.cache_bytes = static_cast<int64_t>(config.cache_gib * 1024 * 1024 * 1024);
  loader.seed = seed;
  loader.only_draw = kind_of(config.device) != Device::Kind::cpu;
  return loader;
}

LoadingCost measure_loading(const RecordList& list, const LoaderConfig& config, int64_t count) {
  constexpr double kMostSeconds = 3;
  const int64_t records = list.count();
  count = std::min(count, records);
  DecodeOptions options;
  options.background = config.background;
  options.limits.max_memory = config.decode_memory;
  LoadingCost cost;
  int64_t loaded = 0;
  const Stopwatch all;
  for (int64_t i = 0; i < count && (loaded < 2 || all.seconds() < kMostSeconds); ++i) {
    Stopwatch watch;
    try {
      Decoded decoded = decode_image(read_record(list.at(i * records / count)), options);
      if (decoded.status != DecodeStatus::ok) continue;
      const auto whole = static_cast<int64_t>(decoded.image.pixels.size());
      const auto image = std::make_shared<const Image>(prepare(std::move(decoded), config));
      cost.decode_seconds += watch.seconds();
      cost.bytes += static_cast<int64_t>(image->pixels.size());
      cost.decode_bytes = std::max(cost.decode_bytes, whole);
      watch.restart();
      const AugmentConfig& augment = config.augment;
      std::vector<float> out(static_cast<size_t>(3 * std::max(augment.global_size, augment.local_size) *
                                                 std::max(augment.global_size, augment.local_size)));
      for (int64_t crop = 0; crop < 2 + augment.local_count; ++crop) {
        Random random(config.seed, RandomStream::synthetic, static_cast<uint64_t>(i * 256 + crop));
        const CropKind kind = crop == 0 ? CropKind::global1 : crop == 1 ? CropKind::global2 : CropKind::local;
        const CropSteps steps = draw_crop(image->width, image->height, kind, augment, random);
        const int64_t size = crop < 2 ? augment.global_size : augment.local_size;
        if (config.only_draw)
          static_cast<void>(source_of(image, steps, size, config));
        else
          normalize_to(make_crop(*image, steps, size, augment.resampling), augment.normalisation, out.data());
      }
      cost.augment_seconds += watch.seconds();
      ++loaded;
    } catch (const Error&) {
      continue;  // the training tells what is wrong with the file when it comes to it
    } catch (const std::bad_alloc&) {
      continue;
    }
  }
  if (loaded == 0) return {};
  cost.decode_seconds /= static_cast<double>(loaded);
  cost.augment_seconds /= static_cast<double>(loaded);
  cost.bytes /= loaded;
  return cost;
}

ImageCache::ImageCache(const RecordList& list, const LoaderConfig& config,
                       std::vector<std::shared_ptr<const Image>> decoded)
    : list_(list),
      config_(config),
      records_(decoded.empty() ? list.count() : static_cast<int64_t>(decoded.size())) {
  for (size_t i = 0; i < decoded.size(); ++i) images_.emplace(static_cast<int64_t>(i), std::move(decoded[i]));
}

int64_t ImageCache::bad_records() const {
  const std::lock_guard lock(mutex_);
  return bad_count_;
}

std::string ImageCache::bad_examples() const {
  const std::lock_guard lock(mutex_);
  return bad_examples_;
}

ImageCache::Loaded ImageCache::get(int64_t record) {
  {
    const std::lock_guard lock(mutex_);
    if (const auto held = images_.find(record); held != images_.end()) return {held->second};
    if (const auto bad = bad_.find(record); bad != bad_.end()) return {nullptr, bad->second};
  }
  const Record source = list_.at(record);
  DecodeOptions options;
  options.background = config_.background;
  options.limits.max_memory = config_.decode_memory;
  Loaded loaded;
  std::string fault;
  try {
    Decoded decoded = decode_image(read_record(source), options);
    loaded.status = decoded.status;
    if (decoded.status == DecodeStatus::ok)
      loaded.image = std::make_shared<const Image>(prepare(std::move(decoded), config_));
    else
      fault = decoded.message;
  } catch (const std::bad_alloc&) {
    loaded = {nullptr, DecodeStatus::memory};
    fault = "the machine has not enough memory for it";
  }
  const std::lock_guard lock(mutex_);
  if (!loaded.image) {
    remember_fault(record, source, loaded.status, fault);
    return loaded;
  }
  const int64_t bytes = static_cast<int64_t>(loaded.image->pixels.size()) + kEntryBytes;
  if (bytes_ + bytes <= config_.cache_bytes && images_.try_emplace(record, loaded.image).second)
    bytes_ += bytes;
  return loaded;
}

/// Under the lock.
void ImageCache::remember_fault(int64_t record, const Record& source, DecodeStatus status,
                                const std::string& why) {
  if (bad_.size() < kRememberedFaults) {
    if (!bad_.try_emplace(record, status).second) return;
    const std::string fault = fmt::format("{}: {}", name_of(status), why);
    if (bad_count_ < kBadExamples)
      bad_examples_ += fmt::format("{}{} ({})", bad_examples_.empty() ? "" : ", ", source.path, fault);
    log::warning(fmt::format("image left out: {} ({}): {}", source.key, source.path, fault));
    if (bad_.size() == kRememberedFaults)
      log::warning(
          fmt::format("{} images were left out: further ones are counted and not named", bad_.size()));
  }
  ++bad_count_;
}

int64_t SampleOrder::record(int64_t sample) const {
  const auto epoch = static_cast<uint64_t>(sample / records_);
  return KeyedPermutation(records_, seed_, RandomStream::shuffle, epoch)(sample % records_);
}

DataLoader::DataLoader(const RecordList& list, LoaderConfig config, Range images_of_rank, int64_t first_step,
                       std::vector<std::shared_ptr<const Image>> decoded)
    : list_(list),
      config_(std::move(config)),
      range_(images_of_rank),
      cache_(list, config_, std::move(decoded)),
      order_(cache_.records(), config_.seed),
      slots_(static_cast<size_t>(config_.prefetch) + 1),
      next_step_(first_step),
      fill_step_(first_step) {
  const AugmentConfig& augment = config_.augment;
  const int64_t globals = 2 * range_.size(), locals = augment.local_count * range_.size();
  for (Slot& slot : slots_) {
    CropSet& set = slot.crops;
    set.images = range_.size();
    if (config_.only_draw) {
      set.global_sources.resize(static_cast<size_t>(globals));
      set.local_sources.resize(static_cast<size_t>(locals));
    } else {
      set.global_crops = Tensor(Shape{globals, 3, augment.global_size, augment.global_size});
      set.local_crops = Tensor(Shape{locals, 3, augment.local_size, augment.local_size});
    }
    slot.checksums.resize(static_cast<size_t>(range_.size()));
    slot.status.resize(static_cast<size_t>(range_.size()));
  }
  for (int64_t i = 0; i < config_.workers; ++i) threads_.emplace_back([this] { work(); });
}

DataLoader::~DataLoader() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  work_ready_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

bool DataLoader::is_complete() const {
  const Slot& slot = slots_[static_cast<size_t>(next_step_) % slots_.size()];
  return range_.size() == 0 || (slot.crops.step == next_step_ && slot.finished == range_.size());
}

DataLoader::Awaited DataLoader::await() {
  const log::Phase phase("data wait");
  const Stopwatch watch;
  std::unique_lock lock(mutex_);
  batch_ready_.wait(lock, [&] { return is_complete() || failure_; });
  waited_ += watch.seconds();
  const Slot& slot = slots_[static_cast<size_t>(next_step_) % slots_.size()];
  if (!is_complete()) return {failure_, {}};  // a failure in a later step can wait
  Awaited awaited;
  for (const DecodeStatus status : slot.status) count_replaced(awaited.replaced, status);
  return awaited;
}

const CropSet& DataLoader::next() {
  const log::Phase phase("data wait");
  if (const Awaited awaited = await(); awaited.failure) std::rethrow_exception(awaited.failure);
  std::unique_lock lock(mutex_);
  Slot& slot = slots_[static_cast<size_t>(next_step_) % slots_.size()];
  slot.crops.step = next_step_;
  slot.crops.checksum = std::accumulate(slot.checksums.begin(), slot.checksums.end(), int64_t{0});
  // The slot handed out now is reused only after the following next(), since fill_step_ stays below
  // next_step_ + prefetch.
  ++next_step_;
  lock.unlock();
  work_ready_.notify_all();
  wait_seconds_ = std::exchange(waited_, 0);
  return slot.crops;
}

const CropSet* DataLoader::upcoming() {
  const std::lock_guard lock(mutex_);
  const Slot& slot = slots_[static_cast<size_t>(next_step_) % slots_.size()];
  return range_.size() > 0 && is_complete() ? &slot.crops : nullptr;
}

void DataLoader::work() {
  try {
    std::unique_lock lock(mutex_);
    while (true) {
      work_ready_.wait(
          lock, [&] { return stop_ || (range_.size() > 0 && fill_step_ < next_step_ + config_.prefetch); });
      if (stop_) return;
      const int64_t step = fill_step_;
      Slot& slot = slots_[static_cast<size_t>(step) % slots_.size()];
      if (slot.crops.step != step) {
        slot.crops.step = step;
        slot.started = 0;
        slot.finished = 0;
      }
      const int64_t image = slot.started++;
      if (slot.started == range_.size()) ++fill_step_;
      const int64_t sample = step * config_.batch + range_.begin + image;
      const int64_t record = order_.record(sample);
      lock.unlock();
      fill(slot, image, record);
      lock.lock();
      if (++slot.finished == range_.size()) batch_ready_.notify_all();
    }
  } catch (...) {
    const std::lock_guard lock(mutex_);
    failure_ = std::current_exception();
    batch_ready_.notify_all();
  }
}

ImageCache::Loaded DataLoader::load(int64_t record) {
  const int64_t records = cache_.records();
  ImageCache::Loaded loaded = cache_.get(record);
  // An undecodable image is replaced by the next one that decodes: the same on any rank.
  for (int64_t i = 1; i < records && !loaded.image; ++i)
    loaded.image = cache_.get((record + i) % records).image;
  if (!loaded.image)
    throw DataError("no image of the training data can be decoded: " + list_.reference() +
                    ": see the warnings above; check the data reference");
  return loaded;
}

void DataLoader::fill(Slot& slot, int64_t image, int64_t record) {
  const ImageCache::Loaded loaded = load(record);
  const Image& pixels = *loaded.image;
  const AugmentConfig& augment = config_.augment;
  const int64_t sample = slot.crops.step * config_.batch + range_.begin + image;
  const int64_t count = range_.size();
  const std::array facts = {sample, augment.global_size, augment.local_size};
  uint32_t checksum = crc32c(std::as_bytes(std::span(facts)));
  checksum = crc32c(std::as_bytes(std::span(pixels.pixels)), checksum);
  // Crops of one image use streams of their own, so that the number of local crops does not change the global
  // ones.
  const auto drawn = [&](CropKind kind, int64_t crop) {
    Random random(config_.seed, RandomStream::augment, static_cast<uint64_t>(sample * 256 + crop));
    const CropSteps steps = draw_crop(pixels.width, pixels.height, kind, augment, random);
    checksum = crc32c(std::as_bytes(std::span(&steps, 1)), checksum);
    return steps;
  };
  CropSet& set = slot.crops;
  for (int64_t view = 0; view < 2; ++view)
    fill_crop(loaded.image, drawn(view == 0 ? CropKind::global1 : CropKind::global2, view),
              augment.global_size, view * count + image, set.global_crops, set.global_sources);
  for (int64_t j = 0; j < augment.local_count; ++j)
    fill_crop(loaded.image, drawn(CropKind::local, 2 + j), augment.local_size, j * count + image,
              set.local_crops, set.local_sources);
  slot.checksums[static_cast<size_t>(image)] = checksum;
  slot.status[static_cast<size_t>(image)] = loaded.status;
}

void DataLoader::fill_crop(std::shared_ptr<const Image> picture, const CropSteps& steps, int64_t size,
                           int64_t index, Tensor& crops, std::vector<CropSource>& sources) const {
  const AugmentConfig& augment = config_.augment;
  if (config_.only_draw) {
    sources[static_cast<size_t>(index)] = source_of(std::move(picture), steps, size, config_);
    return;
  }
  normalize_to(make_crop(*picture, steps, size, augment.resampling), augment.normalisation,
               crops.as<float>() + index * 3 * size * size);
}

}  // namespace dino::pretrain
