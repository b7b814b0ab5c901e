// SPDX-License-Identifier: Apache-2.0
#include "model/import_clip.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "base/json.hpp"
#include "base/json_text.hpp"
#include "model/clip.hpp"
#include "model/config_fields.hpp"
#include "storage/array_file.hpp"
#include "storage/files.hpp"

namespace dino {
namespace {

constexpr const char* kTextFile = "/text.safetensors";
constexpr const char* kTextFact = "dinohpc.text";

/// What lies between a tensor's shape there and here.
enum class Shaping : uint8_t { same, tokens, transposed, scalar };

struct Rule {
  const char* theirs;
  const char* ours;  ///< a name that ends in a dot stands for all that begin so
  Shaping shaping = Shaping::same;
};

/// One tower in one naming.
struct Naming {
  const char* marker;  ///< a tensor that each such tower has
  const char* layers;  ///< before a block's number
  std::vector<Rule> outside, inside;
};

const std::vector<Rule> kHuggingFaceBlock = {{"layer_norm1.", "norm1."},
                                             {"layer_norm2.", "norm2."},
                                             {"self_attn.out_proj.", "attn.proj."},
                                             {"mlp.", "mlp."}};
const std::vector<Rule> kOpenClipBlock = {{"ln_1.", "norm1."},
                                          {"ln_2.", "norm2."},
                                          {"attn.in_proj_", "attn.qkv."},
                                          {"attn.out_proj.", "attn.proj."},
                                          {"mlp.c_fc.", "mlp.fc1."},
                                          {"mlp.c_proj.", "mlp.fc2."},
                                          {"ls_1.", "ls1."},
                                          {"ls_2.", "ls2."}};
const Naming kImages[] = {
    {"vision_model.embeddings.class_embedding",
     "vision_model.encoder.layers.",
     {{"vision_model.embeddings.class_embedding", "cls_token", Shaping::tokens},
      {"vision_model.embeddings.position_embedding.weight", "pos_embed", Shaping::tokens},
      {"vision_model.embeddings.patch_embedding.", "patch_embed.proj."},
      {"vision_model.pre_layrnorm.", "norm_pre."},
      {"vision_model.post_layernorm.", "norm."},
      {"visual_projection.", "projection."},
      {"vision_model.", "vision_model."}},
     kHuggingFaceBlock},
    {"visual.class_embedding",
     "visual.transformer.resblocks.",
     {{"visual.class_embedding", "cls_token", Shaping::tokens},
      {"visual.positional_embedding", "pos_embed", Shaping::tokens},
      {"visual.conv1.", "patch_embed.proj."},
      {"visual.ln_pre.", "norm_pre."},
      {"visual.ln_post.", "norm."},
      {"visual.proj", "projection.weight", Shaping::transposed},
      {"visual.", "visual."}},
     kOpenClipBlock}};
const Naming kTexts[] = {{"text_model.embeddings.token_embedding.weight",
                          "text_model.encoder.layers.",
                          {{"text_model.embeddings.token_embedding.weight", "token_embedding"},
                           {"text_model.embeddings.position_embedding.weight", "positions"},
                           {"text_model.final_layer_norm.", "norm."},
                           {"text_projection.", "projection."},
                           {"logit_scale", "logit_scale", Shaping::scalar},
                           {"text_model.", "text_model."}},
                          kHuggingFaceBlock},
                         {"token_embedding.weight",
                          "transformer.resblocks.",
                          {{"token_embedding.weight", "token_embedding"},
                           {"positional_embedding", "positions"},
                           {"ln_final.", "norm."},
                           {"text_projection.", "projection."},
                           {"text_projection", "projection.weight", Shaping::transposed},
                           {"logit_scale", "logit_scale", Shaping::scalar},
                           {"cls_emb", "cls_emb"},
                           {"transformer.", "transformer."}},
                          kOpenClipBlock}};

/// Their name in ours, by the first rule that fits.
const Rule* rule_of(const std::vector<Rule>& rules, const std::string& name, std::string& ours) {
  for (const Rule& rule : rules) {
    const std::string from = rule.theirs;
    const bool open = from.ends_with('.') || from.ends_with('_');
    if (open ? !name.starts_with(from) : name != from) continue;
    ours = rule.ours + name.substr(from.size());
    return &rule;
  }
  return nullptr;
}

/// Tensors by the names without wrappers, the stem and what newer OpenCLIP puts before its text tower.
std::map<std::string, std::string> plain_names(const TensorSource& source) {
  std::map<std::string, std::string> plain;
  std::string stem;
  for (const auto& [name, info] : source.tensors) {
    const std::string bare = without_wrappers(name);
    plain.emplace(bare, name);
    for (const Naming& naming : kImages)
      if (bare.ends_with(std::string(".") + naming.marker))
        stem = bare.substr(0, bare.size() - std::strlen(naming.marker));
  }
  std::map<std::string, std::string> names;
  for (const auto& [bare, name] : plain) {
    if (!bare.starts_with(stem)) continue;
    std::string rest = bare.substr(stem.size());
    if (rest.starts_with("text.")) rest = rest.substr(5);
    if (!names.emplace(rest, name).second)
      fail_weights(source, fmt::format("two tensors are both {}", shown_name(rest)));
  }
  return names;
}

std::vector<int64_t> shaped(const std::vector<int64_t>& shape, Shaping shaping) {
  std::vector<int64_t> result = shape;
  if (shaping == Shaping::tokens)
    while (result.size() < 3) result.insert(result.begin(), 1);
  if (shaping == Shaping::scalar && result.empty()) result = {1};
  if (shaping == Shaping::transposed && result.size() == 2) std::swap(result[0], result[1]);
  return result;
}

Tensor transposed(const Tensor& x) {
  const int64_t rows = x.shape()[0], columns = x.shape()[1];
  Tensor result(Shape{columns, rows});
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c)
      result.as<float>()[c * rows + r] = x.f32()[static_cast<size_t>(r * columns + c)];
  return result;
}

/// A tower's tensors under our names.
class Tower {
 public:
  Tower(const TensorSource& from, const Naming& naming) : from_(from), naming_(naming), result_(from) {
    result_.tensors.clear();
    for (const auto& [plain, name] : plain_names(from)) take(plain, name);
    result_.opaque.clear();
    result_.read = [reads = std::move(reads_)](const std::string& name) { return reads.at(name)(); };
  }
  [[nodiscard]] TensorSource result() { return std::move(result_); }

