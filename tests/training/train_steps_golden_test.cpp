// SPDX-License-Identifier: Apache-2.0
// Whole training steps against train_steps.h5: losses, gradient norms, gradients, weights, teacher, centres.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "support.hpp"
#include "training/ssl.hpp"

namespace dino::testing {
namespace {

constexpr double kLoss = 1e-5, kNorm = 2e-5, kGradient = 3e-5, kKeyBiasAbsolute = 5e-5;
constexpr double kWeightRms = 2e-6, kWeightOutlier = 2e-5, kOutlierFraction = 1e-3;
constexpr double kTeacher = 5e-6, kCentre = 2e-6;

/// Below this part of a tensor's largest gradient an element is rounding noise in f32. Adam's first step is
/// lr g / (|g| + eps): for such an element any two implementations differ by up to 2 lr.
constexpr double kNoise = 1e-6;

/// Adam divides the key biases' gradient, which is exactly zero, by its own size: they wander freely.
bool key_bias(const std::string& name, int64_t index, int64_t width) {
  return name.ends_with("qkv.bias") && index >= width && index < 2 * width;
}

class TrainStepsGolden : public ::testing::Test {
 protected:
  [[nodiscard]] double number(const std::string& name) const { return file_.attribute_number("/", name); }
  [[nodiscard]] int64_t integer(const std::string& name) const { return static_cast<int64_t>(number(name)); }
  [[nodiscard]] Shape shape(const std::string& name) const { return file_.info("/weights/" + name).shape; }

  [[nodiscard]] HeadConfig head(const std::string& module) const {
    HeadConfig config;
    config.input = shape(module + ".mlp.0.weight")[1];
    config.hidden = shape(module + ".mlp.0.weight")[0];
    config.layers = 0;
    for (const std::string& name : file_.list("/weights"))
      if (name.starts_with(module + ".mlp.") && name.ends_with(".weight")) ++config.layers;
    config.prototypes = shape(module + ".last_layer.weight_v")[0];
    config.bottleneck = shape(module + ".last_layer.weight_v")[1];
    return config;
  }

  [[nodiscard]] SslConfig config(const std::string& mode) const {
    SslConfig settings;
    VitConfig& vit = settings.vit;
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
    vit.layerscale = 1;
    settings.dino_head = head("dino_head");
    settings.separate_ibot_head = integer("separate_ibot_head") != 0;
    if (settings.separate_ibot_head) settings.ibot_head = head("ibot_head");
    settings.dino_weight = number("dino_weight");
    settings.ibot_weight = number("ibot_weight");
    settings.koleo_weight = number("koleo_weight");
    settings.centering = mode == "centering" ? Centering::softmax : Centering::sinkhorn;
    settings.student_temperature = number("student_temp");
    settings.centre_momentum = number("center_momentum");
    settings.clip = number("clip_grad");
    settings.beta1 = number("beta1");
    settings.beta2 = number("beta2");
    settings.adam_eps = number("adam_eps");
    settings.layer_decay = number("layerwise_decay");
    settings.patch_embed_lr_mult = number("patch_embed_lr_mult");
    settings.local_crops = integer("n_local");
    return settings;
  }

  void load(SslModel& model) const {
    size_t loaded = 0;
    for (const std::string& name : file_.list("/weights")) {
      const Tensor values = read_f32(file_, "/weights/" + name);
      for (ParameterStore* store : {&model.student(), &model.teacher()}) {
        const std::span<float> to = store->view(name).f32();
        ASSERT_EQ(to.size(), values.f32().size()) << name;
        std::copy(values.f32().begin(), values.f32().end(), to.begin());
      }
      ++loaded;
    }
    ASSERT_EQ(loaded, model.layout().parameters().size());
  }

  [[nodiscard]] SslSchedule schedule(int64_t step) const {
    const auto at = [&](const char* name) {
      return file_.read(std::string("/schedule/") + name, DType::f64).as<double>()[step];
    };
    return {at("lr"), at("last_layer_lr"), at("weight_decay"), at("ema_momentum"), at("teacher_temp")};
  }

