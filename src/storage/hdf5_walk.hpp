// SPDX-License-Identifier: Apache-2.0
#pragma once
// Reads all of an HDF5 file that a program may read later, and keeps nothing.

#include <array>
#include <string>

namespace dino::h5 {

/// Which object is being read: in memory that outlives a crash.
struct Place {
  std::array<char, 240> object{};
};

/// Every object that a link leads to, with its attributes; of contiguous data the first elements, of others
/// all. What the library refuses is passed over; std::bad_alloc goes through.
void walk_file(const std::string& path, Place& place);

}  // namespace dino::h5