 private:
  void add(const std::string& ours, const std::string& theirs, std::vector<int64_t> shape,
           std::function<Tensor()> read) {
    TensorInfo info = from_.tensors.at(theirs);
    info.shape = std::move(shape);
    if (!result_.tensors.emplace(ours, info).second)
      fail_weights(from_,
                   fmt::format("{} and another tensor are both {}", shown_name(theirs), shown_name(ours)));
    reads_.emplace(ours, std::move(read));
  }
  void take(const std::string& plain, const std::string& name) {
    const TensorInfo& info = from_.tensors.at(name);
    const std::string layers = naming_.layers;
    const size_t dot = plain.starts_with(layers) ? plain.find('.', layers.size()) : std::string::npos;
    std::string ours;
    if (dot == std::string::npos) {
      const Rule* rule = rule_of(naming_.outside, plain, ours);
      if (rule == nullptr) return;  // the other tower's
      const bool turn = rule->shaping == Shaping::transposed && info.shape.size() == 2;
      add(ours, name, shaped(info.shape, rule->shaping),
          [read = from_.read, name, turn] { return turn ? transposed(read(name)) : read(name); });
      return;
    }
    const std::string block = "blocks." + plain.substr(layers.size(), dot - layers.size()) + ".";
    const std::string inner = plain.substr(dot + 1), tail = inner.substr(inner.rfind('.') + 1);
    if (inner.starts_with("self_attn.") && !inner.starts_with("self_attn.out_proj.")) {
      take_part_of_qkv(name, inner, block + "attn.qkv." + tail, tail);
      return;
    }
    if (rule_of(naming_.inside, inner, ours) == nullptr) ours = inner;
    add(block + ours, name, info.shape, [read = from_.read, name] { return read(name); });
  }
  /// The joint matrix or vector, when the query's part comes by.
  void take_part_of_qkv(const std::string& name, const std::string& inner, const std::string& ours,
                        const std::string& tail) {
    const std::string before = name.substr(0, name.size() - inner.size());
    std::array<std::string, 3> parts;
    size_t i = 0;
    for (const char* part : {"q_proj.", "k_proj.", "v_proj."}) {
      parts[i] = before + "self_attn." + part + tail;
      if (!from_.has(parts[i]))
        fail_weights(from_, fmt::format("no {} beside {}", shown_name(parts[i]), shown_name(name)));
      ++i;
    }
    if (name != parts[0]) {
      if (std::find(parts.begin(), parts.end(), name) == parts.end())
        fail_weights(from_, fmt::format("{} is a part that this model does not have", shown_name(name)));
      return;
    }
    std::vector<int64_t> shape = from_.tensors.at(name).shape;
    if (!shape.empty() && __builtin_mul_overflow(shape[0], 3, &shape[0]))
      fail_weights(from_, fmt::format("{} is implausibly large", shown_name(name)));
    add(ours, name, std::move(shape),
        [read = from_.read, parts, path = from_.path] { return joined(read, parts, path); });
  }

