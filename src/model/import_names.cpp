// SPDX-License-Identifier: Apache-2.0
// Which tensors of a foreign file are the backbone's: those below the stem of its patch embedding.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/log.hpp"
#include "model/tensor_source.hpp"

namespace dino {
namespace {

constexpr const char* kPatchEmbeddings[] = {"patch_embed.proj.weight",
                                            "embeddings.patch_embeddings.projection.weight"};

using Words = std::vector<std::string>;

bool is_number(const std::string& text) {
  return !text.empty() && text.size() <= 6 &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

Words split(const std::string& name, const char* separators) {
  Words words;
  for (size_t at = 0; at <= name.size();) {
    const size_t end = std::min(name.find_first_of(separators, at), name.size());
    words.push_back(name.substr(at, end - at));
    at = end + 1;
  }
  return words;
}

/// "blocks.2.13.norm1.weight" -> "blocks.13.norm1.weight": the reference's chunks for FSDP.
std::string without_chunk(const std::string& name) {
  if (!name.starts_with("blocks.")) return name;
  const size_t first = name.find('.', 7);
  if (first == std::string::npos) return name;
  const size_t second = name.find('.', first + 1);
  if (second == std::string::npos || !is_number(name.substr(7, first - 7)) ||
      !is_number(name.substr(first + 1, second - first - 1)))
    return name;
  return "blocks." + name.substr(first + 1);
}

enum class Role : uint8_t { neutral, teacher, student, aside };

/// What the words of a stem say about its network. An average of the weights is the teacher of a training.
Role role_of(const std::string& stem) {
  constexpr const char* teacher[] = {"teacher", "ema", "momentum", "target", "averaged", "swa", "avg"};
  constexpr const char* student[] = {"student", "online"};
  constexpr const char* aside[] = {"decoder", "predictor", "text", "gram"};
  Role role = Role::neutral;
  for (const std::string& part : split(stem, ".")) {
    if (part == "encoder_k") role = Role::teacher;
    if (part == "encoder_q") role = Role::student;
    for (const std::string& word : split(part, "_-")) {
      const auto in = [&](const auto& list) {
        return std::any_of(std::begin(list), std::end(list), [&](const char* w) { return word == w; });
      };
      if (in(aside)) return Role::aside;
      if (in(teacher)) role = Role::teacher;
      if (in(student)) role = Role::student;
    }
  }
  return role;
}

const char* name_of(Role role) {
  return role == Role::teacher ? "teacher" : "student";
}

std::string listed(const Words& stems) {
  std::string text;
  for (size_t i = 0; i < stems.size() && i < 8; ++i)
    text += (i == 0 ? "" : ", ") + (stems[i].empty() ? "(no prefix)" : shown_name(stems[i]));
  return stems.size() > 8 ? text + ", ..." : text;
}

/// The stem to read. Without a role in its name, a network counts for either; beside one that has a role it
/// counts for the other.
std::string choose(const TensorSource& source, const Words& stems, Network which) {
  const Role asked = which == Network::student ? Role::student : Role::teacher;
  std::array<Words, 4> by_role;
  for (const std::string& stem : stems) by_role[static_cast<size_t>(role_of(stem))].push_back(stem);
  const auto of = [&](Role role) -> const Words& { return by_role[static_cast<size_t>(role)]; };
  const Role other = asked == Role::student ? Role::teacher : Role::student;
  const Words& found = !of(asked).empty()           ? of(asked)
                       : !of(Role::neutral).empty() ? of(Role::neutral)
                       : !of(other).empty()         ? of(other)
                                                    : of(Role::aside);
  if (&found == &of(other))
    fail_weights(source, fmt::format("it holds a {0} but no {1}; ask for --which {0}", name_of(other),
                                     name_of(asked)));
  if (&found == &of(Role::neutral) && asked == Role::teacher && !of(Role::student).empty())
    fail_weights(source, fmt::format("it holds a student ({}) but no teacher; ask for --which student",
                                     listed(of(Role::student))));
  if (found.size() > 1)
    fail_weights(source, fmt::format("several networks could be the {}: {}; save the one that is meant alone",
                                     name_of(which), listed(found)));
  return found.front();
}

bool any_tensor(const TensorSource& source, std::initializer_list<const char*> parts) {
  return std::any_of(source.tensors.begin(), source.tensors.end(), [&](const auto& entry) {
    return std::any_of(parts.begin(), parts.end(),
                       [&](const char* part) { return entry.first.find(part) != std::string::npos; });
  });
}

void refuse_flat(const TensorSource& source) {
  if (any_tensor(source, {"_flat_param", "flat_param_", "flat_params"}))
    fail_weights(
        source,
        "it holds flat FSDP tensors (_flat_param), whose names and shapes are lost; save a full state "
        "dict (StateDictType.FULL_STATE_DICT) and give that");
}

/// Nothing is called like a patch embedding: what is it then?
[[noreturn]] void refuse_stranger(const TensorSource& source) {
  refuse_flat(source);
  for (const auto& [name, type] : source.opaque)
    for (const char* end : kPatchEmbeddings)
      if (name.ends_with(end))
        fail_weights(source, fmt::format("{} is a {}, which is no plain tensor; save a full state dict (of "
                                         "whole, unsharded tensors on the CPU)",
                                         shown_name(name), shown_name(type)));
  if (any_tensor(source, {"visual.", "vision_model."}))
    fail_weights(source,
                 "its image tower is none of CLIP's vision transformers (a ResNet, SigLIP, or timm's)");
  if (any_tensor(source, {"embeddings.patch_embeddings.weight"}))
    fail_weights(source, "a DINOv3 model in Hugging Face's names, which is not read yet");
  fail_weights(source,
               fmt::format("no tensor {}, so it is not a DINOv2 or ViT backbone", kPatchEmbeddings[0]));
}

/// "teacher.backbone." for every patch embedding of a file.
Words stems_of(const std::map<std::string, std::string>& names) {
  std::set<std::string> stems;
  for (const auto& [old, plain] : names)
    for (const std::string end : kPatchEmbeddings)
      if (plain.ends_with(end) && (plain.size() == end.size() || plain[plain.size() - end.size() - 1] == '.'))
        stems.insert(plain.substr(0, plain.size() - end.size()));
  return {stems.begin(), stems.end()};
}

}  // namespace

/// Wrappers put themselves between a module and its name, at the top or in any block: DDP and DeepSpeed
/// "module", and with a leading underscore FSDP, torch.compile, activation checkpointing, Lightning, and the
/// "_modules", "_parameters" and "_buffers" of a module that was pickled whole. No layer is called like that.
std::string without_wrappers(const std::string& name) {
  const Words words = split(name, ".");
  std::string plain;
  for (size_t i = 0; i < words.size(); ++i) {
    const bool last = i + 1 == words.size();
    if (!last && (words[i] == "module" || words[i].starts_with('_'))) continue;
    plain += (plain.empty() ? "" : ".") + words[i];
  }
  return plain;
}

TensorSource backbone_tensors(TensorSource source, Network which) {
  std::map<std::string, std::string> names;
  for (const auto& [name, info] : source.tensors) names.emplace(name, without_wrappers(name));
  const Words stems = stems_of(names);
  if (stems.empty()) refuse_stranger(source);
  const std::string stem = choose(source, stems, which);
  std::map<std::string, std::string> chosen;
  TensorSource result = source;
  result.tensors.clear();
  for (const auto& [old, plain] : names) {
    if (!plain.starts_with(stem)) continue;
    // A network inside this one's prefix, as an average kept in the module itself.
    if (std::any_of(stems.begin(), stems.end(), [&](const std::string& other) {
          return other.size() > stem.size() && other.starts_with(stem) && plain.starts_with(other);
        }))
      continue;
    const std::string name = without_chunk(plain.substr(stem.size()));
    if (const auto [at, fresh] = chosen.emplace(name, old); !fresh)
      fail_weights(source, fmt::format("{} and {} are both {}", shown_name(at->second), shown_name(old),
                                       shown_name(name)));
    result.tensors.emplace(name, source.tensors.at(old));
  }
  refuse_flat(result);
  if (result.has("rope_embed.periods") || result.has("storage_tokens"))
    fail_weights(source, "a DINOv3 model (rotary positions), which is not read yet");
  result.facts.emplace("stem", stem);
  result.opaque.clear();
  for (const auto& [old, type] : source.opaque)
    if (const std::string plain = without_wrappers(old); plain.starts_with(stem))
      result.opaque.emplace(without_chunk(plain.substr(stem.size())), type);
  result.read = [read = std::move(source.read), chosen = std::move(chosen)](const std::string& name) {
    return read(chosen.at(name));
  };
  return result;
}

}  // namespace dino
