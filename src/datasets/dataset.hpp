// SPDX-License-Identifier: Apache-2.0
#pragma once
// A data reference -> the list of its records in a fixed order: a folder of images (sub-folders name the
// labels), a folder of *.tar or one tar (also .tar.gz, .tgz, .tar.zst, ...: see tar_unpack.hpp), a .txt list,
// a curated folder (manifest.json), or a name defined in share/datasets/ (fetched under $DINO_DATA, default
// ~/.cache/dinohpc). Files whose name has no image's extension are told by their first bytes; what is no
// image is counted. Names that begin with a dot are passed over, and counted too. A file of no bytes that is
// named like an image is a record, which does not decode.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dino {

struct Record {
  std::string
      key;  ///< unique within the reference: path without extension below the root, or the tar key
            ///< prefixed by the tar's name; bytes that are no printable UTF-8 as \\xNN (base/text.hpp)
  std::string path;       ///< file to open
  int64_t offset = 0;     ///< within it (tars)
  int64_t size = -1;      ///< bytes; -1 = the whole file
  int32_t label = -1;     ///< index into Dataset::classes, -1 unknown
  std::string extension;  ///< lower case, without the dot
  std::string group;  ///< records that must not be split (stem of an animation, id of a model); empty = alone
  std::string fault;  ///< why it must not be used whatever its bytes are (its name is too long)
  bool key_label = false;  ///< the label is no more than the folder in a tar's key, or there is none
};

struct Sidecar {
  int64_t record = 0;  ///< the record it belongs to
  std::string extension, path;
  int64_t offset = 0, size = 0;
};

struct Dataset {
  std::string reference;  ///< as the user gave it
  std::vector<Record> records;
  std::vector<Sidecar> sidecars;     ///< members of tars beside an image (tar_samples.hpp)
  std::vector<std::string> classes;  ///< label names in order
  std::vector<std::string>
      faults;  ///< unreadable tars and files, one line each; never fatal while anything is readable
  int64_t passed_over = 0;  ///< files and members that are no images and belong to none, or are hidden
};

/// Throws MissingInputError when the reference does not exist (naming it, and what it could have been),
/// DataError when it holds no image at all. Deterministic order: byte-wise by path. The labels of a tar come
/// from its .cls sidecars, else from the key's folder. Folders train/, val/ and the like are parts and no
/// labels: the folders below them are, and a fault says so. Numbers in .cls sidecars keep their value, and
/// are named by a classes.txt (one name a line) beside the tars, or beside the folder shards/ that holds
/// them; folders that are named by numbers are names (7 and 007 are two).
[[nodiscard]] Dataset open_dataset(const std::string& reference);

/// train, val2017, Testing: a folder's name that tells a part of a data set, and no class.
[[nodiscard]] bool names_a_part(std::string_view folder);

/// The record's bytes, whole. A file that is gone, fails, or has another size than the listing says is a
/// fault of the file system, not of the image: tried again for --retry-seconds, then IoError. DataError
/// for a record that has a fault.
[[nodiscard]] std::vector<uint8_t> read_record(const Record& record);

}  // namespace dino
