// SPDX-License-Identifier: Apache-2.0
#include "report/colours.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "report/html.hpp"

namespace dino::eval {

ModelColours::ModelColours(const ReportInput& input) {
  for (const LocatedRow& located : all_rows(input)) {
    const std::string& model = located.row->model;
    if (!is_floor(model) && std::find(models_.begin(), models_.end(), model) == models_.end())
      models_.push_back(model);
  }
  for (const char* floor : {"random-weights", "raw-pixels"})
    for (const LocatedRow& located : all_rows(input))
      if (located.row->model == floor) {
        models_.emplace_back(floor);
        break;
      }
}

std::string ModelColours::of(const std::string& model) const {
  constexpr size_t kHues = 8;
  if (model == "random-weights") return "var(--f1)";
  if (model == "raw-pixels") return "var(--f2)";
  const auto it = std::find(models_.begin(), models_.end(), model);
  if (it == models_.end()) return "var(--bar)";
  const auto place = static_cast<size_t>(it - models_.begin());
  const size_t round = place / kHues;
  const std::string hue = fmt::format("var(--m{})", place % kHues + 1);
  // A ninth model is the first hue again, but nearer to the text's colour: no two are the same.
  return round == 0 ? hue
                    : fmt::format("color-mix(in oklab,{} {:.4g}%,var(--fg))", hue,
                                  100.0 / (1.0 + 0.8 * static_cast<double>(round)));
}

std::string ModelColours::of_run(const TrainingRun& run) const {
  const size_t slash = run.folder.find_last_not_of('/');
  const std::string folder = run.folder.substr(0, slash == std::string::npos ? 0 : slash + 1);
  const std::string name = folder.substr(folder.rfind('/') + 1);
  for (const std::string& model : models_)
    if (!is_floor(model) && (model == name || model.starts_with(name + "/"))) return of(model);
  return models_.empty() || is_floor(models_.front()) ? "var(--m1)" : of(models_.front());
}

std::string ModelColours::label(const std::string& model) const {
  std::string name;
  for (const char c : report::escape(model)) {  // a long name may break after its folders
    name += c;
    if (c == '/') name += "<wbr />";
  }
  return fmt::format(
      "<span class=\"model\"><span class=\"swatch{}\" style=\"--c:{}\"></span><span{}>{}</span></span>",
      is_floor(model) ? " square" : "", report::escape(of(model)),
      is_floor(model) ? " class=\"floor\" title=\"floor\"" : "", name);
}

}  // namespace dino::eval