  const TensorSource& from_;
  const Naming& naming_;
  TensorSource result_;
  std::map<std::string, std::function<Tensor()>> reads_;
};

/// What no tensor's shape tells of a tower.
struct Told {
  std::string path;  ///< of the file that tells
  int64_t heads = 0;
  bool quick_gelu = false;
  double norm_eps = 1e-5;
};

bool quick_gelu_of(const ConfigFields& fields) {
  const std::string activation = fields.text("hidden_act", "quick_gelu");
  if (activation == "quick_gelu") return true;
  if (activation != "gelu" && activation != "gelu_python")
    fail_weights(fields.path,
                 fmt::format("hidden_act is {}, neither gelu nor quick_gelu", shown_name(activation)));
  return false;
}

/// transformers' config.json, of both towers or of one; what it leaves out has the values of transformers.
Told told_by_transformers(const std::string& path, bool images) {
  const Json json = read_config_json(path);
  const ConfigFields fields{json, path};
  const std::string type = fields.text("model_type", "");
  const std::string alone = images ? "clip_vision_model" : "clip_text_model";
  if (type != "clip" && type != alone)
    fail_weights(path, fmt::format("model_type is \"{}\" beside a CLIP model's tensors; only clip, "
                                   "clip_vision_model and clip_text_model are read",
                                   shown_name(type)));
  const ConfigFields tower = type == alone ? fields : fields.object(images ? "vision_config" : "text_config");
  return {path, tower.size("num_attention_heads", images ? 12 : 8), quick_gelu_of(tower),
          tower.number("layer_norm_eps", 1e-5)};
}

/// Options of OpenCLIP that change the arithmetic, with the only value that is read.
void refuse_other_options(const ConfigFields& fields) {
  for (const char* key :
       {"timm_model_name", "hf_model_name", "norm_kwargs", "act_kwargs", "embed_cls", "no_causal_mask",
        "attentional_pool", "global_average_pool", "final_ln_after_pool", "no_ln_pre", "input_patchnorm",
        "proj_bias", "attn_type", "block_type", "qk_norm"}) {
    if (!fields.has(key)) continue;
    const Json& value = fields.json.at(key);
    if (value == Json(false) || (value.is_structured() && value.empty())) continue;
    fail_weights(fields.path, fmt::format("\"{}\" is {}, which this model does not have", key,
                                          shown_name(json_line(value))));
  }
  const std::string pool = fields.text("pool_type", "");
  if (!pool.empty() && pool != "tok" && pool != "argmax" && pool != "eos")
    fail_weights(fields.path,
                 fmt::format("\"pool_type\" is {}, which this model does not have", shown_name(pool)));
}

Told told_by_open_clip(const std::string& path, bool images) {
  const Json json = read_config_json(path);
  const ConfigFields model = ConfigFields{json, path}.object("model_cfg");
  const ConfigFields tower = model.object(images ? "vision_cfg" : "text_cfg");
  refuse_other_options(model);
  refuse_other_options(tower);
  if (tower.has("layers") && tower.json.at("layers").is_array())
    fail_weights(path, "its image tower is a ResNet, which is not read");
  Told told{path, 0, model.flag("quick_gelu", false), 1e-5};
  if (!images) {
    told.heads = tower.size("heads", 8);
    return told;
  }
  const int64_t head = tower.size("head_width", 64), width = tower.size("width", 768);
  if (head == 0 || width % head != 0) fail_weights(path, "\"head_width\" does not divide \"width\"");
  told.heads = width / head;
  return told;
}

Told told_of(const TensorSource& source, const Naming& naming, bool images, int64_t width) {
  const std::string folder = std::filesystem::path(source.path).parent_path().string();
  const bool transformers = std::string(naming.layers).find("encoder") != std::string::npos;
  const std::string config =
      (std::filesystem::path(folder) / (transformers ? "config.json" : "open_clip_config.json")).string();
  if (path_exists(config))
    return transformers ? told_by_transformers(config, images) : told_by_open_clip(config, images);
  // OpenAI's state dicts keep these sizes among the tensors; their heads are 64 wide.
  const std::map<std::string, std::string> names = plain_names(source);
  if (!transformers && names.contains("input_resolution") && names.contains("context_length") &&
      width % 64 == 0)
    return {source.path, width / 64, true, 1e-5};
  fail_weights(source, fmt::format("nothing tells its heads and activation; put its {} beside it",
                                   transformers ? "config.json" : "open_clip_config.json"));
}

const Naming* naming_of(const TensorSource& source, std::span<const Naming> towers) {
  const std::map<std::string, std::string> names = plain_names(source);
  for (const Naming& naming : towers)
    if (names.contains(naming.marker)) return &naming;
  return nullptr;
}

int64_t dim_of(const TensorSource& source, const std::string& name, size_t rank, size_t axis) {
  const auto found = source.tensors.find(name);
  if (found == source.tensors.end()) fail_weights(source, fmt::format("no tensor {}", name));
  if (found->second.shape.size() != rank)
    fail_weights(source, fmt::format("{} does not have {} dimensions", name, rank));
  const int64_t dim = found->second.shape[axis];
  if (dim < 1 || dim > 1'000'000) fail_weights(source, fmt::format("{} has a size of {}", name, dim));
  return dim;
}

void check_heads(const TensorSource& source, const Told& told, int64_t width) {
  if (told.heads < 1 || width % told.heads != 0)
    fail_weights(source, fmt::format("{} heads, as {} says, do not divide its width of {}", told.heads,
                                     told.path, width));
}

TextConfig text_config_of(const TensorSource& text, const Told& told) {
  TextConfig config;
  config.vocabulary = dim_of(text, "token_embedding", 2, 0);
  config.width = dim_of(text, "token_embedding", 2, 1);
  config.context = dim_of(text, "positions", 2, 0);
  config.depth = depth_of(text);
  config.hidden = dim_of(text, "blocks.0.mlp.fc2.weight", 2, 1);
  config.projection = dim_of(text, "projection.weight", 2, 0);
  config.layerscale = text.has("blocks.0.ls1.gamma") ? 1.0 : 0.0;
  config.heads = told.heads;
  config.quick_gelu = told.quick_gelu;
  config.norm_eps = told.norm_eps;
  check_heads(text, told, config.width);
  if (config.context < 2) fail_weights(text, "texts of one token");
  return config;
}

std::unique_ptr<TextModel> model_of(const TextConfig& config, const TensorSource& source,
                                    const char* format) {
  auto model = std::make_unique<TextModel>();
  model->config = config;
  append_text_layout(model->layout, config);
  model->weights = take_parameters(model->layout, source);
  model->description = fmt::format("text tower{}, {:.1f} M parameters", format,
                                   static_cast<double>(model->layout.count()) / 1e6);
  return model;
}

TextConfig read_text_fact(const std::string& text, const std::string& path) {
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded() || !json.is_object())
    fail_weights(path, fmt::format("\"{}\" is no configuration", kTextFact));
  const ConfigFields fields{json, path};
  TextConfig config;
  for (const auto& [key, to] :
       {std::pair("vocabulary", &config.vocabulary), std::pair("context", &config.context),
        std::pair("width", &config.width), std::pair("depth", &config.depth),
        std::pair("heads", &config.heads), std::pair("hidden", &config.hidden),
        std::pair("projection", &config.projection)})
    if ((*to = fields.size(key)) < 1) fail_weights(path, fmt::format("\"{}\" is not a size", key));
  config.quick_gelu = fields.flag("quick_gelu", false);
  config.layerscale = fields.number("layerscale", 0);
  config.norm_eps = fields.number("norm_eps", 1e-5);
  if (config.width % config.heads != 0) fail_weights(path, "\"width\" is not a multiple of \"heads\"");
  return config;
}

