// SPDX-License-Identifier: Apache-2.0
#include "reasons.hpp"

namespace dino::curation {

const std::vector<std::string>& reason_names() {
  static const std::vector<std::string> names = {
      "kept",           "unreadable",     "not_an_image", "truncated",  "corrupt", "too_large",
      "unsupported",    "too_small",      "aspect",       "blur",       "entropy", "exact_duplicate",
      "hash_duplicate", "near_duplicate", "leak",         "leak_group", "balance", "decode_memory",
      "changed",        "bad_name",       "contrast"};
  return names;
}

const std::vector<std::string>& stage_names() {
  static const std::vector<std::string> names = {"none",          "ingest",  "embed",  "dedup",
                                                 "decontaminate", "balance", "export", "filter"};

  return names;
}

const char* name_of(Reason reason) {
  return reason_names()[static_cast<size_t>(reason)].c_str();
}

Reason reason_of(DecodeStatus status) {
  switch (status) {
    case DecodeStatus::ok:
      return Reason::kept;
    case DecodeStatus::not_an_image:
      return Reason::not_an_image;
    case DecodeStatus::truncated:
      return Reason::truncated;
    case DecodeStatus::corrupt:
      return Reason::corrupt;
    case DecodeStatus::too_large:
      return Reason::too_large;
    case DecodeStatus::unsupported:
      return Reason::unsupported;
    case DecodeStatus::memory:
      return Reason::decode_memory;
  }
  return Reason::corrupt;
}

}  // namespace dino::curation
