// SPDX-License-Identifier: Apache-2.0
#pragma once
// A CLIP as tasks use it: pictures and texts as unit vectors of one space. The image tower may be a DINOv2
// backbone that `align` trained a text tower on.

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/options.hpp"
#include "comm/communicator.hpp"
#include "inputs/extractor.hpp"

namespace dino::eval {

struct ClipOptions {
  ModelOptions model;  ///< weights: of both towers
  InputOptions input;
  FeatureProtocol limits;  ///< which images are left out
  std::string vocabulary;  ///< empty: in the folder of the weights
  int64_t batch = 32;      ///< images, or four times as many texts, per forward pass
};
/// --clip, --vocabulary, and how images are read.
[[nodiscard]] Schema<ClipOptions> clip_options();

/// Texts -> unit vectors.
class TextEncoder {
 public:
  /// As load_text_model and BytePairs::load; the device is settled.
  explicit TextEncoder(const ClipOptions& options);
  ~TextEncoder();
  TextEncoder(TextEncoder&&) noexcept;
  [[nodiscard]] int64_t width() const;
  [[nodiscard]] const std::string& sha256() const;
  /// f32 [texts, width], by this rank alone.
  [[nodiscard]] Tensor encode(std::span<const std::string> texts);
  /// The same, each rank having encoded its part. Collective.
  [[nodiscard]] Tensor encode(std::span<const std::string> texts, const Communicator& world);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Images that could be read, in the records' order.
struct EncodedImages {
  Tensor rows;                   ///< f32 [images, width] of unit rows
  std::vector<int64_t> records;  ///< their records
  int64_t skipped = 0;
};

/// The class features of `protocol`, made unit vectors. Batches are dealt to the ranks in turn; the same rows
/// on all ranks. A stop ends it. DataError where no image can be read. Collective.
[[nodiscard]] EncodedImages encode_images(Extractor& extractor, const FeatureProtocol& protocol,
                                          std::span<const Record> records, int64_t batch,
                                          const Communicator& world);

class ClipModel {
 public:
  /// Settles the device and the input; DataError where the towers' spaces differ. Collective.
  ClipModel(ClipOptions options, uint64_t seed, const Communicator& world);
  /// Both towers: the digest is of both.
  [[nodiscard]] ModelIdentity identity() const;
  [[nodiscard]] const FeatureProtocol& protocol() const { return protocol_; }
  [[nodiscard]] TextEncoder& texts() { return texts_; }
  /// encode_images(). Collective.
  [[nodiscard]] EncodedImages encode(std::span<const Record> records, const Communicator& world) {
    return encode_images(*images_, protocol_, records, options_.batch, world);
  }

 private:
  ClipOptions options_;
  FeatureProtocol protocol_;
  std::unique_ptr<Extractor> images_;
  TextEncoder texts_;
};

}  // namespace dino::eval
