// SPDX-License-Identifier: Apache-2.0
#pragma once
// What a long computation over embeddings leaves on its way, so that a later start with the same rows and
// settings goes on near where it was: k-means (vectors/kmeans.hpp) and joins (vectors/join.hpp).

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/timing.hpp"
#include "comm/communicator.hpp"
#include "tensor/tensor.hpp"

namespace dino {

/// Named numbers and arrays in one file, with a checksum over all of them.
struct PartialState {
  std::map<std::string, double> numbers;
  std::map<std::string, Tensor> arrays;

  /// Commits the file. Throws IoError.
  void save(const std::string& path, const std::string& fingerprint) const;
  /// Empty when there is no such file, when it is damaged, or when it belongs to other rows or settings; the
  /// last two are said in the log.
  static std::optional<PartialState> load(const std::string& path, const std::string& fingerprint);
  /// Rank 0's state on all ranks. Collective.
  void broadcast(const Communicator& comm);
};

/// Names rows and settings, the same for any number of ranks: `local` [n, d] begins at global row `first`.
/// Collective.
[[nodiscard]] std::string partial_fingerprint(ConstTensorView local, int64_t first,
                                              const std::string& settings, const Communicator& comm);

/// The result is written: removes a state, or a folder of them, and the folder around it where that is empty.
/// Rank 0's work.
void remove_partial(const std::string& path);

/// When to write next: a kill costs a few seconds or two percent of the time spent, and writing at most five
/// percent.
class WritePace {
 public:
  [[nodiscard]] bool due() const;
  void wrote(double seconds);

 private:
  Stopwatch whole_, since_;
  double last_cost_ = 0;
};

/// Saves rank 0's state now and then. What cannot be written is said once; the computation goes on without.
class StateKeeper {
 public:
  /// An empty path keeps nothing.
  StateKeeper(std::string path, std::string fingerprint, const Communicator& comm);
  /// What an earlier start left, the same on all ranks. Collective.
  [[nodiscard]] std::optional<PartialState> restore();
  /// Only rank 0 keeps a state.
  [[nodiscard]] bool keeps() const { return !path_.empty() && comm_.root(); }
  [[nodiscard]] bool due() const { return keeps() && pace_.due(); }
  void save(const PartialState& state);

 private:
  std::string path_, fingerprint_;
  const Communicator& comm_;
  WritePace pace_;
};

}  // namespace dino
