// SPDX-License-Identifier: Apache-2.0
// Whole training steps against train_steps.h5: losses, gradient norms, gradients, weights, teacher, centres.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>

#include "host_model.hpp"
#include "support.hpp"
#include "training/engine.hpp"

namespace dino::testing {
namespace {

constexpr double kStepLoss = 1e-5, kNorm = 2e-5, kStepGradient = 3e-5, kKeyBiasAbsolute = 5e-5;
constexpr double kWeightRms = 2e-6, kWeightOutlier = 2e-5, kOutlierFraction = 1e-3;
constexpr double kTeacher = 5e-6, kStepCentre = 2e-6;

/// Below this part of a tensor's largest gradient an element is rounding noise in f32. Adam's first step is
/// lr g / (|g| + eps): for such an element any two implementations differ by up to 2 lr.
constexpr double kNoise = 1e-6;

/// Adam divides the key biases' gradient, which is exactly zero, by its own size: they wander freely.
bool key_bias(const std::string& name, int64_t index, int64_t width) {
  return name.ends_with("qkv.bias") && index >= width && index < 2 * width;
}

using golden::Report;

class TrainStepsGolden : public ::testing::Test {
 protected:
  [[nodiscard]] double number(const std::string& name) const { return file_.attribute_number("/", name); }
  [[nodiscard]] int64_t integer(const std::string& name) const { return static_cast<int64_t>(number(name)); }
  [[nodiscard]] Shape shape(const std::string& name) const { return file_.info("/weights/" + name).shape; }

  /// Groups that hold a run.
  [[nodiscard]] std::vector<std::string> modes() const {
    std::vector<std::string> found;
    for (const std::string& name : file_.list("/"))
      if (file_.exists("/" + name + "/losses")) found.push_back(name);
    return found;
  }
  static bool is_sinkhorn(const std::string& mode) { return mode.starts_with("sinkhorn"); }

  [[nodiscard]] HeadConfig head(const std::string& module) const {
    HeadConfig config;
    config.layers = 0;
    std::string first;
    for (const std::string& name : file_.list("/weights")) {
      if (!name.starts_with(module + ".mlp.") || !name.ends_with(".weight")) continue;
      if (config.layers++ == 0) first = name;
    }
    config.input = shape(first)[1];
    config.hidden = shape(first)[0];
    config.prototypes = shape(module + ".last_layer.weight_v")[0];
    config.bottleneck = shape(module + ".last_layer.weight_v")[1];
    return config;
  }

  [[nodiscard]] VitConfig backbone() const {
    VitConfig vit;
    vit.patch = integer("patch_size");
    vit.width = integer("embed_dim");
    vit.depth = integer("depth");
    vit.heads = integer("num_heads");
    vit.ffn = file_.attribute_string("/", "ffn") == "mlp" ? FfnKind::mlp : FfnKind::swiglu;
    vit.hidden = vit.ffn == FfnKind::mlp ? shape("backbone.blocks.0.mlp.fc1.weight")[0]
                                         : shape("backbone.blocks.0.mlp.w12.weight")[0] / 2;
    vit.registers = integer("num_register_tokens");
    vit.position_grid = integer("img_size") / vit.patch;
    vit.position_kernel =
        integer("interpolate_antialias") != 0 ? PositionKernel::antialias : PositionKernel::scale_offset;
    vit.interpolate_offset = number("interpolate_offset");
    vit.layerscale = file_.exists("/weights/backbone.blocks.0.ls1.gamma") ? 1 : 0;
    return vit;
  }

  [[nodiscard]] TrainingConfig config(const std::string& mode) const {
    TrainingConfig settings;
    settings.vit = backbone();
    settings.objective.dino_head = head("dino_head");
    settings.objective.separate_ibot_head = integer("separate_ibot_head") != 0;
    if (settings.objective.separate_ibot_head) settings.objective.ibot_head = head("ibot_head");
    settings.objective.dino_weight = number("dino_weight");
    settings.objective.ibot_weight = number("ibot_weight");
    settings.objective.koleo_weight = number("koleo_weight");
    settings.objective.centering = is_sinkhorn(mode) ? Centering::sinkhorn : Centering::softmax;
    settings.objective.student_temperature = number("student_temp");
    settings.objective.centre_momentum = number("center_momentum");
    settings.optimizer.clip = number("clip_grad");
    settings.optimizer.beta1 = number("beta1");
    settings.optimizer.beta2 = number("beta2");
    settings.optimizer.adam_eps = number("adam_eps");
    settings.optimizer.layer_decay = number("layerwise_decay");
    settings.optimizer.patch_embed_lr_mult = number("patch_embed_lr_mult");
    settings.local_crops = integer("n_local");
    return settings;
  }

