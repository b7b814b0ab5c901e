// SPDX-License-Identifier: Apache-2.0
// Pictures of a curation: pairs on both sides of the duplicate threshold, kept samples, clusters.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <tuple>

#include "base/error.hpp"
#include "base/text.hpp"
#include "datasets/dataset.hpp"
#include "report/data.hpp"
#include "storage/files.hpp"
#include "storage/hdf5.hpp"
#include "vectors/neighbours.hpp"

namespace dino::eval {

namespace {

// The columns of a larger ledger would not fit a report's memory; and nobody looks at more pictures than
// these.
constexpr int64_t kLargestLedger = 2'000'000, kLargestPicture = 24'000'000;
constexpr size_t kPairs = 12, kCandidates = 400, kKept = 36, kClusters = 10, kClusterMembers = 8;
constexpr double kJustBelow = 0.1;
constexpr int64_t kSample = 4096, kBlock = 256;  // images among which pairs below the threshold are sought

template <class T>
std::vector<T> column(const Hdf5File& file, const std::string& name, DType dtype, int64_t rows) {
  const Tensor values = file.read(name, dtype);
  if (values.numel() != rows)
    throw DataError(
        fmt::format("reading a curation: {}: {} has {} rows instead of {}; run dino-curate report again",
                    file.path(), name, values.numel(), rows));
  return {values.as<T>(), values.as<T>() + rows};
}

/// What the pictures need of ledger.h5.
class LedgerView {
 public:
  LedgerView(const std::string& folder, int64_t records)
      : folder_(folder), file_(Hdf5File::open(folder + "/ledger.h5")), rows_(records) {
    key_ = texts("/key");
    location_ = texts("/location");
    bytes_ = column<int64_t>(file_, "/bytes", DType::i64, rows_);
    width_ = column<int64_t>(file_, "/width", DType::i64, rows_);
    height_ = column<int64_t>(file_, "/height", DType::i64, rows_);
    reason_ = column<int64_t>(file_, "/reason", DType::i64, rows_);
    names_ = file_.attribute_strings("/reason", "names");
    if (file_.exists("/exported")) exported_ = texts("/exported");
  }

  [[nodiscard]] int64_t rows() const { return rows_; }
  [[nodiscard]] bool kept(int64_t row) const { return reason_[static_cast<size_t>(row)] == 0; }
  [[nodiscard]] const std::string& key(int64_t row) const { return key_[static_cast<size_t>(row)]; }
  [[nodiscard]] std::vector<int64_t> clusters() const {
    return file_.exists("/cluster/level1") ? column<int64_t>(file_, "/cluster/level1", DType::i64, rows_)
                                           : std::vector<int64_t>();
  }

  /// Empty where it cannot be read, or is so large that decoding it would take long.
  [[nodiscard]] Image thumbnail(int64_t row) {
    const auto at = static_cast<size_t>(row);
    if (width_[at] * height_[at] > kLargestPicture) return {0, 0, 3, {}};
    const auto [path, offset] = place(location_[at]);
    Image image = curated_thumbnail(path, offset, bytes_[at]);
    return image.width > 0 ? image : from_shards(at);
  }

  [[nodiscard]] DuplicateGroup::Member member(int64_t row) {
    const auto reason = static_cast<size_t>(reason_[static_cast<size_t>(row)]);
    return {key(row), 1, reason < names_.size() ? names_[reason] : "unknown", thumbnail(row)};
  }

 private:
  std::vector<std::string> texts(const std::string& name) {
    std::vector<std::string> values = file_.read_strings(name);
    if (static_cast<int64_t>(values.size()) != rows_)
      throw DataError(
          fmt::format("reading a curation: {}: {} has {} rows instead of {}; run dino-curate report again",
                      file_.path(), name, values.size(), rows_));
    return values;
  }

