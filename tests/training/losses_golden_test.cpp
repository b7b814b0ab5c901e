// SPDX-License-Identifier: Apache-2.0
// The losses against losses.h5: every case that the file holds, on every backend.
#include <gtest/gtest.h>

#include <numeric>

#include "support.hpp"
#include "training/losses.hpp"

namespace dino::testing {
namespace {

constexpr double kTargets = 5e-6, kTargetsElementwise = 3e-5;
constexpr double kLoss = 2e-6, kGradient = 5e-6;
constexpr double kKoleoLoss = 5e-6, kKoleoGradient = 1e-5;
constexpr double kCentre = 2e-6;

class LossesGolden : public ::testing::TestWithParam<int> {
 protected:
  [[nodiscard]] ops::Backend& backend() const { return *all_backends()[static_cast<size_t>(GetParam())]; }
  [[nodiscard]] Tensor read(const std::string& name) const { return read_f32(file_, name); }
  [[nodiscard]] double scalar(const std::string& name) const {
    return static_cast<double>(read(name).f32()[0]);
  }

  /// Targets in place, by the mode that the group's name says.
  void make_targets(TensorView logits, const std::string& group) {
    if (group.starts_with("sinkhorn")) {
      const auto iterations = static_cast<int64_t>(file_.attribute_number("/sinkhorn", "n_iterations"));
      sinkhorn(std::array{logits}, temperature_of(group), iterations, self_, arena_, backend());
      return;
    }
    // A centre equal to its pending mean stays what it is.
    const Tensor centre = read("/dino/center_for_softmax_centering");
    const std::vector<double> c(centre.f32().begin(), centre.f32().end());
    SoftmaxCentre running(logits.dim(1), file_.attribute_number("/", "center_momentum"));
    running.restore(c, c);
    running.targets(logits, temperature_of(group), self_, arena_, backend());
  }

  /// With prototypes = I the unit features are the logits, and d_unit their gradient.
  void cross_entropy(const Tensor& logits, std::span<const TargetRows> segments,
                     const std::vector<float>& weight, Tensor& loss, Tensor& gradient) {
    const int64_t k = logits.shape()[1];
    Tensor identity(Shape{k, k}), d_identity(Shape{k, k});
    for (int64_t i = 0; i < k; ++i) identity.as<float>()[i * k + i] = 1.0F;
    loss = Tensor(Shape{logits.shape()[0]});
    gradient = Tensor(logits.shape());
    prototype_cross_entropy(logits, identity, segments, file_.attribute_number("/", "student_temp"),
                            view_of(weight.data(), Shape{logits.shape()[0]}), loss, gradient, d_identity,
                            arena_, backend());
  }