  void check_gradients(SslModel& model, const std::string& group) const {
    double worst = 0, worst_key = 0;
    std::string where;
    for (const std::string& name : file_.list(group)) {
      Tensor want = read_f32(file_, group + "/" + name);
      const TensorView got = model.gradients().view(name);
      std::vector<float> a(got.f32().begin(), got.f32().end());
      for (int64_t i = 0; i < want.numel(); ++i)
        if (key_bias(name, i, model.config().vit.width)) {
          worst_key = std::max(worst_key, static_cast<double>(std::abs(a[static_cast<size_t>(i)])));
          a[static_cast<size_t>(i)] = want.as<float>()[i] = 0;
        }
      const double error = relative_error(a, want.f32());
      if (error > worst) where = name;
      worst = std::max(worst, error);
    }
    expect_within("gradients of step 0, worst: " + where, worst, kGradient);
    expect_within("gradients of the key biases (absolute)", worst_key, kKeyBiasAbsolute);
  }

  /// Takes over the reference's first step of the few elements whose gradient is noise, so that the later
  /// steps can be held to tight tolerances.
  void adopt_noise(SslModel& model, const std::string& gradients) const {
    int64_t adopted = 0;
    for (const std::string& name : file_.list(gradients)) {
      const Tensor gradient = read_f32(file_, gradients + "/" + name);
      const Tensor after = read_f32(weights_, "/student_after_step1/" + name);
      const std::span<float> student = model.student().view(name).f32();
      float largest = 0;
      for (const float g : gradient.f32()) largest = std::max(largest, std::abs(g));
      for (int64_t i = 0; i < gradient.numel(); ++i) {
        if (key_bias(name, i, model.config().vit.width)) continue;
        if (static_cast<double>(std::abs(gradient.as<float>()[i])) > kNoise * static_cast<double>(largest))
          continue;
        student[static_cast<size_t>(i)] = after.as<float>()[i];
        ++adopted;
      }
    }
    std::printf("  %lld elements with a gradient of noise\n", static_cast<long long>(adopted));
    EXPECT_LE(static_cast<double>(adopted), 1e-4 * static_cast<double>(model.layout().count()));
  }

  void check_weights(ParameterStore& store, const std::string& group, int64_t width) const {
    double worst_rms = 0, worst_fraction = 0;
    std::string where;
    int tensors = 0;
    for (const std::string& name : weights_.list(group)) {
      const Tensor want = read_f32(weights_, group + "/" + name);
      const std::span<const float> got = store.view(name).f32();
      ASSERT_EQ(got.size(), want.f32().size()) << name;
      double squares = 0;
      int64_t outliers = 0, counted = 0;
      for (int64_t i = 0; i < want.numel(); ++i) {
        if (key_bias(name, i, width)) continue;
        const double error =
            static_cast<double>(got[static_cast<size_t>(i)]) - static_cast<double>(want.as<float>()[i]);
        squares += error * error;
        outliers += std::abs(error) > kWeightOutlier ? 1 : 0;
        ++counted;
      }
      const double rms = std::sqrt(squares / static_cast<double>(counted));
      if (!(rms <= worst_rms)) {
        worst_rms = rms;
        where = name;
      }
      worst_fraction = std::max(worst_fraction, static_cast<double>(outliers) / static_cast<double>(counted));
      ++tensors;
    }
    EXPECT_EQ(tensors, static_cast<int>(store.layout().parameters().size()));
    expect_within(group + " rms, worst: " + where, worst_rms, kWeightRms);
    expect_within(group + " fraction above 2e-5", worst_fraction, kOutlierFraction);
  }

  void check_teacher(ParameterStore& store, const std::string& group, int64_t width) const {
    double worst = 0;
    for (const std::string& name : weights_.list(group)) {
      const Tensor want = read_f32(weights_, group + "/" + name);
      const std::span<const float> got = store.view(name).f32();
      ASSERT_EQ(got.size(), want.f32().size()) << name;
      for (int64_t i = 0; i < want.numel(); ++i)
        if (!key_bias(name, i, width))
          worst = std::max(worst, std::abs(static_cast<double>(got[static_cast<size_t>(i)]) -
                                           static_cast<double>(want.as<float>()[i])));
    }
    expect_within(group + " absolute", worst, kTeacher);
  }