  /// "path" or "path@offset" -> both. A file may be named like the second.
  static std::pair<std::string, int64_t> place(const std::string& location) {
    const std::string whole = raw_name(location);
    const size_t at = whole.rfind('@');
    int64_t offset = 0;
    if (at == std::string::npos || path_exists(whole)) return {whole, 0};
    const char* end = whole.data() + whole.size();
    const auto [stop, fault] = std::from_chars(whole.data() + at + 1, end, offset);
    return fault == std::errc() && stop == end ? std::pair(whole.substr(0, at), offset)
                                               : std::pair(whole, int64_t{0});
  }

  /// A kept image whose source has moved is still in the curation's own tars.
  Image from_shards(size_t row) {
    if (row >= exported_.size() || exported_[row].empty()) return {0, 0, 3, {}};
    if (!shards_) {
      shards_.emplace();
      try {
        for (Record& record : open_dataset(folder_).records) {
          const std::string name = record.key.substr(record.key.rfind('/') + 1);
          shards_->emplace(name, std::move(record));
        }
      } catch (const Error&) {  // the tars were moved too: a gap in the gallery, not a failed report
        shards_->clear();
      }
    }
    const std::string& name = exported_[row];
    const auto it = shards_->find(name.substr(name.rfind('/') + 1));
    return it == shards_->end() ? Image{0, 0, 3, {}}
                                : curated_thumbnail(it->second.path, it->second.offset, it->second.size);
  }

