// SPDX-License-Identifier: Apache-2.0
#include "folder_chain.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "base/error.hpp"
#include "base/text.hpp"
#include "base/version.hpp"
#include "chain.hpp"
#include "storage/files.hpp"
#include "storage/output_kind.hpp"

namespace dino {
namespace {

namespace fs = std::filesystem;

std::string template_file() {
  return share_dir() + "/chains/folder.cfg";
}

std::string absolute(const std::string& path) {
  std::string text = fs::absolute(path).lexically_normal().string();
  while (text.size() > 1 && text.back() == '/') text.pop_back();
  return text;
}

/// The reference as a chain holds it: a path that is there becomes absolute, the name of a data set stays.
std::string settled_data(const std::string& data) {
  if (path_exists(data)) return absolute(data);
  const std::string name = data.substr(0, data.find('/'));
  if (!name.empty() && name[0] != '.' && path_exists(fmt::format("{}/datasets/{}.cfg", share_dir(), name)))
    return data;
  throw MissingInputError(fmt::format(
      "cannot find the pictures: --data {}: no such folder or file, and no data set of that name; "
      "give a folder of pictures",
      data));
}

std::string settled_weights(const std::string& weights) {
  if (weights.empty() || path_exists(weights)) return weights.empty() ? "" : absolute(weights);
  throw MissingInputError(fmt::format(
      "cannot find the weights: --weights {}: no such folder or file; give one, or leave the option out",
      weights));
}

/// What the data is called in results: the last part of a path, or the data set's name.
std::string leaf_of(const std::string& data) {
  const std::string name = path_exists(data) ? fs::path(data).filename().string() : data;
  return name.empty() ? "pictures" : printable_name(name);
}

/// As a part of a plain path.
std::string plain(std::string name) {
  std::replace_if(
      name.begin(), name.end(), [](char c) { return c == '/' || !is_plain_path(std::string(1, c)); }, '_');
  return name;
}

void refuse_output_in_data(const std::string& data, const std::string& run) {
  if (!is_folder(data)) return;
  const std::string folder = fs::weakly_canonical(data).string() + "/",
                    inner = fs::weakly_canonical(run).string();
  if (!(inner + "/").starts_with(folder)) return;
  throw UsageError(fmt::format(
      "bad option: --output (command line): {} lies in the pictures' folder {}, and its files would be "
      "read as pictures; choose another place",
      run, data));
}

/// Gives `key` of `section` another value; the line must be there.
void set_value(std::string& text, const std::string& section, const std::string& key,
               const std::string& value) {
  std::string here;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = trim(text.substr(begin, end - begin));
    if (line.starts_with('[')) here = line.substr(1, line.find(']') - 1);
    if (here == section && trim(line.substr(0, line.find('='))) == key &&
        line.find('=') != std::string::npos) {
      text.replace(begin, end - begin, trim(key + " = " + ini_quote(value, false)));
      return;
    }
    begin = end + 1;
  }
  throw InternalError(
      fmt::format("bad chain: {}: [{}] has no {}; reinstall dinohpc", template_file(), section, key));
}

std::string run_of(const FolderChain& wanted) {
  return absolute(wanted.run.empty() ? "runs/" + plain(leaf_of(settled_data(wanted.data))) : wanted.run);
}

/// What --set gives, and the data and weights: the variables that a chain must have to be this one.
std::map<std::string, std::string> wanted_variables(const FolderChain& wanted, const Chain& plain) {
  std::vector<std::string> names;
  for (const auto& [name, value] : plain.variables) names.push_back(name);
  std::map<std::string, std::string> out;
  for (const std::string& word : wanted.set) {
    const size_t equals = word.find('=');
    const std::string name = trim(word.substr(0, equals));
    if (equals == std::string::npos)
      throw UsageError(
          fmt::format("bad option: --set (command line): '{}' is not NAME=VALUE; write it so", word));
    if (std::find(names.begin(), names.end(), name) == names.end()) {
      const std::string nearest = nearest_name(name, names);
      throw UsageError(fmt::format(
          "bad option: --set (command line): the chain has no variable {}; {}", name,
          nearest.empty() ? fmt::format("see {}", template_file()) : "did you mean " + nearest + "?"));
    }
    out[name] = word.substr(equals + 1);
  }
  out["data"] = settled_data(wanted.data);
  out["weights"] = settled_weights(wanted.weights);
  return out;
}

}  // namespace

Schema<FolderChain> folder_options() {
  using C = FolderChain;
  Schema<C> schema;
  schema.add("data", &C::data,
             "The pictures: a folder (sub-folders name classes, if any), tars, a list, or the name of a data "
             "set.");
  schema.add("weights", &C::weights,
             "With --data: weights reference to begin the pretraining from (default: from scratch).");
  schema.add(
      "set", &C::set,
      "With --data: another value for a variable of the chain, NAME=VALUE (train_options='--steps 500').");
  return schema;
}

std::string folder_chain_text(const FolderChain& wanted) {
  std::string text = read_text(template_file());
  std::map<std::string, std::string> variables = wanted_variables(wanted, parse_chain(text, template_file()));
  const std::string data = variables.at("data"), run = run_of(wanted);
  if (!is_plain_path(run))
    throw UsageError(fmt::format(
        "bad option: --output (command line): {} has a space or another special character; choose a "
        "plain path",
        run));
  refuse_output_in_data(data, run);
  variables.emplace("dataset", leaf_of(data));
  set_value(text, "chain", "run", run);
  for (const auto& [name, value] : variables) set_value(text, "variables", name, value);
  (void)parse_chain(text, template_file());
  return text;
}

std::string place_folder_chain(const FolderChain& wanted) {
  const std::string run = run_of(wanted), file = run + "/chain.cfg";
  if (!path_exists(file)) {
    const std::string text = folder_chain_text(wanted);
    refuse_other_output(run, output_kind::chain);
    make_folders(run);
    write_file_atomically(file, text);
    return file;
  }
  const Chain there = read_chain(file);
  for (const auto& [name, value] : wanted_variables(wanted, there)) {
    const auto it = std::find_if(there.variables.begin(), there.variables.end(),
                                 [&, key = name](const auto& variable) { return variable.first == key; });
    const std::string known = it == there.variables.end() ? "" : it->second;
    if (known != value)
      throw UsageError(fmt::format(
          "cannot go on: {}: has {} = '{}', not '{}'; choose another --output, or change that file and run: "
          "dino-jobs local {}",
          file, name, known, value, file));
  }
  return file;
}

}  // namespace dino
