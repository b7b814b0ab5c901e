// SPDX-License-Identifier: Apache-2.0
// The losses against losses.h5: every case that the file holds, on every backend.
#include <gtest/gtest.h>

#include <numeric>
#include <optional>

#include "support.hpp"
#include "training/losses.hpp"
#include "training/targets.hpp"

namespace dino::testing {
namespace {

using golden::Report;

constexpr double kTargets = 5e-6, kTargetsElementwise = 3e-5;
constexpr double kLoss = 2e-6, kGradient = 5e-6;
constexpr double kKoleoLoss = 5e-6, kKoleoGradient = 1e-5;
constexpr double kCentre = 2e-6;
constexpr double kKoleoEps = 1e-8;

std::span<const float> values(const Tensor& tensor) {
  return tensor.f32();
}

std::vector<float> narrow(const std::vector<double>& values) {
  return {values.begin(), values.end()};
}

double total(const Tensor& losses) {
  return std::accumulate(losses.f32().begin(), losses.f32().end(), 0.0);
}

class LossesGolden : public ::testing::TestWithParam<int> {
 protected:
  [[nodiscard]] Tensor read(const std::string& name) const { return read_f32(file_, name); }
  /// "losses.h5/<part>" with the backend's name.
  [[nodiscard]] std::string title(const std::string& part) const {
    return std::string(GetParam() == 0 ? "reference" : "cpu") + ":losses.h5/" + part;
  }
  void check(Report& report, const std::string& quantity, std::span<const float> ours,
             const std::string& path, double tolerance) const {
    report.check_record(file_, quantity, ours, path, tolerance);
  }
  void check(Report& report, const std::string& quantity, double ours, const std::string& path,
             double tolerance) const {
    report.check_record(file_, quantity, std::span<const double>(&ours, 1), path, tolerance);
  }

  [[nodiscard]] int64_t iterations(const std::string& group) const {
    const bool own = file_.has_attribute(group, "n_iterations");
    return static_cast<int64_t>(file_.attribute_number(own ? group : "/sinkhorn", "n_iterations"));
  }
  /// The group's attribute, or the number after "T" at the end of its name: "sinkhorn_T0.07" -> 0.07.
  [[nodiscard]] double temperature(const std::string& group) const {
    if (file_.exists(group) && file_.has_attribute(group, "teacher_temp"))
      return file_.attribute_number(group, "teacher_temp");
    return std::stod(group.substr(group.rfind('T') + 1));
  }

  /// Targets in place, by the mode that the group's name says. The softmax uses the file's one centre.
  void make_targets(TensorView logits, const std::string& group) {
    const std::string mode = group.substr(group.rfind('/') + 1);
    if (mode.starts_with("sinkhorn")) {
      make_sinkhorn_targets(c, {logits}, temperature(group), iterations(group));
      return;
    }
    ASSERT_NE(mode.find("centering"), std::string::npos) << "an unknown mode: " << group;
    const Tensor centre = read("/dino/center_for_softmax_centering");
    // A centre equal to its pending mean stays what it is.
    const std::vector<double> mean(centre.f32().begin(), centre.f32().end());
    SoftmaxCentre running(logits.dim(1), file_.attribute_number("/", "center_momentum"), c.ops.memory());
    running.restore(c.stream, {mean, mean});
    TeacherTargets targets(logits);
    running.targets(c, targets, logits.dim(0), temperature(group));
  }

  /// With prototypes = I the unit features are the logits, and d_unit their gradient.
  void cross_entropy(const Tensor& logits, std::span<const TargetRows> segments,
                     const std::vector<float>& weight, Tensor& loss, Tensor& gradient) {
    const int64_t k = logits.shape()[1];
    Tensor identity(Shape{k, k}), d_identity(Shape{k, k});
    for (int64_t i = 0; i < k; ++i) identity.as<float>()[i * k + i] = 1.0F;
    loss = Tensor(Shape{logits.shape()[0]});
    gradient = Tensor(logits.shape());
    prototype_cross_entropy(c, logits, identity, segments, file_.attribute_number("/", "student_temp"),
                            view_of(weight.data(), Shape{logits.shape()[0]}), loss, gradient, d_identity);
  }

  void check_local(Report& report, const std::string& path, const Tensor& targets, int64_t images,
                   int64_t crops, double pair);
  void check_koleo(Report& report, const std::string& path);