  std::string folder_;
  Hdf5File file_;
  int64_t rows_;
  std::vector<std::string> key_, location_, exported_, names_;
  std::vector<int64_t> bytes_, width_, height_, reason_;
  std::optional<std::map<std::string, Record>> shards_;
};

struct Candidate {
  float similarity;
  int64_t first, second;  ///< rows of the ledger
};

/// The first pairs whose pictures can be drawn, each image at most once.
std::vector<CurationPictures::Pair> draw(const std::vector<Candidate>& candidates, LedgerView& ledger) {
  std::vector<CurationPictures::Pair> pairs;
  std::set<int64_t> used;
  for (const Candidate& c : candidates) {
    if (pairs.size() == kPairs) break;
    if (used.contains(c.first) || used.contains(c.second)) continue;
    CurationPictures::Pair pair{ledger.key(c.first), ledger.key(c.second), ledger.thumbnail(c.first),
                                ledger.thumbnail(c.second), static_cast<double>(c.similarity)};
    if (pair.a.width == 0 || pair.b.width == 0) continue;
    used.insert({c.first, c.second});
    pairs.push_back(std::move(pair));
  }
  return pairs;
}

int64_t ledger_row(const std::vector<int64_t>& row_of, int64_t embedding, int64_t rows,
                   const Hdf5File& file) {
  const bool inside = embedding >= 0 && embedding < static_cast<int64_t>(row_of.size());
  const int64_t row = inside ? row_of[static_cast<size_t>(embedding)] : -1;
  if (row < 0 || row >= rows)
    throw DataError(
        fmt::format("reading a curation: {}: it names rows that the ledger does not have; run dino-curate "
                    "run again",
                    file.path()));
  return row;
}

/// The duplicates that are nearest to the threshold, from all edges, a block at a time.
std::vector<Candidate> lowest_edges(const Hdf5File& file, const std::vector<int64_t>& row_of, int64_t rows) {
  constexpr int64_t kEdges = 1 << 20;
  const int64_t count = file.info("/edges/similarity").shape.numel();
  const auto order = [](const Candidate& a, const Candidate& b) {
    return std::tie(a.similarity, a.first, a.second) < std::tie(b.similarity, b.first, b.second);
  };
  std::vector<Candidate> lowest;
  for (int64_t begin = 0; begin < count; begin += kEdges) {
    const int64_t n = std::min(kEdges, count - begin);
    Tensor source(Shape{n}, DType::i64), target(Shape{n}, DType::i64), similarity(Shape{n});
    file.read_rows("/edges/source", begin, source);
    file.read_rows("/edges/target", begin, target);
    file.read_rows("/edges/similarity", begin, similarity);
    for (int64_t i = 0; i < n; ++i)
      lowest.push_back({similarity.as<float>()[i], source.as<int64_t>()[i], target.as<int64_t>()[i]});
    std::sort(lowest.begin(), lowest.end(), order);
    lowest.resize(std::min(lowest.size(), kCandidates));
  }
  for (Candidate& c : lowest) {
    c.first = ledger_row(row_of, c.first, rows, file);
    c.second = ledger_row(row_of, c.second, rows, file);
  }
  return lowest;
}

/// Nearest neighbours among images that deduplication kept: no pair of them reached the threshold. In blocks
/// spread over the embeddings, so that a large curation is not read whole.
std::vector<Candidate> highest_below(const std::string& path, const std::vector<uint8_t>& keep,
                                     const std::vector<int64_t>& row_of, double threshold, int64_t rows) {
  const Hdf5File file = Hdf5File::open(path);
  const std::vector<int64_t> dims = file.info("/features").dims;
  const auto n = static_cast<int64_t>(keep.size());
  if (dims.size() != 2 || dims[0] != n || dims[1] < 1 || dims[1] > (1 << 20))
    throw DataError(fmt::format(
        "reading a curation: {}: /features does not go with /row; run dino-curate run again", path));
  const int64_t width = dims[1], blocks = std::min((n + kBlock - 1) / kBlock, kSample / kBlock);
  std::vector<float> bank;
  std::vector<int64_t> places;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t begin = n <= kSample ? b * kBlock : b * (n - kBlock) / std::max<int64_t>(1, blocks - 1);
    const int64_t count = std::min(kBlock, n - begin);
    Tensor block(Shape{count, width});
    file.read_rows("/features", begin, block);
    for (int64_t i = 0; i < count; ++i) {
      if (keep[static_cast<size_t>(begin + i)] == 0) continue;
      places.push_back(begin + i);
      bank.insert(bank.end(), block.as<float>() + i * width, block.as<float>() + (i + 1) * width);
    }
  }
  const auto m = static_cast<int64_t>(places.size());
  if (m < 2) return {};
  const ConstTensorView view = view_of(std::as_const(bank).data(), Shape{m, width});
  const int64_t k = std::min<int64_t>(m, 3);
  const Neighbours found = nearest(view, view, k);
  std::vector<Candidate> pairs;
  std::set<std::pair<int64_t, int64_t>> seen;
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < k; ++j) {
      const auto at = static_cast<size_t>(i * k + j);
      const int64_t other = found.index[at];
      const auto similarity = static_cast<double>(found.similarity[at]);
      if (other == i || similarity >= threshold || similarity < threshold - kJustBelow) continue;
      const auto [low, high] =
          std::minmax(places[static_cast<size_t>(i)], places[static_cast<size_t>(other)]);
      if (seen.insert({low, high}).second)
        pairs.push_back({found.similarity[at], ledger_row(row_of, low, rows, file),
                         ledger_row(row_of, high, rows, file)});
    }
  std::sort(pairs.begin(), pairs.end(), [](const Candidate& a, const Candidate& b) {
    return std::tie(b.similarity, a.first, a.second) < std::tie(a.similarity, b.first, b.second);
  });
  pairs.resize(std::min(pairs.size(), kCandidates));
  return pairs;
}