std::unique_ptr<TextModel> own_text_model(const std::string& path) {
  const TensorSource source = open_safetensors(path);
  const auto fact = source.facts.find(kTextFact);
  if (fact == source.facts.end() || fact->second.size() > 4096)
    fail_weights(source, fmt::format("no \"{}\" among its metadata", kTextFact));
  const TextConfig config = read_text_fact(fact->second, path);
  if (depth_of(source) != config.depth)
    fail_weights(source, "another number of blocks than its configuration says");
  return model_of(config, source, "");
}

/// The file of weights that a reference means.
std::string weights_file(const std::string& reference) {
  if (!path_exists(reference))
    throw MissingInputError(fmt::format("no weights: {}: no such file or folder", reference));
  if (!is_folder(reference)) return reference;
  for (const char* name : kWeightsFiles)
    if (path_exists(reference + name)) return reference + name;
  throw MissingInputError(
      fmt::format("no weights: {}: a folder without a CLIP model; give a Hugging Face or OpenCLIP folder, or "
                  "what align wrote",
                  reference));
}

}  // namespace

bool has_clip_names(const TensorSource& source) {
  return std::any_of(source.tensors.begin(), source.tensors.end(), [](const auto& entry) {
    const std::string bare = "." + without_wrappers(entry.first);
    const auto is_marker = [&](const Naming& naming) {
      return bare.ends_with(std::string(".") + naming.marker);
    };
    return std::any_of(std::begin(kImages), std::end(kImages), is_marker) ||
           std::any_of(std::begin(kTexts), std::end(kTexts), is_marker);
  });
}

