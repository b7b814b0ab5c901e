// SPDX-License-Identifier: Apache-2.0
#include "storage/output_kind.hpp"

#include <fmt/format.h>

#include "base/error.hpp"
#include "storage/files.hpp"

namespace dino {

void refuse_other_output(const std::string& folder, std::string_view kind) {
  struct Mark {
    std::string_view kind;
    const char* file;
  };
  constexpr Mark kMarks[] = {{output_kind::curation, "curate.ini"},
                             {output_kind::training, "checkpoints"},
                             {output_kind::results, "results.jsonl"},
                             {output_kind::chain, "chain.json"},
                             {output_kind::aligned, "text.safetensors"}};
  for (const Mark& mark : kMarks) {
    if (mark.kind == kind || !path_exists(folder + "/" + mark.file)) continue;
    throw UsageError(fmt::format("output in use: {}: it holds {} ({}); name another --output", folder,
                                 mark.kind, mark.file));
  }
}

}  // namespace dino
