// SPDX-License-Identifier: Apache-2.0
// The backbone against recorded runs of the reference: outputs, attention, intermediate layers, positions,
// and the gradients of every parameter and of the images.
#include <map>

#include "model/golden_model.hpp"
#include "tensor/tensor.hpp"

namespace dino::golden {
namespace {

std::span<const float> as_span(const std::vector<float>& values) {
  return values;
}

struct Case {
  const Hdf5File& file;
  const Model& model;
  std::string name;
  Report& report;
  [[nodiscard]] std::string path(const std::string& quantity) const {
    return "/cases/" + name + "/" + quantity;
  }
};

void check_outputs(const Case& c, const VitOutput& output) {
  const TokenEntry& entry = output.entries.front();
  const int64_t registers = c.model.config.registers;
  const auto compare = [&](const char* quantity, ConstTensorView tokens, int64_t first, int64_t count) {
    const std::vector<float> ours = token_values(tokens, entry, first, count);
    for (const std::string& record : {c.path(quantity), "/fp64" + c.path(quantity)}) {
      if (!c.file.exists(record)) continue;
      const Tensor wanted = c.file.read(record, DType::f64);
      c.report.check("outputs", relative_error(as_span(ours), values_of(wanted)), 1e-5, record);
    }
  };
  compare("x_prenorm", output.prenorm, 0, entry.tokens);
  compare("x_norm_clstoken", output.norm, 0, 1);
  compare("x_norm_patchtokens", output.norm, 1 + registers, entry.grid_h * entry.grid_w);
  if (registers > 0) compare("x_norm_regtokens", output.norm, 1, registers);
}

/// Recorded as (B, D, h, w); ours are rows of patches.
void check_intermediate(const Case& c, const VitOutput& output, size_t layer) {
  const std::string prefix = c.path("intermediate" + std::to_string(layer));
  if (!c.file.exists(prefix + "_patch")) return;
  const TokenEntry& entry = output.entries.front();
  const int64_t width = c.model.config.width;
  const int64_t patches = entry.grid_h * entry.grid_w;
  const Tensor wanted = read_best(c.file, prefix + "_patch");
  const std::vector<float> rows =
      token_values(output.intermediate[layer], entry, 1 + c.model.config.registers, patches);
  std::vector<float> ours(rows.size());
  for (int64_t b = 0; b < entry.batch; ++b)
    for (int64_t p = 0; p < patches; ++p)
      for (int64_t d = 0; d < width; ++d)
        ours[static_cast<size_t>((b * width + d) * patches + p)] =
            rows[static_cast<size_t>((b * patches + p) * width + d)];
  c.report.check("intermediate layers", relative_error(as_span(ours), values_of(wanted)), 1e-5, prefix);
  const Tensor cls = read_best(c.file, prefix + "_cls");
  const std::vector<float> our_cls = token_values(output.intermediate[layer], entry, 0, 1);
  c.report.check("intermediate layers", relative_error(as_span(our_cls), values_of(cls)), 1e-5, prefix);
}

/// The class token, every register, and patches near both ends of the sequence.
void check_attention(const Case& c, const Vit& vit, std::span<const CropBatch> crops, Arena& arena) {
  const Tensor wanted = read_best(c.file, c.path("attn_probs_last"));
  const int64_t tokens = wanted.shape()[3];
  std::vector<int64_t> queries = {1 + c.model.config.registers, tokens - 1};
  for (int64_t q = 0; q <= c.model.config.registers; ++q) queries.push_back(q);
  for (const int64_t query : queries) {
    const Arena::Scope scope(arena);
    VitForwardOptions options;
    options.attention_of_class_token = true;
    options.attention_query = query;
    const VitOutput output = vit.forward(c.model.weights, crops, options, arena);
    std::vector<double> rows;
    for (int64_t i = query; i < wanted.numel() / tokens; i += tokens)
      rows.insert(rows.end(), wanted.as<double>() + i * tokens, wanted.as<double>() + (i + 1) * tokens);
    c.report.check(
        "attention probabilities",
        relative_error(std::span<const float>(output.last_attention.f32()), std::span<const double>(rows)),
        2e-5, c.name);
  }
}

/// G r and l^T G of a gradient seen as (first dimension, rest), with r and l = /proj/<length>.
void check_projections(const Case& c, const std::string& name, std::span<const float> gradient) {
  const std::string row_path = "/fp64/grads_rowproj/" + c.name + "/" + name;
  const std::string column_path = "/fp64/grads_colproj/" + c.name + "/" + name;
  if (!c.file.exists(row_path)) return;
  const Tensor rows = c.file.read(row_path, DType::f64);
  const Tensor columns = c.file.read(column_path, DType::f64);
  const auto m = static_cast<size_t>(rows.numel());
  const auto n = static_cast<size_t>(columns.numel());
  ASSERT_EQ(m * n, gradient.size()) << name;
  const Tensor right = c.file.read("/proj/" + std::to_string(n), DType::f64);
  const Tensor left = c.file.read("/proj/" + std::to_string(m), DType::f64);
  std::vector<double> our_rows(m, 0.0);
  std::vector<double> our_columns(n, 0.0);
  for (size_t i = 0; i < m; ++i) {
    for (size_t j = 0; j < n; ++j) {
      our_rows[i] += static_cast<double>(gradient[i * n + j]) * right.as<double>()[j];
      our_columns[j] += static_cast<double>(gradient[i * n + j]) * left.as<double>()[i];
    }
  }
  c.report.check("gradient projections", relative_error(std::span<const double>(our_rows), values_of(rows)),
                 3e-5, name);
  c.report.check("gradient projections",
                 relative_error(std::span<const double>(our_columns), values_of(columns)), 3e-5, name);
}

void check_gradients(const Case& c, const ParameterStore& gradients) {
  std::map<std::string, int> covered;
  for (const ParameterInfo& info : c.model.layout.parameters()) {
    const std::string name = info.name.substr(std::string("backbone.").size());
    const auto ours = gradients.view(info).f32();
    for (const char* root : {"/grads/", "/fp64/grads/"}) {
      const std::string path = std::string(root) + c.name + "/" + name;
      if (!c.file.exists(path)) continue;
      check_gradient(c.report, name, ours, c.file.read(path, DType::f64), 3e-5);
      ++covered[name];
    }
    check_projections(c, name, ours);
    if (c.file.exists("/fp64/grads_rowproj/" + c.name + "/" + name)) ++covered[name];
    EXPECT_GT(covered[name], 0) << c.name << " records no gradient of " << name;
  }
}

/// <stem>_grads.h5 beside <stem>.h5 holds the large gradients of one case in full.
void check_full_gradients(const Case& c, const ParameterStore& gradients) {
  const std::string path = c.file.path().substr(0, c.file.path().size() - 3) + "_grads.h5";
  if (!std::filesystem::exists(path)) return;
  const Hdf5File full = Hdf5File::open(path);
  if (full.attribute_string("/", "case") != c.name) return;
  for (const std::string& name : full.list("/grads"))
    c.report.check("full gradients",
                   relative_error(std::span<const float>(gradients.view("backbone." + name).f32()),
                                  values_of(full.read("/grads/" + name, DType::f64))),
                   3e-5, name);
}

/// The gradient of sum(cotangent * output).
void check_backward(const Case& c, const Vit& vit, std::span<const CropBatch> crops, Arena& arena) {
  std::shared_ptr<VitSaved> saved;
  const VitOutput output = vit.forward(c.model.weights, crops, {}, arena, &saved);
  const TokenEntry& entry = output.entries.front();
  const int64_t registers = c.model.config.registers;
  const TensorView d_norm = arena.zeros(output.norm.shape);
  set_token_values(d_norm, entry, 0, 1, c.file.read(c.path("cotangent_cls"), DType::f32));
  set_token_values(d_norm, entry, 1 + registers, entry.grid_h * entry.grid_w,
                   c.file.read(c.path("cotangent_patch"), DType::f32));
  if (registers > 0)
    set_token_values(d_norm, entry, 1, registers, c.file.read(c.path("cotangent_reg"), DType::f32));
  ParameterStore gradients(c.model.layout);
  Tensor d_image(crops.front().images.shape);
  const TensorView d_images[] = {d_image};
  std::vector<int64_t> units;
  vit.backward(
      c.model.weights, *saved, d_norm, {}, gradients, arena, [&](int64_t unit) { units.push_back(unit); },
      d_images);
  for (size_t i = 0; i < units.size(); ++i)
    EXPECT_EQ(units[i], static_cast<int64_t>(units.size() - 1 - i))
        << "units finish from the last to the first";
  EXPECT_EQ(units.size(), c.model.layout.units().size());
  check_gradients(c, gradients);
  check_full_gradients(c, gradients);
  for (const std::string& record : {c.path("grad_input"), "/fp64" + c.path("grad_input")})
    if (c.file.exists(record))
      c.report.check(
          "image gradients",
          relative_error(std::span<const float>(d_image.f32()), values_of(c.file.read(record, DType::f64))),
          3e-5, record);
}

std::vector<std::string> vit_files() {
  std::vector<std::string> files;
  for (const std::string& path : golden_files("vit_", ".h5"))
    if (!Hdf5File::open(path).list("/cases").empty()) files.push_back(path);
  return files;
}

TEST(VitGolden, EveryCase) {
  const std::vector<std::string> files = vit_files();
  ASSERT_FALSE(files.empty()) << golden_dir();
  for (const std::string& path : files) {
    const Hdf5File file = Hdf5File::open(path);
    const auto model = read_model(file);
    const Vit vit(model->config, Precision::f32);
    for (const std::string& name : file.list("/cases")) {
      Report report(std::filesystem::path(path).stem().string() + " " + name);
      const Case c{file, *model, name, report};
      const Tensor images = file.read(c.path("input"), DType::f32);
      Tensor masks;
      if (file.exists(c.path("mask"))) masks = file.read(c.path("mask"), DType::u8);
      const CropBatch crops[] = {{images, masks}};
      Arena arena;
      VitForwardOptions options;
      options.intermediate_blocks = {model->config.depth - 2, model->config.depth - 1};
      const VitOutput output = vit.forward(model->weights, crops, options, arena);
      check_outputs(c, output);
      check_intermediate(c, output, 0);
      check_intermediate(c, output, 1);
      check_attention(c, vit, crops, arena);
      check_backward(c, vit, crops, arena);
    }
  }
}

/// The tables hold the first channels only, so that is what is resampled.
TEST(VitGolden, Positions) {
  Report report("positions");
  for (const std::string& path : vit_files()) {
    const Hdf5File file = Hdf5File::open(path);
    for (const std::string& kernel : file.list("/pos_embed_interp")) {
      for (const std::string& size : file.list("/pos_embed_interp/" + kernel)) {
        const Tensor wanted = read_best(file, "/pos_embed_interp/" + kernel + "/" + size);
        VitConfig config = read_config(file);
        config.position_kernel =
            kernel == "antialias" ? PositionKernel::antialias : PositionKernel::scale_offset;
        config.interpolate_offset =
            kernel == "antialias" ? 0.0 : std::stod(kernel.substr(std::string("offset").size()));
        const int64_t channels = wanted.shape()[2];
        const Tensor table = file.read("/weights/pos_embed", DType::f32);
        Tensor cut(Shape{1, table.shape()[1], channels});
        for (int64_t i = 0; i < table.shape()[1]; ++i)
          std::copy_n(table.as<float>() + i * config.width, channels, cut.as<float>() + i * channels);
        config.width = channels;
        const size_t x = size.find('x');
        const int64_t grid_h = std::stoll(size.substr(0, x)) / config.patch;
        const int64_t grid_w = std::stoll(size.substr(x + 1)) / config.patch;
        Tensor out(Shape{1 + grid_h * grid_w, channels});
        interpolate_positions(cut, config, grid_h, grid_w, out);
        report.check(kernel, relative_error(std::span<const float>(out.f32()), values_of(wanted)), 5e-6,
                     size);
      }
    }
  }
  EXPECT_GT(report.compared(), 0);
}

}  // namespace
}  // namespace dino::golden
