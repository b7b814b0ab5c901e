// SPDX-License-Identifier: Apache-2.0
#include "vectors/lists.hpp"

#include <faiss/Clustering.h>
#include <faiss/Index.h>

#include <algorithm>
#include <exception>
#include <limits>
#include <string>

#include "base/error.hpp"
#include "base/signals.hpp"
#include "exact/ordered_gemm.hpp"
#include "vectors/scan.hpp"

namespace dino {
namespace {

constexpr int64_t kListRows = 256;
constexpr int64_t kListColumns = 256;

/// The assignment step of FAISS's Clustering. FAISS's own flat index takes the largest product from BLAS,
/// whose rounding depends on the library, the CPU and the number of threads; here it is an ordered product,
/// and the rows are shared out over the ranks.
class OrderedAssignIndex final : public faiss::Index {
 public:
  OrderedAssignIndex(int64_t width, const Communicator& comm)
      : faiss::Index(width, faiss::METRIC_INNER_PRODUCT), comm_(comm) {}

  void add(idx_t n, const float* x) override {
    centroids_.insert(centroids_.end(), x, x + n * d);
    ntotal += n;
  }
  void reset() override {
    centroids_.clear();
    ntotal = 0;
  }
  void search(idx_t n, const float* x, idx_t k, float* distances, idx_t* labels,
              const faiss::SearchParameters* /*params*/) const override {
    DINO_CHECK(k == 1, "clustering asks for one neighbour");
    const Range mine = even_range(n, comm_.rank(), comm_.size());
    const NearestLists found = nearest_lists(x + mine.begin * d, mine.size(), d, d, centroids_, 1);
    if (comm_.any(stop_requested())) throw_stopped();
    const auto all = comm_.all_gather_values<int32_t>(found.list);
    std::copy(all.begin(), all.end(), labels);
    std::fill_n(distances, n, 0.0f);  // Clustering only adds them up for its statistics
  }

 private:
  const Communicator& comm_;
  std::vector<float> centroids_;
};

/// The best lists of one row while its products arrive in blocks of ascending list number.
struct BestLists {
  float* product;
  int32_t* list;
  int64_t slots;
  void reset() const { std::fill_n(product, slots, -std::numeric_limits<float>::infinity()); }
  /// A later equal product has the larger list number, so it goes behind.
  void insert(float value, int32_t id) const {
    if (!(value > product[slots - 1])) return;
    int64_t at = slots - 1;
    for (; at > 0 && value > product[at - 1]; --at) {
      product[at] = product[at - 1];
      list[at] = list[at - 1];
    }
    product[at] = value;
    list[at] = id;
  }
  void offer(const float* products, int64_t count, int64_t first) const {
    for_each_at_least(products, count, product[slots - 1],
                      [&](int64_t j) { insert(products[j], static_cast<int32_t>(first + j)); });
  }
  /// Whether products that are off by `margin` at most leave the order of all but the last slot certain.
  [[nodiscard]] bool certain(float margin) const {
    for (int64_t s = 0; s + 1 < slots; ++s) {
      if (!(product[s] - product[s + 1] > 2 * margin)) return false;
    }
    return true;
  }
};

}  // namespace

NearestLists nearest_lists(const float* rows, int64_t n, int64_t stride, int64_t width,
                           const std::vector<float>& centroids, int64_t probes) {
  const int64_t lists = static_cast<int64_t>(centroids.size()) / width;
  DINO_CHECK(probes >= 1 && probes <= lists, "a row visits between one list and all");
  NearestLists found;
  found.list.resize(static_cast<size_t>(n * probes));
  found.product.resize(found.list.size());
  // Fast products propose; where two of them are too close to tell, the row is done again in ordered ones.
  const auto margin = static_cast<float>(2.1 * exact::rounding_of(width));
  const int64_t slots = probes + 1;  // the runner-up tells whether the last probe is certain
#pragma omp parallel if (n * lists * width > 1 << 19)
  {
    std::vector<float> tile(static_cast<size_t>(kListRows * kListColumns));
    std::vector<float> product(static_cast<size_t>(kListRows * slots));
    std::vector<int32_t> list(product.size());
    const auto best = [&](int64_t i) {
      return BestLists{product.data() + i * slots, list.data() + i * slots, slots};
    };
    const auto search = [&](int64_t first, int64_t count, auto&& gemm, int64_t slot) {
      for (int64_t i = 0; i < count; ++i) best(slot + i).reset();
      for (int64_t column = 0; column < lists; column += kListColumns) {
        const int64_t columns = std::min(kListColumns, lists - column);
        gemm(count, columns, width, rows + first * stride, stride, centroids.data() + column * width, width,
             tile.data(), columns);
        for (int64_t i = 0; i < count; ++i) best(slot + i).offer(tile.data() + i * columns, columns, column);
      }
    };
#pragma omp for schedule(dynamic)
    for (int64_t begin = 0; begin < n; begin += kListRows) {
      if (stop_requested()) continue;
      const int64_t count = std::min(kListRows, n - begin);
      search(begin, count, exact::bound_gemm_nt, 0);
      for (int64_t i = 0; i < count; ++i) {
        if (!best(i).certain(margin)) search(begin + i, 1, exact::ordered_gemm_nt, i);
        std::copy_n(best(i).list, probes, found.list.data() + (begin + i) * probes);
        std::copy_n(best(i).product, probes, found.product.data() + (begin + i) * probes);
      }
    }
  }
  return found;
}

std::vector<float> train_lists(const float* sample, int64_t n, int64_t width, int64_t lists,
                               int64_t iterations, uint64_t seed, const Communicator& comm) {
  DINO_CHECK(n >= lists && lists >= 1, "training needs a row per list");
  faiss::ClusteringParameters parameters;
  parameters.niter = static_cast<int>(iterations);
  parameters.spherical = true;
  parameters.min_points_per_centroid = 1;
  parameters.max_points_per_centroid = std::numeric_limits<int>::max();
  parameters.seed = static_cast<int>(seed & 0x7fffffff);
  faiss::Clustering clustering(static_cast<int>(width), static_cast<int>(lists), parameters);
  OrderedAssignIndex index(width, comm);
  try {
    clustering.train(n, sample, index);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw InternalError(std::string("training of the inverted lists: FAISS: ") + error.what());
  }
  return std::move(clustering.centroids);
}

}  // namespace dino