  void load(Engine& model) const {
    size_t loaded = 0;
    for (const std::string& name : file_.list("/weights")) {
      const Tensor values = read_f32(file_, "/weights/" + name);
      for (ShardedValues* store : {&model.state().student_values(), &model.state().teacher_values()}) {
        const std::span<float> to = store->view(name).f32();
        ASSERT_EQ(to.size(), values.f32().size()) << name;
        std::copy(values.f32().begin(), values.f32().end(), to.begin());
      }
      ++loaded;
    }
    ASSERT_EQ(loaded, model.layout().parameters().size());
  }

  [[nodiscard]] StepSchedule schedule(int64_t step) const {
    const auto at = [&](const char* name) {
      return file_.read(std::string("/schedule/") + name, DType::f64).as<double>()[step];
    };
    return {at("lr"), at("last_layer_lr"), at("weight_decay"), at("ema_momentum"), at("teacher_temp")};
  }

  void check_gradients(Report& report, Engine& model, const std::string& group) const {
    for (const std::string& name : file_.list(group)) {
      Tensor want = read_f32(file_, group + "/" + name);
      const TensorView got = model.state().gradient_values().view(name);
      std::vector<float> a(got.f32().begin(), got.f32().end());
      ASSERT_EQ(a.size(), want.f32().size()) << name;
      double key = 0;
      for (int64_t i = 0; i < want.numel(); ++i)
        if (key_bias(name, i, model.config().vit.width)) {
          key = std::max(key, static_cast<double>(std::abs(a[static_cast<size_t>(i)])));
          a[static_cast<size_t>(i)] = want.as<float>()[i] = 0;
        }
      report.check("gradients of the first step", relative_error(a, want.f32()), kStepGradient, name);
      if (name.ends_with("qkv.bias"))
        report.check("gradients of the key biases, absolute", key, kKeyBiasAbsolute, name);
    }
  }

  /// Takes over the reference's first step of the few elements whose gradient is noise, so that the later
  /// steps can be held to tight tolerances.
  void adopt_noise(Engine& model, const std::string& gradients) const {
    int64_t adopted = 0;
    for (const std::string& name : file_.list(gradients)) {
      const Tensor gradient = read_f32(file_, gradients + "/" + name);
      const Tensor after = read_f32(weights_, "/student_after_step1/" + name);
      const std::span<float> student = model.state().student_values().view(name).f32();
      float largest = 0;
      for (const float g : gradient.f32()) largest = std::max(largest, std::abs(g));
      for (int64_t i = 0; i < gradient.numel(); ++i) {
        if (key_bias(name, i, model.config().vit.width)) continue;
        if (static_cast<double>(std::abs(gradient.as<float>()[i])) > kNoise * static_cast<double>(largest))
          continue;
        if (student[static_cast<size_t>(i)] == after.as<float>()[i]) continue;
        student[static_cast<size_t>(i)] = after.as<float>()[i];
        ++adopted;
      }
    }
    // Elements without any gradient take a step of zero here and there.
    EXPECT_LE(static_cast<double>(adopted), 1e-4 * static_cast<double>(model.layout().count()));
  }

  /// Calls `compare` with our values and the recorded ones of every tensor of a group, in fp32 and fp64.
  /// Key biases are left out.
  void for_each_record(
      ShardedValues& store, const std::string& group,
      const std::function<void(const std::string&, const std::vector<double>&)>& compare) const {
    const int64_t width = backbone().width;
    for (const std::string& root : {std::string(), std::string("/fp64")}) {
      for (const std::string& name : weights_.list(root + group)) {
        const Tensor want = weights_.read(root + group + "/" + name, DType::f64);
        const std::span<const float> got = store.view(name).f32();
        ASSERT_EQ(static_cast<int64_t>(got.size()), want.numel()) << name;
        std::vector<double> errors;
        for (int64_t i = 0; i < want.numel(); ++i)
          if (!key_bias(name, i, width))
            errors.push_back(
                std::abs(static_cast<double>(got[static_cast<size_t>(i)]) - want.as<double>()[i]));
        compare(root + group + "/" + name, errors);
      }
    }
  }

