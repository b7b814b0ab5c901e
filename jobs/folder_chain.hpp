// SPDX-License-Identifier: Apache-2.0
#pragma once
// The chain for a folder of pictures, share/chains/folder.cfg, with its settings filled in.

#include <string>
#include <vector>

#include "base/options.hpp"

namespace dino {

struct FolderChain {
  std::string data;              ///< data reference
  std::string weights;           ///< to begin from; empty = from scratch
  std::string run;               ///< run folder; empty = runs/ and the name of the data
  std::vector<std::string> set;  ///< NAME=VALUE for other variables of the chain
};

/// --data, --weights and --set.
[[nodiscard]] Schema<FolderChain> folder_options();

/// The text of the chain file. Paths become absolute, so that the file can be used from any folder.
/// UsageError for a variable that the chain does not have, a run folder that lies in the data, or paths that
/// a chain cannot hold; MissingInputError where data or weights are not there.
[[nodiscard]] std::string folder_chain_text(const FolderChain& wanted);

/// RUN/chain.cfg, written unless it is there. One that is there counts, with what the user has changed in it;
/// UsageError when it was made for other data or weights.
[[nodiscard]] std::string place_folder_chain(const FolderChain& wanted);

}  // namespace dino
