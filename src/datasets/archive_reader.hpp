// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <archive.h>

#include <memory>

namespace dino {

struct FreeArchive {
  void operator()(archive* handle) const { archive_read_free(handle); }
};
using ArchiveReader = std::unique_ptr<archive, FreeArchive>;

}  // namespace dino