  Hdf5File file_ = Hdf5File::open(golden_dir() + "/losses.h5");
  Communicator self_ = Communicator::self();
  Arena arena_;
};

double elementwise_error(const Tensor& a, const Tensor& b) {
  double worst = 0;
  for (size_t i = 0; i < a.f32().size(); ++i) {
    const auto want = static_cast<double>(b.f32()[i]);
    if (std::abs(want) > 1e-30)
      worst = std::max(worst, std::abs(static_cast<double>(a.f32()[i]) - want) / std::abs(want));
  }
  return worst;
}

double total(const Tensor& values) {
  double sum = 0;
  for (const float value : values.f32()) sum += static_cast<double>(value);
  return sum;
}

TEST_P(LossesGolden, Sinkhorn) {
  const auto iterations = static_cast<int64_t>(file_.attribute_number("/sinkhorn", "n_iterations"));
  int cases = 0;
  for (const std::string& group : file_.list("/sinkhorn"))
    for (const std::string& name : file_.list("/sinkhorn/" + group)) {
      if (!name.starts_with("Q_T")) continue;
      const std::string path = "/sinkhorn/" + group + "/";
      Tensor q = read(path + "logits");
      const Tensor want = read(path + name);
      sinkhorn(std::array{q.view()}, temperature_of(name), iterations, self_, arena_, backend());
      expect_within(path + name, relative_error(q.f32(), want.f32()), kTargets);
      expect_within(path + name + " elementwise", elementwise_error(q, want), kTargetsElementwise);
      ++cases;
    }
  EXPECT_GT(cases, 0);
}

TEST_P(LossesGolden, Dino) {
  const auto b = static_cast<int64_t>(file_.attribute_number("/", "batch"));
  const auto crops = static_cast<int64_t>(file_.attribute_number("/", "n_local"));
  const DinoTerms terms(crops);
  EXPECT_EQ(static_cast<double>(terms.local), file_.attribute_number("/", "n_local_terms"));
  EXPECT_EQ(static_cast<double>(terms.global), file_.attribute_number("/", "n_global_terms"));
  const double pair = 1.0 / (static_cast<double>(b) * terms.total());
  const Tensor local_logits = read("/dino/student_local_logits");
  const Tensor global_logits = read("/dino/student_global_logits");
  int cases = 0;
  for (const std::string& group : file_.list("/dino")) {
    const std::string path = "/dino/" + group + "/";
    if (!file_.exists(path + "teacher_targets")) continue;
    Tensor targets = read("/dino/teacher_logits_swapped");
    make_targets(targets, group);
    expect_within(path + "teacher_targets",
                  relative_error(targets.f32(), read(path + "teacher_targets").f32()), kTargets);

    Tensor both(Shape{b, targets.shape()[1]});
    backend().axpy(1.0F, targets.view().rows(0, b), both);
    backend().axpy(1.0F, targets.view().rows(b, b), both);
    std::vector<TargetRows> segments;
    for (int64_t crop = 0; crop < crops; ++crop) segments.push_back({crop * b, both});
    Tensor loss, gradient;
    cross_entropy(local_logits, segments,
                  std::vector<float>(static_cast<size_t>(crops * b), static_cast<float>(pair)), loss,
                  gradient);
    const double want_local = scalar(path + "dino_local_crops_loss");
    expect_within(path + "local loss", std::abs(total(loss) * pair / want_local - 1), kLoss);
    expect_within(path + "local gradient",
                  relative_error(gradient.f32(), read(path + "grad_student_local_logits").f32()), kGradient);

    // The file's targets are in the order of the pairs: view 2 teaches view 1.
    const std::array<TargetRows, 1> global{TargetRows{0, targets}};
    cross_entropy(global_logits, global,
                  std::vector<float>(static_cast<size_t>(2 * b), static_cast<float>(pair)), loss, gradient);
    const double want_global = scalar(path + "dino_global_crops_loss");
    expect_within(path + "global loss", std::abs(total(loss) * pair / want_global - 1), kLoss);
    expect_within(path + "global gradient",
                  relative_error(gradient.f32(), read(path + "grad_student_global_logits").f32()), kGradient);
    ++cases;
  }
  EXPECT_GT(cases, 0);
}

TEST_P(LossesGolden, Ibot) {
  const Tensor masks = file_.read("/ibot/masks", DType::u8);
  const auto views = static_cast<int64_t>(file_.attribute_number("/ibot", "n_views"));
  const Tensor want_weight = read("/ibot/masks_weight");
  // 1 / masked patches of the view, over the number of views.
  std::vector<float> weight;
  const int64_t patches = masks.shape()[1];
  for (int64_t view = 0; view < views; ++view) {
    const uint8_t* row = masks.as<uint8_t>() + view * patches;
    const auto count = static_cast<size_t>(std::count(row, row + patches, 1));
    weight.insert(weight.end(), count, 1.0F / static_cast<float>(count));
  }
  EXPECT_LE(relative_error(weight, want_weight.f32()), 1e-7);
  std::vector<float> row_weight;
  for (const float w : weight) row_weight.push_back(w / static_cast<float>(views));

  const Tensor logits = read("/ibot/student_logits");
  int cases = 0;
  for (const std::string& group : file_.list("/ibot")) {
    const std::string path = "/ibot/" + group + "/";
    if (!file_.exists(path + "teacher_targets")) continue;
    const Tensor want_targets = read(path + "teacher_targets");
    Tensor targets = read("/ibot/teacher_logits");
    if (group.starts_with("sinkhorn")) {
      make_targets(targets, group);
      expect_within(path + "teacher_targets", relative_error(targets.f32(), want_targets.f32()), kTargets);
    } else {
      targets =
          want_targets.clone();  // the centre that was used is not in the file; /centering_ibot tests it
    }
    Tensor loss, gradient;
    const std::array<TargetRows, 1> segments{TargetRows{0, targets}};
    cross_entropy(logits, segments, row_weight, loss, gradient);
    double value = 0;
    for (size_t i = 0; i < row_weight.size(); ++i)
      value += static_cast<double>(row_weight[i]) * static_cast<double>(loss.f32()[i]);
    expect_within(path + "loss_in_total", std::abs(value / scalar(path + "loss_in_total") - 1), kLoss);
    expect_within(path + "logged", std::abs(0.5 * value / scalar(path + "ibot_loss_logged") - 1), kLoss);
    expect_within(path + "gradient", relative_error(gradient.f32(), read(path + "grad_student_logits").f32()),
                  kGradient);
    ++cases;
  }
  EXPECT_GT(cases, 0);
}

TEST_P(LossesGolden, SoftmaxCentres) {
  int calls = 0;
  for (const std::string& group : {std::string("/centering_dino"), std::string("/centering_ibot")}) {
    const double temperature = file_.attribute_number(group, "teacher_temp");
    const double momentum = file_.attribute_number("/", "center_momentum");
    SoftmaxCentre centre(read(group + "/call0/teacher_logits").shape()[1], momentum);
    for (const std::string& call : file_.list(group)) {
      if (!call.starts_with("call")) continue;
      const std::string path = group + "/" + call;
      Tensor logits = read(path + "/teacher_logits");
      centre.targets(logits, temperature, self_, arena_, backend());
      expect_within(path + " centre", relative_error(centre.centre(), read(path + "/center_used").f32()),
                    kCentre);
      expect_within(path + " targets", relative_error(logits.f32(), read(path + "/targets").f32()), kTargets);
      ++calls;
    }
    // One more call folds the last batch in.
    Tensor more = read(group + "/call0/teacher_logits");
    centre.targets(more, temperature, self_, arena_, backend());
    expect_within(group + " centre after all calls",
                  relative_error(centre.centre(), read(group + "/center_after_3_calls").f32()), kCentre);
  }
  EXPECT_GT(calls, 0);
}

TEST_P(LossesGolden, KoLeo) {
  int cases = 0;
  for (const std::string& group : file_.list("/koleo")) {
    const std::string path = "/koleo/" + group + "/";
    const bool two = file_.exists(path + "student_cls");
    const Tensor features = read(path + (two ? "student_cls" : "features"));
    const int64_t views = two ? 2 : 1;
    const int64_t rows = features.shape()[0];
    const int64_t width = features.shape()[1];
    Tensor unit(features.shape()), norm(Shape{rows}), d_unit(features.shape()), gradient(features.shape());
    backend().l2_normalize(features, 1e-8F, unit, norm);
    const double weight = two ? 0.1 : 1.0;
    const KoLeoResult result =
        koleo({unit.view().reshaped(Shape{1, views, rows / views, width}), {rows / views}}, weight,
              d_unit.view().reshaped(Shape{views, rows / views, width}), self_, arena_, backend());
    backend().l2_normalize_backward(d_unit, unit, norm, 1e-8F, gradient);
    const double want = scalar(path + (two ? "loss_in_total" : "loss"));
    expect_within(path + "loss", std::abs(weight * result.loss / want - 1), kKoleoLoss);
    expect_within(
        path + "gradient",
        relative_error(gradient.f32(), read(path + (two ? "grad_student_cls" : "grad_features")).f32()),
        kKoleoGradient);
    if (!two) {
      const Tensor neighbour = file_.read(path + "nearest_neighbour", DType::i64);
      for (int64_t i = 0; i < rows; ++i)
        EXPECT_EQ(result.neighbour[static_cast<size_t>(i)], neighbour.as<int64_t>()[i]) << path << i;
    }
    ++cases;
  }
  EXPECT_GT(cases, 0);
}

INSTANTIATE_TEST_SUITE_P(Backends, LossesGolden, ::testing::Values(0, 1),
                         [](const auto& which) { return which.param == 0 ? "reference" : "cpu"; });

}  // namespace
}  // namespace dino::testing
