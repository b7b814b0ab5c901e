// SPDX-License-Identifier: Apache-2.0
#include "datasets/dataset_builder.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "base/error.hpp"
#include "base/retry.hpp"
#include "base/text.hpp"
#include "base/working.hpp"
#include "datasets/tar_unpack.hpp"
#include "imaging/image.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

/// A class text is a number or a name.
constexpr int64_t kMaxClassText = 4096;
/// Class numbers above this are taken as names, so that one wrong sidecar cannot make 10^9 classes.
constexpr int64_t kMaxClassNumber = 1'000'000;
/// Lines about one tar; the rest is counted.
constexpr size_t kMostFaults = 20;

/// The class number in `text`, or -1.
int64_t class_number(const std::string& text) {
  int64_t value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && value >= 0 && value < kMaxClassNumber
             ? value
             : -1;
}

/// The folders of a path, without its last part.
std::string_view folder_of(std::string_view path) {
  const size_t slash = path.rfind('/');
  return slash == std::string_view::npos ? std::string_view() : path.substr(0, slash);
}

/// A key of a name that is too long to be one: its beginning, and what tells it from others.
std::string shortened(const TarMember& member) {
  const std::string whole = member.name + std::to_string(member.name_bytes);
  return member.name.substr(0, 100) + "~" + sha256_hex(std::as_bytes(std::span(whole))).substr(0, 16);
}

/// A tar that cannot be reached is not one without images.
std::vector<TarMember> scan_listed_tar(const std::string& path, std::vector<TarFault>& faults) {
  return retrying(path, [&] {
    static_cast<void>(listed_size(path));
    faults.clear();
    return scan_tar(path, faults);
  });
}

}  // namespace

bool names_a_part(std::string_view folder) {
  std::string name;
  for (const char c : folder) name += static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  while (!name.empty() &&
         (name.back() == '_' || name.back() == '-' || (name.back() >= '0' && name.back() <= '9')))
    name.pop_back();
  constexpr std::array<std::string_view, 8> parts = {"train",      "training", "val",     "valid",
                                                     "validation", "test",     "testing", "eval"};
  return std::find(parts.begin(), parts.end(), name) != parts.end();
}

std::string trimmed_text(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return std::string(text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin));
}

std::string class_text(std::string_view text, std::string& fault) {
  if (is_wide_text(text)) {
    fault = "a class in UTF-16 or UTF-32; save it as UTF-8";
    return {};
  }
  const std::string label = trimmed_text(without_byte_order_mark(text));
  const int64_t number = class_number(label);
  return number >= 0 ? std::to_string(number) : printable_name(label);
}

std::string base_name(std::string_view path) {
  return std::string(path.substr(path.rfind('/') + 1));
}

std::string lower_extension(std::string_view path) {
  const std::string base = base_name(path);
  const size_t dot = base.rfind('.');
  if (dot == std::string::npos || dot == 0) return {};
  std::string extension = base.substr(dot + 1);
  for (char& c : extension)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return extension;
}

std::string without_extension(std::string_view path) {
  const std::string base = base_name(path);
  const size_t dot = base.rfind('.');
  return std::string(
      path.substr(0, path.size() - (dot == std::string::npos || dot == 0 ? 0 : base.size() - dot)));
}

size_t key_length(std::string_view path) {
  const std::string extension = lower_extension(path);
  constexpr size_t kLongest = 8;
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  const bool plausible = !extension.empty() && extension.size() <= kLongest &&
                         std::all_of(extension.begin(), extension.end(),
                                     [&](char c) { return digit(c) || (c >= 'a' && c <= 'z'); }) &&
                         !std::all_of(extension.begin(), extension.end(), digit);
  return plausible ? path.size() - extension.size() - 1 : path.size();
}

std::string extension_by_content(const std::string& path) {
  const PosixFile file(path, Presence::listed);
  std::array<uint8_t, 32> first{};
  const int64_t got = file.read_some(0, first.data(), first.size());
  return std::string(image_extension_of({first.data(), static_cast<size_t>(got)}));
}