  Hdf5File file_ = golden::open_golden("losses.h5");
  HostPlace place_{Precision::f32, *all_backends()[static_cast<size_t>(GetParam())]};
  const Context& c = place_.c;
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

TEST_P(LossesGolden, Sinkhorn) {
  Report report(title("sinkhorn"));
  for (const std::string& group : file_.list("/sinkhorn")) {
    const std::string path = "/sinkhorn/" + group + "/";
    for (const std::string& name : file_.list("/sinkhorn/" + group)) {
      if (!name.starts_with("Q_")) continue;
      Tensor q = read(path + "logits");
      make_sinkhorn_targets(c, {q.view()}, temperature(path + name), iterations(path));
      check(report, group + "/" + name, values(q), path + name, kTargets);
      report.check(group + "/" + name + " elementwise", elementwise_error(q, read(path + name)),
                   kTargetsElementwise);
    }
  }
}

/// Every local crop of an image against both of its teacher views.
void LossesGolden::check_local(Report& report, const std::string& path, const Tensor& targets, int64_t images,
                               int64_t crops, double pair) {
  Tensor both(Shape{images, targets.shape()[1]});
  c.ops.axpy(c.stream, 1.0F, targets.view().rows(0, images), both);
  c.ops.axpy(c.stream, 1.0F, targets.view().rows(images, images), both);
  std::vector<TargetRows> segments;
  for (int64_t crop = 0; crop < crops; ++crop) segments.push_back(TargetRows::of(crop * images, both));
  const std::vector<float> weight(static_cast<size_t>(crops * images), static_cast<float>(pair));
  Tensor loss, gradient;
  cross_entropy(read("/dino/student_local_logits"), segments, weight, loss, gradient);
  check(report, "local loss", total(loss) * pair, path + "dino_local_crops_loss", kLoss);
  check(report, "local gradient", values(gradient), path + "grad_student_local_logits", kGradient);
}

TEST_P(LossesGolden, Dino) {
  const auto b = static_cast<int64_t>(file_.attribute_number("/", "batch"));
  const auto crops = static_cast<int64_t>(file_.attribute_number("/", "n_local"));
  const DinoTerms terms(crops);
  EXPECT_EQ(static_cast<double>(terms.local), file_.attribute_number("/", "n_local_terms"));
  EXPECT_EQ(static_cast<double>(terms.global), file_.attribute_number("/", "n_global_terms"));
  const double pair = 1.0 / (static_cast<double>(b) * terms.total());
  int cases = 0;
  for (const std::string& group : file_.list("/dino")) {
    const std::string path = "/dino/" + group + "/";
    if (!file_.exists(path + "teacher_targets")) continue;
    Report report(title("dino/" + group));
    Tensor targets = read("/dino/teacher_logits_swapped");
    make_targets(targets, "/dino/" + group);
    check(report, "targets", values(targets), path + "teacher_targets", kTargets);
    if (crops > 0) check_local(report, path, targets, b, crops, pair);

    // The file's targets are in the order of the pairs: view 2 teaches view 1.
    const std::array<TargetRows, 1> global{TargetRows::of(0, targets)};
    const std::vector<float> weight(static_cast<size_t>(2 * b), static_cast<float>(pair));
    Tensor loss, gradient;
    cross_entropy(read("/dino/student_global_logits"), global, weight, loss, gradient);
    check(report, "global loss", total(loss) * pair, path + "dino_global_crops_loss", kLoss);
    check(report, "global gradient", values(gradient), path + "grad_student_global_logits", kGradient);
    ++cases;
  }
  EXPECT_GT(cases, 0) << "losses.h5/dino holds no case";
}

TEST_P(LossesGolden, Ibot) {
  const Tensor masks = file_.read("/ibot/masks", DType::u8);
  const int64_t views = masks.shape()[0];
  EXPECT_EQ(static_cast<double>(views), file_.attribute_number("/ibot", "n_views"));
  // 1 / masked patches of the view, over the number of views.
  std::vector<float> weight;
  const int64_t patches = masks.shape()[1];
  for (int64_t view = 0; view < views; ++view) {
    const uint8_t* row = masks.as<uint8_t>() + view * patches;
    const auto count = static_cast<size_t>(std::count(row, row + patches, 1));
    weight.insert(weight.end(), count, 1.0F / static_cast<float>(count));
  }
  Report(title("ibot")).check("masks_weight", relative_error(weight, read("/ibot/masks_weight").f32()), 1e-7);
  std::vector<float> row_weight;
  for (const float w : weight) row_weight.push_back(w / static_cast<float>(views));

  const Tensor logits = read("/ibot/student_logits");
  int cases = 0;
  for (const std::string& group : file_.list("/ibot")) {
    const std::string path = "/ibot/" + group + "/";
    if (!file_.exists(path + "teacher_targets")) continue;
    Report report(title("ibot/" + group));
    Tensor targets = read("/ibot/teacher_logits");
    make_targets(targets, "/ibot/" + group);
    check(report, "targets", values(targets), path + "teacher_targets", kTargets);
    Tensor loss, gradient;
    const std::array<TargetRows, 1> segments{TargetRows::of(0, targets)};
    cross_entropy(logits, segments, row_weight, loss, gradient);
    double value = 0;
    for (size_t i = 0; i < row_weight.size(); ++i)
      value += static_cast<double>(row_weight[i]) * static_cast<double>(loss.f32()[i]);
    check(report, "loss", value, path + "loss_in_total", kLoss);
    check(report, "logged loss", 0.5 * value, path + "ibot_loss_logged", kLoss);
    check(report, "gradient", values(gradient), path + "grad_student_logits", kGradient);
    ++cases;
  }
  EXPECT_GT(cases, 0) << "losses.h5/ibot holds no case";
}

TEST_P(LossesGolden, SoftmaxCentres) {
  int groups = 0;
  for (const std::string& name : file_.list("/")) {
    if (!name.starts_with("centering_")) continue;
    const std::string group = "/" + name;
    Report report(title(name));
    const double momentum = file_.attribute_number("/", "center_momentum");
    std::optional<SoftmaxCentre> centre;
    int calls = 0;
    for (; file_.exists(group + "/call" + std::to_string(calls)); ++calls) {
      const std::string path = group + "/call" + std::to_string(calls) + "/";
      Tensor logits = read(path + "teacher_logits");
      if (!centre) centre.emplace(logits.shape()[1], momentum, c.ops.memory());
      TeacherTargets targets(logits);
      centre->targets(c, targets, logits.shape()[0], temperature(group));
      check(report, "centre used", narrow(centre->state(c.stream).centre), path + "center_used", kCentre);
      check(report, "targets", values(logits), path + "targets", kTargets);
    }
    ASSERT_GT(calls, 0) << group << " holds no call";
    // One more call folds the last batch in.
    Tensor more = read(group + "/call0/teacher_logits");
    TeacherTargets of_more(more);
    centre->targets(c, of_more, more.shape()[0], temperature(group));
    check(report, "centre after all calls", narrow(centre->state(c.stream).centre),
          group + "/center_after_" + std::to_string(calls) + "_calls", kCentre);
    ++groups;
  }
  EXPECT_GT(groups, 0) << "losses.h5 holds no centring";
}

/// One view ("features"), or the objective's two views with their weight ("student_cls").
void LossesGolden::check_koleo(Report& report, const std::string& path) {
  const bool two = file_.exists(path + "student_cls");
  const Tensor features = read(path + (two ? "student_cls" : "features"));
  const int64_t views = two ? 2 : 1;
  const int64_t rows = features.shape()[0];
  const int64_t width = features.shape()[1];
  double weight = 1;
  if (two) {  // "one view; total adds 0.1*(view1+view2); ..."
    const std::string note = file_.attribute_string("/koleo", "note");
    weight = std::stod(note.substr(note.find("adds ") + 5));
  }
  Tensor unit(features.shape()), norm(Shape{rows}), d_unit(features.shape()), gradient(features.shape());
  c.ops.l2_normalize(c.stream, features, static_cast<float>(kKoleoEps), unit, norm);
  Tensor loss(Shape{1}, DType::f64), found(Shape{views, rows / views}, DType::i64);
  koleo(c, unit.view().reshaped(Shape{views, rows / views, width}), {{rows / views}, 0}, weight, loss,
        d_unit.view().reshaped(Shape{views, rows / views, width}), found);
  c.ops.l2_normalize_backward(c.stream, d_unit, unit, norm, static_cast<float>(kKoleoEps), gradient);
  check(report, "loss", weight * loss.as<double>()[0], path + (two ? "loss_in_total" : "loss"), kKoleoLoss);
  check(report, "gradient", values(gradient), path + (two ? "grad_student_cls" : "grad_features"),
        kKoleoGradient);
  if (two) {
    check(report, "logged loss", 0.5 * weight * loss.as<double>()[0], path + "koleo_loss_logged", kKoleoLoss);
    return;
  }
  const Tensor neighbour = file_.read(path + "nearest_neighbour", DType::i64);
  int64_t different = 0;
  for (int64_t i = 0; i < rows; ++i)
    different += found.as<int64_t>()[i] != neighbour.as<int64_t>()[i] ? 1 : 0;
  report.check("neighbours", static_cast<double>(different), 0);
}

TEST_P(LossesGolden, KoLeo) {
  EXPECT_EQ(file_.attribute_number("/koleo", "eps"), kKoleoEps);
  const std::vector<std::string> groups = file_.list("/koleo");
  EXPECT_FALSE(groups.empty()) << "losses.h5/koleo holds no case";
  for (const std::string& group : groups) {
    Report report(title("koleo/" + group));
    check_koleo(report, "/koleo/" + group + "/");
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, LossesGolden, ::testing::Values(0, 1),
                         [](const auto& which) { return which.param == 0 ? "reference" : "cpu"; });

}  // namespace
}  // namespace dino::testing
