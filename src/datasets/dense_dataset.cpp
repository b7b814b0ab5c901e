// SPDX-License-Identifier: Apache-2.0
#include "datasets/dense_dataset.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <new>
#include <sstream>

#include "base/error.hpp"
#include "base/text.hpp"
#include "datasets/dataset_builder.hpp"
#include "datasets/dense_definition.hpp"
#include "storage/files.hpp"
#include "storage/hdf5.hpp"

namespace dino {
namespace {

constexpr int64_t kIgnoredNumber = 255;

const char* target_folder(DenseTask task) {
  return task == DenseTask::segmentation ? "labels" : "depth";
}

/// Names of classes, one a line; number 0 is the first.
void take_classes(DenseDataset& dataset, const std::string& path) {
  if (!path_exists(path))
    throw MissingInputError(
        fmt::format("cannot use as data: {}: no {} names its classes; write one name a line, number 0 first",
                    dataset.reference, path));
  std::istringstream text(read_text(path));
  std::vector<int64_t> values;
  for (std::string line; std::getline(text, line);) {
    const std::string name = trim(line);
    if (name.empty()) continue;
    // 255 does not count, so class 255 is number 256.
    const auto next = static_cast<int64_t>(values.size());
    values.push_back(next < kIgnoredNumber ? next : next + 1);
    dataset.classes.push_back(printable_name(name));
  }
  if (values.empty() || values.size() > 32767)
    throw DataError(fmt::format("bad class names: {}: {} of them; give 1 to 32767", path, values.size()));
  dataset.labels = LabelCoding(values, std::vector<int64_t>{kIgnoredNumber}, false);
}

DenseDataset open_pair_folder(const std::string& reference, DenseTask task) {
  DenseDataset dataset;
  dataset.reference = reference;
  dataset.task = task;
  const std::string images = reference + "/images", targets = reference + "/" + target_folder(task);
  std::map<std::string, std::string> target_of;  // by path without extension
  for (const FoundFile& file : walk_folder(targets, dataset.faults).files)
    target_of[without_extension(file.relative)] = file.relative;
  for (const FoundFile& file : walk_folder(images, dataset.faults).files) {
    if (!is_image_extension(lower_extension(file.relative))) continue;
    DensePair pair;
    pair.key = printable_name(without_extension(file.relative));
    const auto found = target_of.find(without_extension(file.relative));
    if (found == target_of.end()) {
      dataset.faults.push_back(fmt::format("{}: there is no map of that name in {}", pair.key, targets));
      continue;
    }
    pair.image.key = pair.target.key = pair.key;
    pair.image.path = images + "/" + file.relative;
    pair.target.path = targets + "/" + found->second;
    dataset.pairs.push_back(std::move(pair));
  }
  if (dataset.pairs.empty())
    throw DataError(fmt::format("cannot use as data: {}: no image below images/ has a map below {}/{}",
                                reference, target_folder(task),
                                dataset.faults.empty() ? "" : "; the first: " + dataset.faults.front()));
  if (task == DenseTask::segmentation) take_classes(dataset, reference + "/classes.txt");
  return dataset;
}

/// Of an HDF5 file, by name and by the shapes that it must have.
DenseDataset open_dense_file(const std::string& reference, DenseTask task) {
  DenseDataset dataset;
  dataset.reference = reference;
  dataset.task = task;
  dataset.image_name = "/images";
  dataset.target_name = task == DenseTask::segmentation ? "/labels" : "/depths";
  auto file = std::make_shared<Hdf5File>(Hdf5File::open(reference));
  const auto fail = [&](const std::string& why) {
    throw DataError(fmt::format("cannot use as data: {}: {}", reference, why));
  };
  for (const std::string& name : {dataset.image_name, dataset.target_name})
    if (!file->exists(name)) fail(fmt::format("it has no {}", name));
  const auto images = file->info(dataset.image_name).dims, targets = file->info(dataset.target_name).dims;
  const bool plain = images.size() == 4 && images[3] == 3,
             turned = images.size() == 4 && images[1] == 3 && !plain;
  const std::vector<int64_t> expected = plain    ? std::vector<int64_t>{images[0], images[1], images[2]}
                                        : turned ? std::vector<int64_t>{images[0], images[2], images[3]}
                                                 : std::vector<int64_t>{};
  if (expected.empty()) fail("/images is neither [N, H, W, 3] nor [N, 3, W, H]");
  if (targets != expected) fail(fmt::format("{} has not the shape of /images", dataset.target_name));
  if (expected[1] > 65536 || expected[2] > 65536) fail("its images are larger than 65536 pixels a side");
  for (int64_t i = 0; i < expected[0]; ++i) {
    DensePair pair;
    pair.key = pair.image.key = fmt::format("{:06}", i);
    pair.row = i;
    dataset.pairs.push_back(std::move(pair));
  }
  dataset.file = std::move(file);
  if (task == DenseTask::segmentation)
    take_classes(dataset, std::filesystem::path(reference).replace_extension(".classes.txt").string());
  return dataset;
}

DenseDataset open_sidecars(const std::string& reference, DenseTask task) {
  DenseDataset dataset;
  Dataset images = open_dataset(reference);
  dataset.reference = reference;
  dataset.task = task;
  dataset.faults = std::move(images.faults);
  for (const Sidecar& sidecar : images.sidecars) {
    if (sidecar.extension != target_folder(task)) continue;
    DensePair pair;
    pair.image = images.records[static_cast<size_t>(sidecar.record)];
    pair.key = pair.target.key = pair.image.key;
    pair.target.path = sidecar.path;
    pair.target.offset = sidecar.offset;
    pair.target.size = sidecar.size;
    dataset.pairs.push_back(std::move(pair));
  }
  // Beside the tars.
  if (!dataset.pairs.empty() && task == DenseTask::segmentation)
    take_classes(
        dataset,
        (std::filesystem::path(dataset.pairs[0].target.path).parent_path() / "classes.txt").string());
  return dataset;
}

/// Row `row` of an HDF5 file, [H, W] of floats; `turned` where it is stored by columns.
std::vector<float> read_plane(const Hdf5File& file, const std::string& name, int64_t row, bool turned,
                              int64_t height, int64_t width) {
  Tensor stored(turned ? Shape{1, width, height} : Shape{1, height, width});
  file.read_rows(name, row, stored);
  const auto values = stored.f32();
  std::vector<float> out(values.begin(), values.end());
  if (turned)
    for (int64_t y = 0; y < height; ++y)
      for (int64_t x = 0; x < width; ++x)
        out[static_cast<size_t>(y * width + x)] = values[static_cast<size_t>(x * height + y)];
  return out;
}

DenseSample read_row(const DenseDataset& dataset, int64_t row) {
  DenseSample sample;
  const Hdf5File& file = *dataset.file;
  const auto dims = file.info(dataset.image_name).dims;
  const bool turned = dims[3] != 3;
  const int64_t height = turned ? dims[3] : dims[1], width = dims[2];
  Tensor pixels(turned ? Shape{1, 3, width, height} : Shape{1, height, width, 3}, DType::u8);
  file.read_rows(dataset.image_name, row, pixels);
  sample.image = {width, height, 3, std::vector<uint8_t>(static_cast<size_t>(width * height * 3))};
  const uint8_t* from = pixels.as<uint8_t>();
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x)
      for (int64_t c = 0; c < 3; ++c)
        sample.image.at(x, y)[c] =
            turned ? from[(c * width + x) * height + y] : from[(y * width + x) * 3 + c];
  std::vector<float> target = read_plane(file, dataset.target_name, row, turned, height, width);
  if (dataset.task == DenseTask::depth) {
    sample.depth = {width, height, std::move(target)};
    dataset.depth.clear_invalid(sample.depth);
    return sample;
  }
  SamplePlane plane{width, height, {}};
  for (const float value : target) {
    if (!(value >= 0 && value <= 65535)) throw DataError(fmt::format("number {} is no class", value));
    plane.samples.push_back(static_cast<uint16_t>(value));
  }
  sample.labels = dataset.labels.decode(plane);
  return sample;
}

DenseSample read_files(const DenseDataset& dataset, const DensePair& pair, const DecodeLimits& limits) {
  DenseSample sample;
  DecodeOptions options;
  options.limits = limits;
  options.apply_orientation = false;
  Decoded image = decode_image(read_record(pair.image), options);
  const auto told = [](const char* half, DecodeStatus status, const std::string& message) {
    return fmt::format("its {}: {}{}{}", half, name_of(status), message.empty() ? "" : ": ", message);
  };
  if (image.status != DecodeStatus::ok) {
    sample.fault = told("image", image.status, image.message);
    return sample;
  }
  const auto bytes = read_record(pair.target);
  const DecodedPlane map =
      dataset.visp_depth ? decode_visp_depth(bytes, limits) : decode_plane(bytes, limits);
  if (map.status != DecodeStatus::ok) {
    sample.fault = told("map", map.status, map.message);
    return sample;
  }
  sample.image = std::move(image.image);
  if (dataset.task == DenseTask::segmentation)
    sample.labels = dataset.labels.decode(map.plane);
  else
    sample.depth = dataset.depth.decode(map.plane);
  return sample;
}

/// The whole picture -> what the protocol leaves of it.
void cut_sample(DenseSample& sample, bool depth, ImageCrop by) {
  if (by == ImageCrop::none) return;
  const Box box = image_box(by, sample.image.height, sample.image.width);
  sample.image = crop(sample.image, box);
  if (depth)
    sample.depth = crop(sample.depth, box);
  else
    sample.labels = crop(sample.labels, box);
}

}  // namespace