bool is_image_extension(std::string_view extension) {
  for (const std::string_view known :
       {"jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "pgm", "pbm", "pnm",
        "heic", "heif", "avif", "jxl", "jp2"})
    if (extension == known) return true;
  return false;
}

DatasetBuilder::DatasetBuilder(std::string reference, RecordListWriter* list) : list_(list) {
  dataset_.reference = std::move(reference);
  if (list_ != nullptr) first_ = list_->records();
}

void DatasetBuilder::add_source(const std::string& path) {
  if (list_ != nullptr) list_->sources().add(path);
}

void DatasetBuilder::set_uncertain() {
  if (list_ != nullptr) list_->sources().set_uncertain();
}

void DatasetBuilder::add(Record record, std::string label) {
  const LabelKind kind = class_number(label) >= 0 ? LabelKind::number : LabelKind::name;
  add_with_label(std::move(record), std::move(label), kind);
}

void DatasetBuilder::add_in_folder(Record record, std::string_view folder) {
  add_with_label(std::move(record), printable_name(folder), LabelKind::folder);
}

void DatasetBuilder::add_with_label(Record record, std::string text, LabelKind kind) {
  record.label = label_number(std::move(text), kind);
  dataset_.records.push_back(std::move(record));
}

int32_t DatasetBuilder::label_number(std::string text, LabelKind kind) {
  const auto [it, is_new] = label_numbers_.try_emplace(static_cast<char>('0' + static_cast<int>(kind)) + text,
                                                       static_cast<int32_t>(labels_.size()));
  if (is_new) labels_.push_back({std::move(text), kind});
  return it->second;
}

const std::string& DatasetBuilder::label(size_t record) const {
  return labels_[static_cast<size_t>(dataset_.records[record].label)].text;
}

/// Gives the records that are here to the list. Keys are made unique among them; the list tells whether they
/// are among all.
void DatasetBuilder::pass_on() {
  make_keys_unique();
  for (const Record& record : dataset_.records) list_->add(record);
  passed_on_ += static_cast<int64_t>(dataset_.records.size());
  dataset_.records.clear();
  dataset_.sidecars.clear();
}

void DatasetBuilder::pass_over(std::string_view name) {
  const size_t length = key_length(name);
  ++passed_[length == name.size() ? "" : lower_extension(name)];
  if (dataset_.passed_over++ == 0) first_passed_ = name;
}

void DatasetBuilder::add_tar(const std::string& path, const std::string& prefix, bool folders_are_labels) {
  try {
    add_source(path);
    std::string fault_of_copy;
    const std::string tar = unpacked_tar(path, fault_of_copy);
    if (!fault_of_copy.empty()) fault(fmt::format("{}: {}", path, fault_of_copy));
    if (list_ != nullptr && tar != path) list_->sources().add_own(tar);
    add_tar_members(tar, path, prefix, folders_are_labels);
    if (list_ != nullptr) pass_on();
  } catch (const DataError& error) {
    fault(error.what());
  }
}

void DatasetBuilder::add_tar_members(const std::string& tar, const std::string& shown,
                                     const std::string& prefix, bool folders_are_labels) {
  std::vector<TarFault> faults;
  const std::vector<TarMember> members = scan_listed_tar(tar, faults);
  const PosixFile file(tar, Presence::listed);
  const TarSamples samples = group_members(file, members);
  say_tar_faults(shown, members, samples, faults);
  const auto is_class = [](const TarSidecar& s) { return s.extension == "cls" || s.extension == "cls.txt"; };
  const bool has_classes = std::any_of(samples.sidecars.begin(), samples.sidecars.end(), is_class);
  const size_t first = dataset_.records.size();
  for (const TarImage& image : samples.images) {
    work_point();
    const TarMember& member = members[image.member];
    Record record;
    const bool long_name = member.name_bytes > kMaxName;
    record.key = prefix + "/" + printable_name(long_name ? shortened(member) : image.key);
    if (long_name)
      record.fault = fmt::format("its name has {} bytes, the limit is {}", member.name_bytes, kMaxName);
    record.path = tar;
    record.offset = member.offset;
    record.size = member.size;
    record.extension = image.extension;
    record.key_label = true;
    if (!has_classes && folders_are_labels && !long_name)
      add_in_folder(std::move(record), folder_of(image.key));
    else
      add(std::move(record), "");
  }
  for (const TarSidecar& sidecar : samples.sidecars) {
    const TarMember& member = members[sidecar.member];
    dataset_.sidecars.push_back(
        {static_cast<int64_t>(first + sidecar.image), sidecar.extension, tar, member.offset, member.size});
  }
  read_classes(file, shown, members, samples, first);
}

