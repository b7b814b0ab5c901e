// SPDX-License-Identifier: Apache-2.0
#pragma once
// What a training costs: floating-point operations, bytes of memory and disk, from its settings alone.

#include <cstdint>
#include <string>

#include "ops/context.hpp"
#include "train_config.hpp"
#include "training/counted_step.hpp"

namespace dino::pretrain {

/// Of one crop of this side.
[[nodiscard]] int64_t tokens_of(const VitConfig& vit, int64_t side);
/// Multiply-adds times two of one image: student forward and backward of all crops (of the rows that
/// stochastic depth keeps), teacher forward of the global ones, heads and prototypes. The last block's
/// queries, projection and feed-forward count for the tokens that the losses read only, as they are computed
/// for no others.
[[nodiscard]] double flops_per_image(const TrainingConfig& ssl, int64_t global_size, int64_t local_size);
/// Of one forward pass of an image of this side, all tokens.
[[nodiscard]] double forward_flops(const TrainingConfig& ssl, int64_t size);

/// What recomputation and micro-batches do again, which no rate of useful work counts.
[[nodiscard]] double repeated_flops_per_image(const TrainingConfig& ssl, int64_t global_size,
                                              int64_t local_size);

/// What a step takes of the first of `ranks` ranks, which has the largest share of the batch: counted, with
/// the masks and the stochastic depth of step 0. Masked patches are filled up to the bound of the rank's own
/// views. Milliseconds for a few images, a second for a thousand.
[[nodiscard]] CountedStep planned_step(const TrainConfig& config, int ranks);
/// Of the crops of `images` images, f32.
[[nodiscard]] int64_t crop_bytes(const TrainConfig& config, int64_t images);
/// Of what the loader prepares for a step of `images` images: their crops, or the pictures themselves, of
/// `picture_bytes` each (0: unknown, no more than its crops), where a GPU makes the crops.
[[nodiscard]] int64_t prepared_bytes(const TrainConfig& config, int64_t images, int64_t picture_bytes);

/// Bytes of one rank, by kind.
struct MemoryPlan {
  int64_t parameters = 0;  ///< student and teacher
  int64_t gradients = 0;
  int64_t optimizer = 0;    ///< AdamW's moments
  int64_t activations = 0;  ///< the arena of a step: activations, targets, prototypes
  int64_t workspace = 0;    ///< of the matrix products, and `gathered`
  int64_t gathered = 0;     ///< units that are gathered and reduced
  int64_t snapshot = 0;     ///< the copy from which a checkpoint is written
  int64_t loader = 0;       ///< crops prepared ahead, images kept decoded, images being decoded
  int64_t process = 0;      ///< program, MPI, the list of the images
  int64_t received = 0;     ///< from other ranks in a step; held by nobody
  void set_state(const StateBytes& state);
  [[nodiscard]] int64_t total() const {
    return parameters + gradients + optimizer + activations + workspace + snapshot + loader + process;
  }
};

/// Bytes of a rank's GPU, by kind: the state's and the activations of MemoryPlan, and what only a GPU needs.
struct DeviceMemoryPlan {
  int64_t state = 0;        ///< student, teacher, gradients, moments
  int64_t activations = 0;  ///< the arena, with a sixteenth to spare for the draws of other steps
  int64_t gathered = 0;     ///< units that are gathered and reduced
  int64_t crops =
      0;  ///< the crops of a step, f32, and the pictures of two, whose room has a quarter to spare
  int64_t products = 0;  ///< cuBLASLt's workspaces, and what operators need while they run
  int64_t context = 0;   ///< an allowance for the driver's context, the kernels, and NCCL's buffers
  [[nodiscard]] int64_t total() const { return state + activations + gathered + crops + products + context; }
};
/// `picture_bytes` as prepared_bytes takes them.
[[nodiscard]] DeviceMemoryPlan plan_device_memory(const TrainConfig& config, const MemoryPlan& plan,
                                                  int ranks, int64_t picture_bytes);
/// What is compared with the memory that a rank has where it computes: its GPU's, or all of it on a CPU.
[[nodiscard]] int64_t computing_bytes(const TrainConfig& config, const MemoryPlan& plan, int ranks,
                                      int64_t picture_bytes);
/// The arena of a GPU as one block, before the first step, which would otherwise grow it piece by piece
/// beyond what it needs. On a CPU nothing: memory that is not touched costs nothing there.
void reserve_activations(const Context& c, int64_t activations);
/// UsageError with the numbers where the GPU's memory (of the smallest one) cannot hold it.
void refuse_too_large(const DeviceMemoryPlan& plan, int64_t gpu_bytes);
/// "state 1.2 GiB, activations ...".
[[nodiscard]] std::string text_of(const DeviceMemoryPlan& plan);

/// Decoded images, as the loader keeps and makes them.
struct LoadedImages {
  int64_t count = 0;         ///< in the data
  int64_t bytes = 0;         ///< mean of one, prepared
  int64_t decode_bytes = 0;  ///< of the largest while it is decoded
};

/// `threads` of the rank; workspace and process are left to who has measured them, or to the constants here.
[[nodiscard]] MemoryPlan plan_memory(const TrainConfig& config, const LoadedImages& loaded, int ranks,
                                     int threads);
/// One checkpoint: student, teacher and moments.
[[nodiscard]] int64_t checkpoint_bytes(const TrainingConfig& ssl);
/// Of it, what one of `ranks` ranks copies and writes.
[[nodiscard]] int64_t snapshot_bytes(const TrainingConfig& ssl, int ranks);
/// Most that lies in RUN/checkpoints at once: those that are kept and the one being written.
[[nodiscard]] int64_t disk_bytes(const TrainConfig& config);
[[nodiscard]] int64_t parameter_count(const TrainingConfig& ssl);

}  // namespace dino::pretrain
