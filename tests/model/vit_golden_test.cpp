// SPDX-License-Identifier: Apache-2.0
// The backbone against recorded runs of the reference: outputs, attention, intermediate layers, positions,
// and the gradients of every parameter and of the images.
#include "host_place.hpp"
#include "model/golden_model.hpp"
#include "model/vit_parts.hpp"
#include "tensor/tensor.hpp"
#include "test_data.hpp"

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
    c.report.check_record(c.file, quantity, as_span(ours), c.path(quantity), 1e-5);
  };
  compare("x_prenorm", output.prenorm, 0, entry.tokens);
  compare("x_norm_clstoken", output.norm, 0, 1);
  compare("x_norm_patchtokens", output.norm, 1 + registers, entry.grid_h * entry.grid_w);
  if (registers > 0) compare("x_norm_regtokens", output.norm, 1, registers);
}

/// The last blocks, as many as the case records.
std::vector<int64_t> intermediate_blocks(const Case& c) {
  int64_t count = 0;
  while (c.file.exists(c.path("intermediate" + std::to_string(count) + "_patch"))) ++count;
  std::vector<int64_t> blocks;
  for (int64_t i = 0; i < count; ++i) blocks.push_back(c.model.config.depth - count + i);
  return blocks;
}

/// Recorded as (B, D, h, w); ours are rows of patches.
void check_intermediate(const Case& c, const VitOutput& output, size_t layer) {
  const std::string prefix = c.path("intermediate" + std::to_string(layer));
  const TokenEntry& entry = output.entries.front();
  const int64_t width = c.model.config.width;
  const int64_t patches = entry.grid_h * entry.grid_w;
  const std::vector<float> rows =
      token_values(output.intermediate[layer], entry, 1 + c.model.config.registers, patches);
  std::vector<float> ours(rows.size());
  for (int64_t b = 0; b < entry.batch; ++b)
    for (int64_t p = 0; p < patches; ++p)
      for (int64_t d = 0; d < width; ++d)
        ours[static_cast<size_t>((b * width + d) * patches + p)] =
            rows[static_cast<size_t>((b * patches + p) * width + d)];
  c.report.check_record(c.file, "intermediate layers", as_span(ours), prefix + "_patch", 1e-5);
  const std::vector<float> cls = token_values(output.intermediate[layer], entry, 0, 1);
  c.report.check_record(c.file, "intermediate layers", as_span(cls), prefix + "_cls", 1e-5);
}