void DatasetBuilder::read_classes(const PosixFile& file, const std::string& shown,
                                  const std::vector<TarMember>& members, const TarSamples& samples,
                                  size_t first) {
  for (const TarSidecar& sidecar : samples.sidecars) {
    if (sidecar.extension != "cls" && sidecar.extension != "cls.txt") continue;
    const TarMember& member = members[sidecar.member];
    std::string why, text(static_cast<size_t>(std::min(member.size, kMaxClassText)), '\0');
    if (member.size > kMaxClassText) {
      why = fmt::format("a class of {} bytes", member.size);
    } else {
      file.read_exactly(member.offset, text.data(), member.size);
      text = class_text(text, why);
    }
    if (!why.empty()) {
      fault(fmt::format("{}: offset {}: {}: {}", shown, member.offset, member.name, why));
      continue;
    }
    const size_t at = first + sidecar.image;
    const LabelKind kind = class_number(text) >= 0 ? LabelKind::number : LabelKind::name;
    dataset_.records[at].label = label_number(std::move(text), kind);
    dataset_.records[at].key_label = false;
  }
}

void DatasetBuilder::say_tar_faults(const std::string& shown, const std::vector<TarMember>& members,
                                    const TarSamples& samples, const std::vector<TarFault>& faults) {
  std::vector<std::string> lines;
  for (const TarFault& f : faults)
    if (f.lost) lines.push_back(fmt::format("{}: offset {}: {}", shown, f.offset, f.what));
  const auto say_some = [&](const std::vector<size_t>& which, std::string_view what) {
    if (which.empty()) return;
    const TarMember& member = members[which[0]];
    lines.push_back(fmt::format("{}: offset {}: {}: {} such members: {}", shown, member.header,
                                member.name.substr(0, 200), which.size(), what));
  };
  say_some(samples.orphans, "passed over, as they are no images and no image has their key");
  say_some(samples.refused,
           fmt::format("left out, as a sidecar of their kind is there already, or for more than "
                       "{} bytes",
                       kMaxSidecar));
  say_some(samples.shared, "used beside another image of the same key");
  dataset_.passed_over += static_cast<int64_t>(samples.orphans.size());
  hidden_ += static_cast<int64_t>(samples.hidden.size());
  const size_t count = lines.size();
  if (count > kMostFaults) {
    lines.resize(kMostFaults);
    lines.push_back(
        fmt::format("{}: {} more faults; dino-curate lint tells them all", shown, count - kMostFaults));
  }
  for (std::string& line : lines) fault(std::move(line));
}

void DatasetBuilder::say_passed_over() {
  if (!passed_.empty()) {
    int64_t all = 0;
    std::string kinds;
    size_t shown = 0;
    for (const auto& [extension, count] : passed_) {
      all += count;
      if (++shown > 8) continue;
      kinds += fmt::format("{}{} {}", kinds.empty() ? "" : ", ", count,
                           extension.empty() ? "without extension" : "." + extension);
    }
    if (shown > 8) kinds += ", ...";
    fault(fmt::format("{}: {} files are no images and were passed over ({}), the first is {}",
                      dataset_.reference, all, kinds, first_passed_));
  }
  if (hidden_ > 0)
    fault(fmt::format("{}: {} hidden or system files were passed over", dataset_.reference, hidden_));
}

void DatasetBuilder::make_keys_unique() {
  std::unordered_set<std::string> seen;
  std::unordered_map<std::string, int64_t> copies;
  seen.reserve(dataset_.records.size());
  for (Record& record : dataset_.records) {
    if (seen.contains(record.key) && !record.extension.empty()) record.key += "." + record.extension;
    const std::string stem = record.key;
    while (!seen.insert(record.key).second) {
      int64_t& copy = copies.try_emplace(stem, 1).first->second;
      record.key = fmt::format("{}~{}", stem, ++copy);
    }
  }
}

