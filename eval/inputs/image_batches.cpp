// SPDX-License-Identifier: Apache-2.0
#include "inputs/image_batches.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/log.hpp"
#include "base/loop_failure.hpp"
#include "base/progress.hpp"
#include "base/signals.hpp"
#include "base/working.hpp"
#include "comm/together.hpp"

namespace dino::eval {

std::vector<Record> spread_records(std::vector<Record> records, int64_t limit) {
  const auto n = static_cast<int64_t>(records.size());
  if (limit <= 0 || n <= limit) return records;
  std::vector<Record> out;
  for (int64_t i = 0; i < limit; ++i) out.push_back(std::move(records[static_cast<size_t>(i * n / limit)]));
  return out;
}

void for_each_batch(const Communicator& world, int64_t images, int64_t batch, const char* stage,
                    const std::function<void(Range)>& work) {
  const Range batches = even_range((images + batch - 1) / batch, world.rank(), world.size());
  together(world, [&] {
    Progress progress(stage, std::min(batches.end * batch, images) - std::min(batches.begin * batch, images),
                      "images");
    for (int64_t b = batches.begin; b < batches.end && !stop_requested(); ++b) {
      const Range range{b * batch, std::min((b + 1) * batch, images)};
      work(range);
      progress.add(range.size());
      still_working();
    }
    progress.finish();
  });
  if (world.any(stop_requested())) throw_stopped();
}

std::vector<LoadedImage> load_batch(Range range, const std::function<LoadedImage(int64_t)>& make) {
  std::vector<LoadedImage> out(static_cast<size_t>(range.size()));
  LoopFailure failure;
#pragma omp parallel for schedule(dynamic)
  for (int64_t i = 0; i < range.size(); ++i)
    failure.guard([&] { out[static_cast<size_t>(i)] = make(range.begin + i); });
  failure.rethrow();
  return out;
}

std::vector<std::string> for_each_composite(const Communicator& world, Extractor& extractor,
                                            std::span<const Record> records, const CompositeOptions& options,
                                            const char* stage,
                                            const std::function<void(const CompositeTokens&)>& visit) {
  FeatureProtocol protocol;
  protocol.size = protocol.resize = options.size;
  const int64_t grid = options.size / extractor.patch_side(), values = grid * grid * extractor.patch_width();
  std::vector<float> features, patches;
  std::vector<std::string> faults;
  for_each_batch(world, static_cast<int64_t>(records.size()), options.batch, stage, [&](Range range) {
    std::vector<Composite> made(static_cast<size_t>(range.size()));
    LoopFailure failure;
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < range.size(); ++i)
      failure.guard([&] {
        made[static_cast<size_t>(i)] = load_composite(records[static_cast<size_t>(range.begin + i)],
                                                      options.size, options.decode_memory, options.seed);
      });
    failure.rethrow();
    std::vector<Image> images;
    for (const Composite& composite : made) images.push_back(composite.image);
    features.resize(static_cast<size_t>(range.size() * extractor.columns(protocol).width()));
    patches.resize(static_cast<size_t>(range.size() * values));
    extractor.extract(images, protocol, features.data(), patches.data());
    for (int64_t i = 0; i < range.size(); ++i) {
      const Composite& composite = made[static_cast<size_t>(i)];
      const int64_t record = range.begin + i;
      if (composite.fault.empty())
        visit({record, &composite, patches.data() + i * values});
      else
        faults.push_back(records[static_cast<size_t>(record)].key + ": " + composite.fault);
    }
  });
  return gather_lines(world, faults);
}

void say_left_out(const std::vector<std::string>& faults) {
  for (size_t i = 0; i < std::min<size_t>(faults.size(), 5); ++i) log::warning("left out " + faults[i]);
  if (faults.size() > 5) log::warning(fmt::format("left out {} images in all", faults.size()));
}

std::vector<std::string> gather_lines(const Communicator& world, const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + '\n';
  const auto all = world.gather_values<char>(std::span<const char>(text));
  std::vector<std::string> out;
  for (auto begin = all.begin(); begin != all.end();) {
    const auto end = std::find(begin, all.end(), '\n');
    out.emplace_back(begin, end);
    begin = end + 1;
  }
  return out;
}

}  // namespace dino::eval