/// The class token, every register, and patches near both ends of the sequence.
void check_attention(const Case& c, const Vit& vit, std::span<const CropBatch> crops, const HostPlace& host) {
  const Tensor wanted = read_best(c.file, c.path("attn_probs_last"));
  const int64_t tokens = wanted.shape()[3];
  std::vector<int64_t> queries = {1 + c.model.config.registers, tokens - 1};
  for (int64_t q = 0; q <= c.model.config.registers; ++q) queries.push_back(q);
  for (const int64_t query : queries) {
    const Arena::Scope scope(host.c.arena);
    VitForwardOptions options;
    options.attention_of_class_token = true;
    options.attention_query = query;
    const VitOutput output = vit.forward(host.c, c.model.weights, crops, options);
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

/// Notes the order in which units are finished.
class NotedGradients final : public UnitGradients {
 public:
  explicit NotedGradients(ParameterStore& store) : store_(store) {}
  [[nodiscard]] UnitGradient gradient(int64_t unit) override { return store_.gradient(unit); }
  void finish_gradient(int64_t unit) override { finished.push_back(unit); }
  std::vector<int64_t> finished;

 private:
  ParameterStore& store_;
};

void check_gradients(const Case& c, const ParameterStore& gradients) {
  const std::string prefix = "backbone.";
  int64_t compared = 0;
  for (const char* root : {"/grads/", "/fp64/grads/"}) {
    for (const std::string& name : c.file.list(root + c.name)) {
      check_gradient(c.report, name, gradients.view(prefix + name).f32(),
                     c.file.read(root + c.name + "/" + name, DType::f64), 3e-5);
      ++compared;
    }
  }
  for (const std::string& name : c.file.list("/fp64/grads_rowproj/" + c.name)) {
    check_projections(c, name, gradients.view(prefix + name).f32());
    ++compared;
  }
  EXPECT_GE(compared, static_cast<int64_t>(c.model.layout.parameters().size()))
      << c.name << ": too few gradients";
}

/// <stem>_grads.h5 beside <stem>.h5 holds the large gradients of one case in full.
std::string gradients_file(const std::string& path) {
  return path.substr(0, path.size() - 3) + "_grads.h5";
}

void check_full_gradients(const Case& c, const ParameterStore& gradients) {
  const std::string path = gradients_file(c.file.path());
  if (!std::filesystem::exists(path)) return;
  const Hdf5File full = Hdf5File::open(path);
  if (full.attribute_string("/", "case") != c.name) return;
  Report report(file_name(path) + "/" + c.name);
  for (const std::string& name : full.list("/grads"))
    check_gradient(report, name, gradients.view("backbone." + name).f32(),
                   full.read("/grads/" + name, DType::f64), 3e-5);
}

/// The gradient of sum(cotangent * output).
void check_backward(const Case& c, const Vit& vit, std::span<const CropBatch> crops, const HostPlace& host) {
  std::shared_ptr<VitSaved> saved;
  const VitOutput output = vit.forward(host.c, c.model.weights, crops, {}, &saved);
  const TokenEntry& entry = output.entries.front();
  const int64_t registers = c.model.config.registers;
  const TensorView d_norm = host.c.arena.zeros(host.c.stream, output.norm.shape);
  set_token_values(d_norm, entry, 0, 1, c.file.read(c.path("cotangent_cls"), DType::f32));
  set_token_values(d_norm, entry, 1 + registers, entry.grid_h * entry.grid_w,
                   c.file.read(c.path("cotangent_patch"), DType::f32));
  if (registers > 0)
    set_token_values(d_norm, entry, 1, registers, c.file.read(c.path("cotangent_reg"), DType::f32));
  ParameterStore gradients(c.model.layout);
  Tensor d_image(crops.front().images.shape);
  const TensorView d_images[] = {d_image};
  NotedGradients noted(gradients);
  vit.backward(host.c, c.model.weights, *saved, d_norm, {}, noted, d_images);
  const std::vector<int64_t>& units = noted.finished;
  for (size_t i = 0; i < units.size(); ++i)
    EXPECT_EQ(units[i], static_cast<int64_t>(units.size() - 1 - i))
        << "units finish from the last to the first";
  EXPECT_EQ(units.size(), c.model.layout.units().size());
  check_gradients(c, gradients);
  check_full_gradients(c, gradients);
  if (c.file.exists(c.path("grad_input")) || c.file.exists("/fp64" + c.path("grad_input")))
    c.report.check_record(c.file, "image gradient", std::span<const float>(d_image.f32()),
                          c.path("grad_input"), 3e-5);
}

/// The files with cases, and those with the full gradients of one of their cases.
struct VitFiles {
  std::vector<std::string> models, gradients;
};

VitFiles vit_files() {
  VitFiles files;
  for (const std::string& path : golden_files("vit_", ".h5"))
    (path.ends_with("_grads.h5") ? files.gradients : files.models).push_back(path);
  return files;
}

/// Another set may have other models; which of the shipped ones it lacks is said.
void name_absent_files() {
  for (const auto& entry : std::filesystem::directory_iterator(dino::test::data_folder() + "/golden")) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("vit_") && !std::filesystem::exists(golden_dir() + "/" + name))
      std::printf("golden  %s  not compared: not in %s\n", name.c_str(), golden_dir().c_str());
  }
}