/// Labels of folders are the first part of their path; but where the folders are train/, val/ and the like,
/// which are parts and not classes, the part below.
void DatasetBuilder::settle_folders() {
  std::set<std::string> parts, others;
  for (const Label& label : labels_) {
    if (label.kind != LabelKind::folder || label.text.empty()) continue;
    const std::string top = label.text.substr(0, label.text.find('/'));
    (names_a_part(top) ? parts : others).insert(top);
  }
  const bool split = !parts.empty() && others.empty();
  for (auto& [text, kind] : labels_) {
    if (kind != LabelKind::folder) continue;
    if (split) text = text.find('/') == std::string::npos ? "" : text.substr(text.find('/') + 1);
    text = text.substr(0, text.find('/'));
    kind = LabelKind::name;
  }
  const std::string names = fmt::format("{}/", fmt::join(parts, "/, "));
  if (split)
    fault(fmt::format(
        "{}: {} {} taken as parts of one data set, labels are the folders below; name {}/{} to take "
        "one part alone",
        dataset_.reference, names, parts.size() > 1 ? "are" : "is", dataset_.reference, *parts.begin()));
  else if (parts.size() > 1)
    fault(fmt::format(
        "{}: {} are taken as classes beside {} others; if they are parts of a data set, name {}/{}",
        dataset_.reference, names, others.size(), dataset_.reference, *parts.begin()));
}

std::vector<int32_t> DatasetBuilder::number_labels() {
  int64_t highest = -1;
  bool numbers = true;
  std::vector<std::string> names;
  for (const auto& [text, kind] : labels_) {
    if (text.empty()) continue;
    // A folder named 7 is a class of that name: 007 is another one.
    const int64_t number = kind == LabelKind::number ? class_number(text) : -1;
    numbers = numbers && number >= 0;
    highest = std::max(highest, number);
    names.push_back(text);
  }
  std::vector<int32_t> classes(labels_.size(), -1);
  if (numbers) {
    // Numbers keep their value even when some do not occur, so that two parts of a data set agree.
    for (int64_t i = 0; i <= highest; ++i) dataset_.classes.push_back(std::to_string(i));
    const auto named = static_cast<int64_t>(names_.size());
    if (highest >= 0 && highest < named) dataset_.classes = names_;
    if (named > 0 && highest >= named)
      fault(fmt::format("{}: classes.txt names {} classes, and there are numbers up to {}: they stay numbers",
                        dataset_.reference, named, highest));
    for (size_t i = 0; i < labels_.size(); ++i)
      if (!labels_[i].text.empty()) classes[i] = static_cast<int32_t>(class_number(labels_[i].text));
    return classes;
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  dataset_.classes = std::move(names);
  const auto& all = dataset_.classes;
  for (size_t i = 0; i < labels_.size(); ++i)
    if (!labels_[i].text.empty())
      classes[i] =
          static_cast<int32_t>(std::lower_bound(all.begin(), all.end(), labels_[i].text) - all.begin());
  return classes;
}

Dataset DatasetBuilder::finish() {
  say_passed_over();
  dataset_.passed_over += hidden_;
  if (dataset_.records.empty() && passed_on_ == 0)
    throw DataError(
        fmt::format("no image found: {}: {}; give a folder of images or tars, a tar, a .txt list or a name",
                    dataset_.reference, dataset_.faults.empty() ? "it holds no file" : dataset_.faults[0]));
  settle_folders();
  const std::vector<int32_t> classes = number_labels();
  if (list_ == nullptr) {
    make_keys_unique();
    for (Record& record : dataset_.records) record.label = classes[static_cast<size_t>(record.label)];
    return std::move(dataset_);
  }
  const bool in_parts = passed_on_ > 0;
  pass_on();
  if (in_parts && list_->has_repeated_keys(first_)) throw RepeatedKeys();
  list_->relabel(first_, classes);
  return std::move(dataset_);
}

}  // namespace dino
