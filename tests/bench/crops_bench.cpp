// SPDX-License-Identifier: Apache-2.0
// Ten crops of JPEG files on one thread: decoding, and the augmentations of DINOv2. Not a test: build the
// target crops_bench and give it files. Prints one line of JSON: images a second of processor time,
// milliseconds by part, and a checksum of all crops, which no change of speed may change.

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <string>
#include <vector>

#include "base/random.hpp"
#include "imaging/augment.hpp"
#include "storage/files.hpp"

namespace {

using namespace dino;

double processor_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

struct Seconds {
  double decode = 0, crops = 0, normalise = 0;
  uint32_t checksum = 0;
};

/// One round over all files.
Seconds measure(const std::vector<std::vector<uint8_t>>& files) {
  const AugmentConfig config;
  std::vector<float> out(static_cast<size_t>(3 * config.global_size * config.global_size));
  Seconds seconds;
  for (size_t i = 0; i < files.size(); ++i) {
    double last = processor_seconds();
    const auto lap = [&last](double& sum) {
      const double now = processor_seconds();
      sum += now - last;
      last = now;
    };
    const Decoded decoded = decode_image(files[i]);
    lap(seconds.decode);
    if (decoded.status != DecodeStatus::ok) continue;
    for (int64_t crop = 0; crop < 2 + config.local_count; ++crop) {
      Random random(1, RandomStream::synthetic, i * 256 + static_cast<size_t>(crop));
      const CropKind kind = crop == 0 ? CropKind::global1 : crop == 1 ? CropKind::global2 : CropKind::local;
      last = processor_seconds();
      const Image image = augment_crop(decoded.image, kind, config, random);
      lap(seconds.crops);
      normalize_to(image, config.normalisation, out.data());
      lap(seconds.normalise);
      seconds.checksum = crc32c(std::as_bytes(std::span(image.pixels)), seconds.checksum);
    }
  }
  return seconds;
}

}  // namespace

int main(int argc, char** argv) {
  constexpr int kRounds = 5;
  std::vector<std::vector<uint8_t>> files;
  for (int i = 1; i < argc; ++i) {
    const std::string text = read_text(argv[i]);
    files.emplace_back(text.begin(), text.end());
  }
  if (files.empty()) {
    std::fprintf(stderr, "usage: crops_bench FILE.jpg...\n");
    return 64;
  }
  Seconds best = measure(files);
  const auto total = [](const Seconds& s) { return s.decode + s.crops + s.normalise; };
  for (int i = 1; i < kRounds; ++i) {
    const Seconds next = measure(files);
    if (total(next) < total(best)) best = next;
  }
  const auto n = static_cast<double>(files.size());
  fmt::print(
      R"({{"images_per_second":{:.1f},"decode_ms":{:.2f},"crops_ms":{:.2f},"normalise_ms":{:.2f},"crc32c":"{:08x}"}})"
      "\n",
      n / total(best), 1e3 * best.decode / n, 1e3 * best.crops / n, 1e3 * best.normalise / n, best.checksum);
  return 0;
}