  /// All steps of one mode; returns the model at the end.
  void run(const std::string& mode) {
    const Communicator self = Communicator::self();
    SslModel model(config(mode), self);
    load(model);
    const Tensor losses = file_.read("/" + mode + "/losses", DType::f64);
    const Tensor norms = file_.read("/" + mode + "/grad_norms_before_clip", DType::f64);
    const std::string columns = file_.attribute_string("/", "loss_columns");
    ASSERT_EQ(columns,
              "dino_local_crops_loss dino_global_crops_loss koleo_loss ibot_loss total_for_backward");
    std::array<double, 5> loss_error{};
    std::array<double, 3> norm_error{};
    for (int64_t step = 0; step < integer("steps"); ++step) {
      const std::string data = "/data/step" + std::to_string(step) + "/";
      const Tensor global = read_f32(file_, data + "global_crops"),
                   local = read_f32(file_, data + "local_crops");
      const Tensor masks = file_.read(data + "masks", DType::u8);
      const SslBatch batch{integer("batch"), global, local, masks};
      const SslStepResult result = model.forward_backward(batch, schedule(step), {});
      EXPECT_TRUE(result.finite);
      // The reference logs half of KoLeo and iBOT.
      const std::array<double, 5> got{result.losses.dino_local, result.losses.dino_global,
                                      result.losses.koleo / 2, result.losses.ibot / 2, result.losses.total};
      for (size_t c = 0; c < got.size(); ++c)
        loss_error[c] = std::max(
            loss_error[c], std::abs(got[c] / losses.as<double>()[step * 5 + static_cast<int64_t>(c)] - 1));
      for (size_t c = 0; c < 3; ++c)
        norm_error[c] = std::max(
            norm_error[c],
            std::abs(result.grad_norms[c] / norms.as<double>()[step * 3 + static_cast<int64_t>(c)] - 1));
      const std::string gradients = "/" + mode + "/grads_step0_before_clip";
      if (step == 0 && file_.exists(gradients)) check_gradients(model, gradients);
      model.update(schedule(step), result, step + 1);
      const std::string after = "_after_step" + std::to_string(step + 1);
      if (mode != "sinkhorn_knopp") continue;  // the weights' file is of this run
      if (step == 0 && weights_.exists("/student_after_step1")) adopt_noise(model, gradients);
      if (weights_.exists("/student" + after))
        check_weights(model.student(), "/student" + after, model.config().vit.width);
      if (weights_.exists("/teacher" + after))
        check_teacher(model.teacher(), "/teacher" + after, model.config().vit.width);
    }
    const std::array<const char*, 5> names{"dino local", "dino global", "koleo", "ibot", "total"};
    for (size_t c = 0; c < names.size(); ++c)
      expect_within(mode + " " + names[c] + " loss over all steps", loss_error[c], kLoss);
    const std::array<const char*, 3> modules{"backbone", "dino_head", "ibot_head"};
    for (size_t c = 0; c < modules.size(); ++c)
      expect_within(mode + " gradient norm " + modules[c], norm_error[c], kNorm);
    check_centres(model, mode);
  }

  void check_centres(const SslModel& model, const std::string& mode) const {
    for (const auto& [name, values] : model.centres()) {
      const std::string path =
          "/" + mode + "/" + name.substr(0, name.find('_')) + "_center_end_unapplied_last";
      if (!name.ends_with("_centre")) continue;
      ASSERT_TRUE(file_.exists(path)) << path;
      expect_within(path, relative_error(values, read_f32(file_, path).f32()), kCentre);
    }
  }

  Hdf5File file_ = Hdf5File::open(golden_dir() + "/train_steps.h5");
  Hdf5File weights_ = Hdf5File::open(golden_dir() + "/train_steps_weights.h5");
};

TEST_F(TrainStepsGolden, Sinkhorn) {
  run("sinkhorn_knopp");
}

TEST_F(TrainStepsGolden, SoftmaxCentring) {
  run("centering");
}

TEST_F(TrainStepsGolden, ParameterGroups) {
  const SslConfig settings = config("sinkhorn_knopp");
  size_t checked = 0;
  for (const std::string& name : file_.list("/param_groups")) {
    const Tensor want = file_.read("/param_groups/" + name, DType::f64);
    const ParameterGroup group =
        parameter_group(name, settings.vit.depth, settings.layer_decay, settings.patch_embed_lr_mult);
    EXPECT_NEAR(group.lr_multiplier, want.as<double>()[0], 1e-14) << name;
    EXPECT_EQ(group.wd_multiplier, want.as<double>()[1]) << name;
    EXPECT_EQ(group.is_last_layer, want.as<double>()[2] != 0) << name;
    ++checked;
  }
  EXPECT_EQ(checked, file_.list("/weights").size());
}

}  // namespace
}  // namespace dino::testing