std::unique_ptr<Backbone> clip_backbone(const TensorSource& source, int64_t heads) {
  const Naming* naming = naming_of(source, kImages);
  if (naming == nullptr) fail_weights(source, "a text tower without an image tower");
  const TensorSource images = Tower(source, *naming).result();
  const int64_t width = dim_of(images, "cls_token", 3, 2);
  const Told told = told_of(source, *naming, true, width);
  check_heads(source, told, width);
  VitConfig config = infer_config(images, settled_heads(told.path, told.heads, heads));
  config.heads = told.heads;
  config.norm_eps = told.norm_eps;
  config.quick_gelu = told.quick_gelu;
  config.input_norm = images.has("norm_pre.weight");
  config.projection = images.has("projection.weight") ? dim_of(images, "projection.weight", 2, 0) : 0;
  config.position_kernel = PositionKernel::target_size;
  config.interpolate_offset = 0;
  auto backbone = backbone_of(config, images);
  backbone->description = fmt::format("CLIP image tower, {:.1f} M parameters",
                                      static_cast<double>(backbone->layout.count()) / 1e6);
  return backbone;
}

std::unique_ptr<TextModel> load_text_model(const std::string& reference) {
  const std::string own = reference + kTextFile;
  std::unique_ptr<TextModel> model;
  if (is_folder(reference) && path_exists(own)) {
    model = own_text_model(own);
  } else {
    const TensorSource source = open_tensors(weights_file(reference));
    const Naming* naming = naming_of(source, kTexts);
    if (naming == nullptr) fail_weights(source, "no text tower of a CLIP model");
    const TensorSource text = Tower(source, *naming).result();
    const Told told = told_of(source, *naming, false, dim_of(text, "token_embedding", 2, 1));
    model = model_of(text_config_of(text, told), text, " of a CLIP model");
  }
  model->source = reference;
  model->sha256 = weights_digest(model->layout, model->weights);
  return model;
}

void write_text_model(const TextModel& model, const std::string& folder) {
  const TextConfig& config = model.config;
  const OrderedJson json = {{"vocabulary", config.vocabulary}, {"context", config.context},
                            {"width", config.width},           {"depth", config.depth},
                            {"heads", config.heads},           {"hidden", config.hidden},
                            {"projection", config.projection}, {"quick_gelu", config.quick_gelu},
                            {"layerscale", config.layerscale}, {"norm_eps", config.norm_eps}};
  std::map<std::string, ConstTensorView> tensors;
  for (const ParameterInfo& info : model.layout.parameters())
    tensors.emplace(info.name.substr(info.module.size() + 1), model.weights.view(info));
  make_folders(folder);
  write_safetensors(folder + kTextFile, {tensors.begin(), tensors.end()}, {{kTextFact, json_line(json)}});
}

std::unique_ptr<TextModel> random_text_model(const TextConfig& config, uint64_t seed) {
  auto model = std::make_unique<TextModel>();
  model->config = config;
  append_text_layout(model->layout, config);
  model->weights = ParameterStore(model->layout);
  model->weights.initialize(seed);
  model->source = fmt::format("random:{}", seed);
  model->description = fmt::format("random text tower, seed {}", seed);
  model->sha256 = weights_digest(model->layout, model->weights);
  return model;
}

}  // namespace dino
