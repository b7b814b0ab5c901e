// SPDX-License-Identifier: Apache-2.0
#pragma once
// Turns packed formats into a tar of pictures, once a machine: the first process does it under a lock, the
// others wait and find it done.

#include <functional>
#include <string>
#include <vector>

namespace dino {

/// Fills a file under a lock and commits it; returns at once when another process has done it meanwhile.
void make_once(const std::string& out, const std::function<void(const std::string& temporary)>& fill);

/// IDX images and labels (LeCun's format, gzipped) -> OUT with CLASS/NUMBER.pgm. DataError names the broken
/// file.
void prepare_idx(const std::string& images_path, const std::string& labels_path,
                 const std::vector<std::string>& classes, const std::string& out);

/// Furniture catalogues (.sh3f: a zip of OBJ models and a list of their categories) -> OUT with
/// CATEGORY/MODEL/VIEW.ppm and, beside each, VIEW.depth: a 16-bit PGM of millimetres, 0 = background.
void prepare_models(const std::vector<std::string>& catalogues, int views, int size, const std::string& out);

}  // namespace dino