  void check_student(ShardedValues& store, const std::string& group) const {
    Report report("train_steps_weights.h5" + group);
    for_each_record(store, group, [&](const std::string& name, const std::vector<double>& errors) {
      double squares = 0, outliers = 0;
      for (const double error : errors) {
        squares += error * error;
        outliers += error > kWeightOutlier ? 1 : 0;
      }
      const auto count = static_cast<double>(errors.size());
      report.check("rms", std::sqrt(squares / count), kWeightRms, name);
      report.check("fraction above 2e-5", outliers / count, kOutlierFraction, name);
    });
  }

  void check_teacher(ShardedValues& store, const std::string& group) const {
    Report report("train_steps_weights.h5" + group);
    for_each_record(store, group, [&](const std::string& name, const std::vector<double>& errors) {
      report.check("absolute", *std::max_element(errors.begin(), errors.end()), kTeacher, name);
    });
  }

  /// The weights' file is of the Sinkhorn run, or of the only one.
  [[nodiscard]] std::string mode_of_weights() const {
    for (const std::string& mode : modes())
      if (is_sinkhorn(mode)) return mode;
    return modes().front();
  }

  void check_weights(Engine& model, int64_t step, const std::string& gradients) const {
    const std::string after = "_after_step" + std::to_string(step);
    if (step == 1 && weights_.exists("/student" + after) && file_.exists(gradients))
      adopt_noise(model, gradients);
    if (weights_.exists("/student" + after))
      check_student(model.state().student_values(), "/student" + after);
    if (weights_.exists("/teacher" + after))
      check_teacher(model.state().teacher_values(), "/teacher" + after);
  }

  /// All steps of one mode.
  void run(const std::string& mode) {
    const Communicator self = Communicator::self();
    HostModel model(config(mode), self);
    load(model);
    Report report("train_steps.h5/" + mode);
    const std::string gradients = "/" + mode + "/grads_step0_before_clip";
    const std::vector<std::string> terms = words(file_.attribute_string("/", "loss_columns"));
    const std::vector<std::string> modules = words(file_.attribute_string("/", "modules"));
    std::map<std::string, std::vector<double>> losses, norms;
    for (int64_t step = 0; step < integer("steps"); ++step) {
      const std::string data = "/data/step" + std::to_string(step) + "/";
      const Tensor global = read_f32(file_, data + "global_crops");
      Tensor local;
      if (integer("n_local") > 0) local = read_f32(file_, data + "local_crops");
      const Tensor masks = file_.read(data + "masks", DType::u8);
      const StepBatch batch{integer("batch"), global, local, masks};
      const StepResult result = model.forward_backward(batch, schedule(step), {});
      EXPECT_TRUE(result.finite);
      for (const std::string& term : terms) losses[term].push_back(loss(result.losses, term));
      for (const std::string& module : modules) norms[module].push_back(norm(result, module));
      if (step == 0 && file_.exists(gradients)) check_gradients(report, model, gradients);
      model.update(schedule(step), step + 1);
      if (mode == mode_of_weights()) check_weights(model, step + 1, gradients);
    }
    for (size_t c = 0; c < terms.size(); ++c)
      check_column(report, losses.at(terms[c]), "/" + mode + "/losses", c, terms[c], kStepLoss);
    for (size_t c = 0; c < modules.size(); ++c)
      check_column(report, norms.at(modules[c]), "/" + mode + "/grad_norms_before_clip", c,
                   "gradient norm of " + modules[c], kNorm);
    check_centres(report, model, mode);
  }