std::optional<DenseDataset> find_dense_dataset(const std::string& given, DenseTask task) {
  std::string reference = given;
  while (reference.size() > 1 && reference.back() == '/') reference.pop_back();
  DenseDataset dataset;
  auto defined = path_exists(reference) ? std::nullopt : open_defined_dense(reference);
  if (!defined) defined = open_folder_defined_dense(reference);
  if (defined)
    dataset = std::move(*defined);
  else if (is_folder(reference + "/images") && is_folder(reference + "/" + target_folder(task)))
    dataset = open_pair_folder(reference, task);
  else if (path_exists(reference) && !is_folder(reference) && Hdf5File::is_hdf5(reference))
    dataset = open_dense_file(reference, task);
  else
    dataset = open_sidecars(reference, task);
  if (dataset.task != task)
    throw DataError(fmt::format("cannot use as data: {}: its maps are of {}, and not of {}", given,
                                name_of(dataset.task), name_of(task)));
  if (dataset.pairs.empty()) return std::nullopt;
  if (dataset.name.empty()) dataset.name = std::filesystem::path(reference).stem().string();
  return dataset;
}

DenseDataset open_dense_dataset(const std::string& reference, DenseTask task) {
  auto found = find_dense_dataset(reference, task);
  if (!found)
    throw DataError(
        fmt::format("cannot use as data: {}: no image has a map of {}; give a folder with images/ and {}/, "
                    "tars with sidecars KEY.{}, an HDF5 file, or a data set of these names: {}",
                    reference, name_of(task), target_folder(task), target_folder(task),
                    fmt::join(dense_dataset_names(), ", ")));
  return std::move(*found);
}

DenseSample read_dense_sample(const DenseDataset& dataset, int64_t index, const DecodeLimits& limits,
                              bool training) {
  const DensePair& pair = dataset.pairs[static_cast<size_t>(index)];
  const bool depth = dataset.task == DenseTask::depth;
  DenseSample sample;
  try {
    sample = pair.row >= 0 ? read_row(dataset, pair.row) : read_files(dataset, pair, limits);
    if (!sample.fault.empty()) return sample;
    const int64_t width = depth ? sample.depth.width : sample.labels.width,
                  height = depth ? sample.depth.height : sample.labels.height;
    if (width != sample.image.width || height != sample.image.height)
      throw DataError(fmt::format("the image has {} x {} pixels, the map {} x {}", sample.image.width,
                                  sample.image.height, width, height));
    cut_sample(sample, depth, dataset.image_crop);
    if (training) cut_sample(sample, depth, dataset.train_crop);
  } catch (const DataError& error) {
    sample = {};
    sample.fault = error.what();
  } catch (const std::bad_alloc&) {
    sample = {};
    sample.fault = std::string(name_of(DecodeStatus::memory)) + ": the machine has not enough memory for it";
  }
  return sample;
}

}  // namespace dino
