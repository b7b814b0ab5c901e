// SPDX-License-Identifier: Apache-2.0
#pragma once
// xxh3 (storage/files.hpp) of bytes that come piece by piece.

#include <cstddef>
#include <cstdint>
#include <span>

namespace dino {

class Xxh3 {
 public:
  Xxh3();
  ~Xxh3();
  Xxh3(const Xxh3&) = delete;
  Xxh3& operator=(const Xxh3&) = delete;
  void update(std::span<const std::byte> bytes);
  /// What xxh3 gives for all of them.
  [[nodiscard]] uint64_t value() const;

 private:
  void* state_;
};

}  // namespace dino