  /// One column of a recorded table [steps, columns].
  void check_column(Report& report, const std::vector<double>& ours, const std::string& path, size_t column,
                    const std::string& quantity, double tolerance) const {
    for (const std::string& record : {path, "/fp64" + path}) {
      if (!file_.exists(record)) continue;
      const Tensor table = file_.read(record, DType::f64);
      ASSERT_LT(static_cast<int64_t>(column), table.shape()[1]) << record;
      std::vector<double> want;
      for (int64_t step = 0; step < table.shape()[0]; ++step)
        want.push_back(table.as<double>()[step * table.shape()[1] + static_cast<int64_t>(column)]);
      report.check(quantity, relative_error(ours, want), tolerance, record);
    }
  }

  /// The reference logs half of KoLeo and iBOT.
  static double loss(const LossTerms& losses, const std::string& term) {
    if (term == "dino_local_crops_loss") return losses.dino_local;
    if (term == "dino_global_crops_loss") return losses.dino_global;
    if (term == "koleo_loss") return losses.koleo / 2;
    if (term == "ibot_loss") return losses.ibot / 2;
    if (term == "total_for_backward") return losses.total;
    throw DataError("train_steps.h5: loss_columns names an unknown term: " + term);
  }

  static double norm(const StepResult& result, const std::string& module) {
    const std::array<const char*, 3> modules{"backbone", "dino_head", "ibot_head"};
    const auto found = std::find(modules.begin(), modules.end(), module);
    if (found == modules.end()) throw DataError("train_steps.h5: an unknown module: " + module);
    return result.grad_norms[static_cast<size_t>(found - modules.begin())];
  }

  static std::vector<std::string> words(const std::string& text) {
    std::istringstream in(text);
    return {std::istream_iterator<std::string>(in), {}};
  }

  void check_centres(Report& report, const Engine& model, const std::string& mode) const {
    for (const auto& [name, values] : model.objective_state()) {
      if (!name.ends_with("_centre")) continue;
      const std::string quantity = name.substr(0, name.find('_')) + "_center_end_unapplied_last";
      report.check_record(file_, quantity, std::span<const double>(values), "/" + mode + "/" + quantity,
                          kStepCentre);
    }
  }

  Hdf5File file_ = golden::open_golden("train_steps.h5");
  Hdf5File weights_ = golden::open_golden("train_steps_weights.h5");
};

TEST_F(TrainStepsGolden, EveryMode) {
  ASSERT_FALSE(modes().empty()) << "train_steps.h5 holds no run";
  for (const std::string& mode : modes()) run(mode);
}

/// Groups that no step of the run reaches would be compared with nothing.
TEST_F(TrainStepsGolden, EveryGroupOfWeightsIsReached) {
  int64_t groups = 0;
  for (const std::string& group : weights_.list("/")) {
    if (group == "fp64") continue;
    const size_t at = group.find("_after_step");
    ASSERT_TRUE(at != std::string::npos && (group.starts_with("student") || group.starts_with("teacher")))
        << "train_steps_weights.h5 holds an unknown group: " << group;
    const int64_t step = std::stoll(group.substr(at + 11));
    EXPECT_TRUE(step >= 1 && step <= integer("steps")) << group;
    ++groups;
  }
  EXPECT_GT(groups, 0) << "train_steps_weights.h5 holds no weights";
}

TEST_F(TrainStepsGolden, ParameterGroups) {
  const TrainingConfig settings = config(modes().front());
  Report report("train_steps.h5/param_groups");
  const std::vector<std::string> names = file_.list("/param_groups");
  for (const std::string& name : names) {
    const Tensor want = file_.read("/param_groups/" + name, DType::f64);
    const ParameterGroup group = parameter_group(name, settings.vit.depth, settings.optimizer.layer_decay,
                                                 settings.optimizer.patch_embed_lr_mult);
    report.check("lr_multiplier", std::abs(group.lr_multiplier - want.as<double>()[0]), 1e-14, name);
    report.check("wd_multiplier", std::abs(group.wd_multiplier - want.as<double>()[1]), 0, name);
    report.check("is_last_layer", group.is_last_layer == (want.as<double>()[2] != 0) ? 0 : 1, 0, name);
  }
  EXPECT_EQ(names.size(), file_.list("/weights").size());
}

}  // namespace
}  // namespace dino::testing
