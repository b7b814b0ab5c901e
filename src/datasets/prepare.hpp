// SPDX-License-Identifier: Apache-2.0
#pragma once
// Turns packed formats into a tar of pictures, once a machine: the first process does it under a lock, the
// others wait and find it done.

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "storage/tar.hpp"

namespace dino {

/// Fills a file under a lock and commits it; returns at once when another process has done it meanwhile.
void make_once(const std::string& out, const std::function<void(const std::string& temporary)>& fill);

/// The same for a tar.
void prepare_tar(const std::string& out, const std::function<void(TarWriter& tar)>& fill);
[[nodiscard]] std::vector<uint8_t> with_header(const std::string& header, std::span<const uint8_t> data);

/// IDX images and labels (LeCun's format, gzipped) -> OUT with CLASS/NUMBER.pgm. DataError names the broken
/// file.
void prepare_idx(const std::string& images_path, const std::string& labels_path,
                 const std::vector<std::string>& classes, const std::string& out);

/// Furniture catalogues (.sh3f: a zip of OBJ models and a list of their categories) -> OUT with
/// CATEGORY/MODEL/VIEW.ppm and, beside each, VIEW.depth: a 16-bit PGM of millimetres, 0 = background; and
/// VIEW.parts: a PGM of the model's materials from 1 on, 0 = background.
void prepare_models(const std::vector<std::string>& catalogues, int views, int size, const std::string& out);

/// Rooms with four to nine pieces of furniture, whose models are those of one part (train, val, test) -> OUT
/// with NUMBER.ppm, .depth as above, and .labels: a PGM of classes, 255 where nothing is. Returns the names
/// of the classes: floor, wall, then the catalogues' categories.
[[nodiscard]] std::vector<std::string> prepare_rooms(const std::vector<std::string>& catalogues,
                                                     const std::string& part, int rooms, int size,
                                                     const std::string& out);

/// Slices along the third axis of a volume (NIfTI) -> OUT with NUMBER.pgm and NUMBER.labels: a PGM of the
/// regions of a second volume on the same grid, 255 what is no named region. `names_file`: lines of NUMBER
/// NAME. Returns the names of the classes: background, then the regions by number.
[[nodiscard]] std::vector<std::string> prepare_slices(const std::string& image, const std::string& regions,
                                                      const std::string& names_file, const std::string& part,
                                                      const std::string& out);

}  // namespace dino