void read_pairs(const std::string& folder, LedgerView& ledger, CurationPictures& pictures) {
  const std::string path = folder + "/dedup.h5", embeddings = folder + "/embeddings.h5";
  if (!path_exists(path)) {
    pictures.note += "Pairs around the threshold are not drawn: there is no dedup.h5. ";
    return;
  }
  const Hdf5File file = Hdf5File::open(path);
  const int64_t n = file.info("/keep").shape.numel();
  const auto keep = column<uint8_t>(file, "/keep", DType::u8, n);
  const auto row_of = column<int64_t>(file, "/row", DType::i64, n);
  pictures.threshold = file.attribute_number("/", "threshold");
  pictures.above = draw(lowest_edges(file, row_of, ledger.rows()), ledger);
  if (path_exists(embeddings)) {
    // Filters stand between the two: only some of the rows that have an embedding were compared.
    std::vector<uint8_t> stays(static_cast<size_t>(ledger.rows()), 0);
    for (size_t i = 0; i < keep.size(); ++i)
      stays[static_cast<size_t>(ledger_row(row_of, static_cast<int64_t>(i), ledger.rows(), file))] = keep[i];
    const Hdf5File store = Hdf5File::open(embeddings);
    const auto embedded = column<int64_t>(store, "/row", DType::i64, store.info("/row").shape.numel());
    std::vector<uint8_t> compared;
    for (size_t i = 0; i < embedded.size(); ++i)
      compared.push_back(
          stays[static_cast<size_t>(ledger_row(embedded, static_cast<int64_t>(i), ledger.rows(), store))]);
    pictures.below =
        draw(highest_below(embeddings, compared, embedded, pictures.threshold, ledger.rows()), ledger);
  } else {
    pictures.note += "Pairs below the threshold are not drawn: there is no embeddings.h5. ";
  }
}

void read_kept(LedgerView& ledger, CurationPictures& pictures) {
  std::vector<int64_t> rows;
  for (int64_t row = 0; row < ledger.rows(); ++row)
    if (ledger.kept(row)) rows.push_back(row);
  const size_t n = rows.size(), wanted = std::min(n, kKept);
  for (size_t i = 0; i < wanted; ++i) {
    DuplicateGroup::Member member = ledger.member(rows[i * n / wanted]);
    if (member.image.width > 0) pictures.kept.push_back(std::move(member));
  }
}

void read_clusters(LedgerView& ledger, CurationPictures& pictures) {
  const std::vector<int64_t> cluster = ledger.clusters();
  std::map<int64_t, std::vector<int64_t>> rows_of;
  for (size_t row = 0; row < cluster.size(); ++row)
    if (cluster[row] >= 0) rows_of[cluster[row]].push_back(static_cast<int64_t>(row));
  std::vector<const std::vector<int64_t>*> order;
  for (const auto& [id, rows] : rows_of)
    if (rows.size() >= 3) order.push_back(&rows);
  std::stable_sort(order.begin(), order.end(),
                   [](const auto* a, const auto* b) { return a->size() > b->size(); });
  const size_t n = order.size(), wanted = std::min(n, kClusters);
  for (size_t i = 0; i < wanted; ++i) {
    // From the largest to the smallest, spread over their ranks.
    std::vector<int64_t> rows = *order[wanted == 1 ? 0 : i * (n - 1) / (wanted - 1)];
    CurationPictures::Cluster out;
    out.size = static_cast<int64_t>(rows.size());
    std::stable_partition(rows.begin(), rows.end(), [&](int64_t row) { return ledger.kept(row); });
    for (const int64_t row : rows) out.kept += ledger.kept(row) ? 1 : 0;
    for (size_t j = 0; j < std::min(rows.size(), kClusterMembers); ++j) {
      DuplicateGroup::Member member = ledger.member(rows[j]);
      if (member.image.width > 0) out.members.push_back(std::move(member));
    }
    if (!out.members.empty()) pictures.clusters.push_back(std::move(out));
  }
}

}  // namespace

CurationPictures read_curation_pictures(const std::string& folder, int64_t records) {
  CurationPictures pictures;
  if (!path_exists(folder + "/ledger.h5"))
    pictures.note = "Kept samples, pairs and clusters are not drawn: there is no ledger.h5. ";
  else if (records > kLargestLedger)
    pictures.note = fmt::format(
        "Kept samples, pairs and clusters are drawn for curations of at most {} records. ", kLargestLedger);
  if (!pictures.note.empty()) return pictures;
  LedgerView ledger(folder, records);
  read_pairs(folder, ledger, pictures);
  read_kept(ledger, pictures);
  read_clusters(ledger, pictures);
  return pictures;
}

}  // namespace dino::eval
