// SPDX-License-Identifier: Apache-2.0
#pragma once
// Data sets whose images carry a class or a depth for every pixel. A reference is
//  - NAME/PART:ROOT of a set defined in share/datasets/dense/ (NAME/PART where it is of packages, or lies in
//    $DINO_DATA/NAME), or FOLDER/PART of a folder with a definition dense.cfg of its own;
//  - a folder with images/ and labels/ (and classes.txt, a name a line: number 0 is the first, 255 does not
//    count), or images/ and depth/ (16-bit millimetres), with equal names below;
//  - an HDF5 file with /images (u8 [N, H, W, 3]) and /labels (integers [N, H, W]) or /depths (metres
//    [N, H, W]); as MATLAB writes them, [N, 3, W, H] and [N, W, H], too (NYU's labelled file);
//  - any reference of images in tars with sidecars KEY.labels or KEY.depth: PNG or PGM, read as the folders'.

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "datasets/dataset.hpp"
#include "datasets/dense_maps.hpp"

namespace dino {

class Hdf5File;

enum class DenseTask : uint8_t { segmentation, depth };
constexpr auto names_of(DenseTask) {
  return std::to_array<Named<DenseTask>>(
      {{"segmentation", DenseTask::segmentation}, {"depth", DenseTask::depth}});
}

struct DensePair {
  std::string key;
  Record image, target;
  int64_t row = -1;  ///< of the HDF5 file; -1: both are files
};

struct DenseDataset {
  std::string reference;
  std::string name;  ///< for results: "ade20k/val", or the folder's name
  DenseTask task = DenseTask::segmentation;
  std::vector<DensePair> pairs;
  std::vector<std::string> classes;  ///< segmentation
  LabelCoding labels;
  DepthCoding depth;
  bool visp_depth = false;  ///< targets are decode_visp_depth's
  DepthCrop crop = DepthCrop::none;
  ImageCrop image_crop = ImageCrop::none, train_crop = ImageCrop::none;
  std::shared_ptr<const Hdf5File> file;  ///< of rows
  std::string image_name, target_name;   ///< its datasets
  std::vector<std::string> faults;       ///< pairs without a half and the like, one line each
};

/// Nothing where the reference is of images without maps; MissingInputError and DataError for what is there
/// and cannot be used. Deterministic order.
[[nodiscard]] std::optional<DenseDataset> find_dense_dataset(const std::string& reference, DenseTask task);
/// MissingInputError when there is nothing of that name, DataError when it holds no pair for this task.
[[nodiscard]] DenseDataset open_dense_dataset(const std::string& reference, DenseTask task);

struct DenseSample {
  Image image;        ///< RGB
  LabelMap labels;    ///< segmentation
  DepthMap depth;     ///< depth
  std::string fault;  ///< why there is none: one half does not decode, sizes differ, a number of no class
};
/// Cut by image_crop. `training`: and by train_crop. Never throws for bad input; IoError when the file system
/// fails. Orientation tags do not count: the maps were made of the stored pixels.
[[nodiscard]] DenseSample read_dense_sample(const DenseDataset& dataset, int64_t index,
                                            const DecodeLimits& limits = {}, bool training = false);

}  // namespace dino