TEST(VitGolden, EveryCase) {
  name_absent_files();
  const std::vector<std::string> files = vit_files().models;
  ASSERT_FALSE(files.empty()) << "no vit_*.h5 in " << golden_dir();
  for (const std::string& path : files) {
    const Hdf5File file = Hdf5File::open(path);
    const auto model = read_model(file);
    const Vit vit(model->config);
    const std::vector<std::string> cases = file.list("/cases");
    EXPECT_FALSE(cases.empty()) << path << " holds no case";
    for (const std::string& name : cases) {
      Report report(file_name(path) + "/" + name);
      const Case c{file, *model, name, report};
      const Tensor images = file.read(c.path("input"), DType::f32);
      Tensor masks;
      if (file.exists(c.path("mask"))) masks = file.read(c.path("mask"), DType::u8);
      const CropBatch crops[] = {{images, masks}};
      HostPlace host;
      VitForwardOptions options;
      options.intermediate_blocks = intermediate_blocks(c);
      const VitOutput output = vit.forward(host.c, model->weights, crops, options);
      check_outputs(c, output);
      for (size_t layer = 0; layer < options.intermediate_blocks.size(); ++layer)
        check_intermediate(c, output, layer);
      check_attention(c, vit, crops, host);
      check_backward(c, vit, crops, host);
    }
  }
}

/// A file of gradients whose case nobody runs would be compared with nothing.
TEST(VitGolden, EveryGradientFileBelongsToACase) {
  const VitFiles files = vit_files();
  for (const std::string& path : files.gradients) {
    const std::string name = Hdf5File::open(path).attribute_string("/", "case");
    const auto owner = std::find_if(files.models.begin(), files.models.end(),
                                    [&](const std::string& model) { return gradients_file(model) == path; });
    ASSERT_NE(owner, files.models.end()) << path << " has no model beside it";
    EXPECT_TRUE(Hdf5File::open(*owner).exists("/cases/" + name)) << path << ": no case " << name;
  }
}

/// "offset0.1" -> the plain kernel with that offset; "antialias" -> the other kernel, without one.
void set_kernel(VitConfig& config, const std::string& name) {
  const size_t offset = name.find("offset");
  const bool antialias = name.find("antialias") != std::string::npos;
  ASSERT_TRUE(antialias || offset != std::string::npos) << "an unknown kernel: " << name;
  config.position_kernel = antialias ? PositionKernel::antialias : PositionKernel::scale_offset;
  config.interpolate_offset = offset == std::string::npos ? 0.0 : std::stod(name.substr(offset + 6));
}

/// The tables hold the first channels only, so that is what is resampled.
TEST(VitGolden, Positions) {
  bool found = false;
  for (const std::string& path : vit_files().models) {
    const Hdf5File file = Hdf5File::open(path);
    for (const std::string& kernel : file.list("/pos_embed_interp")) {
      Report report(file_name(path) + "/pos_embed_interp");
      for (const std::string& size : file.list("/pos_embed_interp/" + kernel)) {
        const std::string record = "/pos_embed_interp/" + kernel + "/" + size;
        VitConfig config = read_config(file);
        set_kernel(config, kernel);
        const int64_t channels = file.info(record).dims.back();
        const Tensor table = file.read("/weights/pos_embed", DType::f32);
        Tensor cut(Shape{1, table.shape()[1], channels});
        for (int64_t i = 0; i < table.shape()[1]; ++i)
          std::copy_n(table.as<float>() + i * config.width, channels, cut.as<float>() + i * channels);
        config.width = channels;
        const size_t x = size.find('x');
        const int64_t grid_h = std::stoll(size.substr(0, x)) / config.patch;
        const int64_t grid_w = std::stoll(size.substr(x + 1)) / config.patch;
        Tensor out(Shape{1 + grid_h * grid_w, channels});
        HostPlace host;
        host.c.ops.sparse_rows(host.c.stream, position_maps(host.c, config, grid_h, grid_w).forward,
                               cut.view().reshaped({cut.shape()[1], channels}), out, false);
        report.check_record(file, kernel, std::span<const float>(out.f32()), record, 5e-6);
        found = true;
      }
    }
  }
  EXPECT_TRUE(found) << "no vit_*.h5 in " << golden_dir() << " has /pos_embed_interp";
}

}  // namespace
}  // namespace dino::golden
