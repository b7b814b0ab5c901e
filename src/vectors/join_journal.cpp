// SPDX-License-Identifier: Apache-2.0
#include "vectors/join_journal.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <span>

#include "base/error.hpp"
#include "base/log.hpp"
#include "base/timing.hpp"

namespace dino {
namespace {

namespace fs = std::filesystem;

template <class T>
Tensor tensor_of(const std::vector<T>& values) {
  Tensor tensor(Shape{static_cast<int64_t>(values.size())}, detail::DTypeOf<T>::value);
  std::copy(values.begin(), values.end(), tensor.as<T>());
  return tensor;
}

template <class T>
std::span<const T> array(const PartialState& state, const char* name) {
  const Tensor& tensor = state.arrays.at(name);
  return {tensor.as<T>(), static_cast<size_t>(tensor.numel())};
}

/// Names as "rows_<first>_<end>_<start>_<rank>_<number>.h5" and "lists_<start>_<rank>_<number>.h5".
struct RowFile {
  long long first = 0, end = 0, start = 0;
};
bool parse(const std::string& name, RowFile& file) {
  return std::sscanf(name.c_str(), "rows_%lld_%lld_%lld_", &file.first, &file.end, &file.start) == 3;
}
bool parse_lists(const std::string& name, long long& start) {
  return std::sscanf(name.c_str(), "lists_%lld_", &start) == 1;
}

/// Rank 0's view of the folder, the same on all ranks: names in order.
std::vector<std::string> list_files(const std::string& folder, const Communicator& comm) {
  std::string text;
  if (comm.root()) {
    std::vector<std::string> names;
    std::error_code error;
    for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
      if (it->path().extension() == ".h5") names.push_back(it->path().filename().string());
    std::sort(names.begin(), names.end());
    for (const std::string& name : names) text += name + '\n';
  }
  comm.broadcast(text);
  std::vector<std::string> names;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    names.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return names;
}

}  // namespace

JoinJournal::JoinJournal(std::string folder, std::string fingerprint, const Communicator& comm)
    : folder_(std::move(folder)), fingerprint_(std::move(fingerprint)), comm_(comm) {
  if (folder_.empty()) return;
  const std::vector<std::string> names = list_files(folder_, comm_);
  StateKeeper trained(folder_ + "/centroids.h5", fingerprint_, comm_);
  if (const auto state = trained.restore(); state && state->arrays.contains("centroids")) {
    const auto values = array<float>(*state, "centroids");
    centroids_.assign(values.begin(), values.end());
  }
  read(names);
  const int64_t lists = comm_.sum(static_cast<int64_t>(joined_.size()));
  if (lists > 0 || !row_files_.empty())
    log::info(fmt::format("join: goes on after {} lists that an earlier start has joined", lists));
}

void JoinJournal::read(const std::vector<std::string>& names) {
  long long latest = 0;
  int64_t turn = 0;
  for (const std::string& name : names) {
    RowFile rows;
    long long start = 0;
    if (parse(name, rows)) {
      row_files_.push_back(name);
      latest = std::max(latest, rows.start);
    } else if (parse_lists(name, start)) {
      latest = std::max(latest, start);
      if (turn++ % comm_.size() != comm_.rank()) continue;
      if (const auto state = PartialState::load(folder_ + "/" + name, fingerprint_)) take_edges(*state);
    }
  }
  start_ = latest + 1;
}

void JoinJournal::take_edges(const PartialState& state) {
  const auto lists = array<int64_t>(state, "lists");
  const auto source = array<int64_t>(state, "source"), target = array<int64_t>(state, "target");
  const auto similarity = array<float>(state, "similarity");
  joined_.insert(joined_.end(), lists.begin(), lists.end());
  for (size_t i = 0; i < source.size(); ++i) edges_.push_back({source[i], target[i], similarity[i]});
}

void JoinJournal::keep_centroids(const std::vector<float>& centroids) {
  if (folder_.empty() || !comm_.root()) return;
  PartialState state;
  state.arrays["centroids"] = tensor_of(centroids);
  write("centroids.h5", state);
}

void JoinJournal::recall_lists(int64_t first, int64_t probes, std::vector<int32_t>& lists,
                               std::vector<uint8_t>& known) const {
  const auto count = static_cast<int64_t>(known.size());
  for (const std::string& name : row_files_) {
    RowFile file;
    if (!parse(name, file) || file.end <= first || file.first >= first + count) continue;
    const auto state = PartialState::load(folder_ + "/" + name, fingerprint_);
    if (!state) continue;
    const auto firsts = array<int64_t>(*state, "first"), counts = array<int64_t>(*state, "count");
    const Tensor& stored = state->arrays.at("lists");
    const int32_t* from = stored.as<int32_t>();
    for (size_t p = 0; p < firsts.size(); ++p) {
      for (int64_t i = 0; i < counts[p]; ++i, from += probes) {
        const int64_t row = firsts[p] + i - first;
        if (row < 0 || row >= count) continue;
        std::copy_n(from, probes, lists.begin() + row * probes);
        known[static_cast<size_t>(row)] = 1;
      }
    }
  }
}

void JoinJournal::keep_lists(int64_t first, int64_t count, int64_t probes, const int32_t* lists) {
  if (folder_.empty()) return;
  if (new_rows_.empty() || new_rows_.back().first + new_rows_.back().count != first)
    new_rows_.push_back({first, 0, {}});
  Rows& rows = new_rows_.back();
  rows.count += count;
  rows.lists.insert(rows.lists.end(), lists, lists + count * probes);
  if (pace_.due()) flush();
}

std::vector<uint8_t> JoinJournal::joined(int64_t lists) const {
  if (folder_.empty()) return {};
  const auto all = comm_.all_gather_values<int64_t>(joined_);
  if (all.empty()) return {};
  std::vector<uint8_t> done(static_cast<size_t>(lists), 0);
  for (const int64_t list : all) done.at(static_cast<size_t>(list)) = 1;
  return done;
}

void JoinJournal::keep_edges(const std::vector<int64_t>& lists, const std::vector<Edge>& edges) {
  if (folder_.empty()) return;
  new_lists_.insert(new_lists_.end(), lists.begin(), lists.end());
  new_edges_.insert(new_edges_.end(), edges.begin(), edges.end());
  if (pace_.due()) flush();
}

void JoinJournal::flush() {
  const Stopwatch watch;
  if (!new_rows_.empty()) {
    PartialState state;
    std::vector<int64_t> first, count;
    std::vector<int32_t> lists;
    int64_t begin = new_rows_.front().first, end = 0;
    for (const Rows& rows : new_rows_) {
      first.push_back(rows.first);
      count.push_back(rows.count);
      lists.insert(lists.end(), rows.lists.begin(), rows.lists.end());
      begin = std::min(begin, rows.first);
      end = std::max(end, rows.first + rows.count);
    }
    state.arrays["first"] = tensor_of(first);
    state.arrays["count"] = tensor_of(count);
    state.arrays["lists"] = tensor_of(lists);
    write(fmt::format("rows_{}_{}_{}_{}_{}.h5", begin, end, start_, comm_.rank(), written_++), state);
    new_rows_.clear();
  }
  if (!new_lists_.empty()) {
    PartialState state;
    std::vector<int64_t> source, target;
    std::vector<float> similarity;
    for (const Edge& edge : new_edges_)
      source.push_back(edge.source), target.push_back(edge.target), similarity.push_back(edge.similarity);
    state.arrays["lists"] = tensor_of(new_lists_);
    state.arrays["source"] = tensor_of(source);
    state.arrays["target"] = tensor_of(target);
    state.arrays["similarity"] = tensor_of(similarity);
    write(fmt::format("lists_{}_{}_{}.h5", start_, comm_.rank(), written_++), state);
    new_lists_.clear();
    new_edges_.clear();
  }
  pace_.wrote(watch.seconds());
}

void JoinJournal::settle() {
  if (written_ > 0 || pace_.due()) flush();
}

void JoinJournal::write(const std::string& name, const PartialState& state) {
  if (folder_.empty()) return;
  try {
    state.save(folder_ + "/" + name, fingerprint_);
  } catch (const Error& error) {
    // Read already, so nothing else needs the folder; without it the join goes on.
    log::warning(fmt::format("{}; a later start will not be able to go on here", error.what()));
    folder_.clear();
  }
}

}  // namespace dino
