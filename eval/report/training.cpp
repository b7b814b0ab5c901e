// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/axis.hpp"
#include "report/html.hpp"
#include "report/parts.hpp"
#include "report/plot.hpp"

namespace dino::eval {

namespace {

using report::LinePlot;
using report::Series;

struct Curve {
  const char* column;
  const char* name;
};

LinePlot plot_of(const TrainingRun& run, const std::string& title, const std::string& unit,
                 const std::vector<Curve>& curves, bool log_y = false) {
  LinePlot plot{title, "step", unit, {}, log_y};
  for (const Curve& curve : curves)
    if (run.has(curve.column))
      plot.series.push_back({curve.name, run.step, run.columns.at(curve.column), false});
  return plot;
}

void add_baseline(LinePlot& plot, const TrainingRun& run, const std::string& name, double value) {
  if (run.step.empty() || !std::isfinite(value)) return;
  plot.series.push_back({name, {run.step.front(), run.step.back()}, {value, value}, true});
}

std::string drawn(const LinePlot& plot) {
  return plot.series.empty() ? "" : report::line_plot(plot);
}

std::string figures(const std::string& title, const std::string& note, const std::string& content) {
  if (content.empty()) return {};
  return "<h3>" + title + "</h3>" + (note.empty() ? "" : "<p class=\"note before\">" + note + "</p>") +
         "<div class=\"figures\">" + content + "</div>\n";
}

std::string loss_figures(const TrainingRun& run) {
  const TrainingEvent* start = run.start();
  LinePlot dino = plot_of(run, "DINO loss", "nats",
                          {{"loss_dino_global", "global crops"}, {"loss_dino_local", "local crops"}});
  LinePlot ibot = plot_of(run, "iBOT loss", "nats", {{"loss_ibot", "masked patches"}});
  if (start != nullptr && start->numbers.count("ln_k") > 0) {
    const double ln_k = start->numbers.at("ln_k");
    const double prototypes =
        start->numbers.count("prototypes") > 0 ? start->numbers.at("prototypes") : std::round(std::exp(ln_k));
    const double other =
        start->numbers.count("ibot_prototypes") > 0 ? start->numbers.at("ibot_prototypes") : prototypes;
    if (!dino.series.empty())
      add_baseline(dino, run, fmt::format("ln K = {:.3f}, K = {:.0f}", ln_k, prototypes), ln_k);
    if (!ibot.series.empty())
      add_baseline(ibot, run, fmt::format("ln K = {:.3f}, K = {:.0f}", std::log(other), other),
                   std::log(other));
  }
  return figures(
      "Losses",
      "A DINO or iBOT loss that climbs back to ln K, its value for a constant output, means collapse.",
      drawn(dino) + drawn(ibot) + drawn(plot_of(run, "KoLeo", "nats", {{"loss_koleo", "KoLeo"}})) +
          drawn(plot_of(run, "Total loss", "weighted sum", {{"loss", "total"}})));
}

std::string health_figures(const TrainingRun& run) {
  const HealthHistory history = health_history(run);
  const HealthLimits limits = health_limits(history.batch, history.prototypes, history.width);
  const std::string rows = fmt::format("most that {} rows can have", 2 * history.batch);
  // A curve with the most that a step of this batch can measure.
  const auto limited = [&](LinePlot plot, const std::string& name, double limit) {
    if (history.batch > 0 && !plot.series.empty()) add_baseline(plot, run, name, limit);
    return drawn(plot);
  };
  LinePlot entropy =
      plot_of(run, "Teacher entropy", "nats", {{"teacher_entropy", "mean entropy of the targets"}});
  if (const TrainingEvent* start = run.start();
      start != nullptr && start->numbers.count("ln_k") > 0 && !entropy.series.empty())
    add_baseline(entropy, run, "ln K", start->numbers.at("ln_k"));
  return figures(
      "Health",
      "Information is the entropy of the mean target minus the mean entropy of the targets: what the "
      "prototypes tell about an image. It is the earliest sign of collapse. A step measures no more than its "
      "batch allows: the usage of prototypes, capped by it, tells no collapse.",
      limited(plot_of(run, "Information", "nats", {{"information", "information"}}), rows,
              limits.information) +
          drawn(entropy) +
          drawn(plot_of(run, "KL divergence of student from teacher", "nats", {{"kl", "KL"}})) +
          limited(plot_of(run, "Prototype usage", "share", {{"prototype_usage", "usage"}}), rows,
                  limits.prototype_usage) +
          limited(plot_of(run, "Effective rank of the features", "dimensions", {{"effective_rank", "rank"}}),
                  "most that its images can have", limits.effective_rank) +
          drawn(plot_of(run, "Standard deviation of the features", "", {{"feature_std", "std"}})));
}

std::string knn_figure(const TrainingRun& run) {
  Series series{"k-NN accuracy", {}, {}, false};
  for (const TrainingEvent& e : run.events)
    if (e.name == "knn" && e.numbers.count("accuracy") > 0) {
      series.x.push_back(e.step);
      series.y.push_back(e.numbers.at("accuracy"));
    }
  if (series.x.empty()) return {};
  return figures("Online k-NN",
                 "Accuracy of the teacher's features while it trained, on the set that was given to the run.",
                 report::line_plot({"k-NN accuracy during training", "step", "top-1", {series}, false}));
}

std::string event_table(const TrainingRun& run) {
  std::vector<std::vector<std::string>> rows;
  for (const TrainingEvent& e : run.events) {
    if (e.name == "checkpoint" || e.name == "knn") continue;
    std::string what;
    for (const auto& [name, value] : e.numbers)
      if (name != "step")
        what += fmt::format("{}{} {}", what.empty() ? "" : ", ", name, report::short_number(value, 6));
    for (const auto& [name, value] : e.texts)
      if (name != "event" && name != "config")
        what += fmt::format("{}{} {}", what.empty() ? "" : ", ", name, value);
    rows.push_back({fmt::format("{:.0f}", e.step), report::escape(e.name), report::escape(what)});
  }
  if (rows.size() > 60) rows.resize(60);
  return rows.empty() ? ""
                      : "<details><summary>Starts, resumes, skipped steps, outliers and rollbacks</summary>" +
                            report::table({{"step", true}, {"event"}, {"what"}}, rows) + "</details>\n";
}

}  // namespace

HealthHistory health_history(const TrainingRun& run) {
  const auto column = [&](const char* name) {
    return run.has(name) ? run.columns.at(name) : std::vector<double>{};
  };
  HealthHistory history{run.step,
                        column("information"),
                        column("teacher_entropy"),
                        column("prototype_usage"),
                        column("effective_rank"),
                        0,
                        0,
                        0,
                        0};
  const TrainingEvent* start = run.start();
  const auto setting = [&](const char* name) {
    const bool known = start != nullptr && start->numbers.count(name) > 0;
    return known ? static_cast<int64_t>(std::clamp(start->numbers.at(name), 0.0, 1e12)) : 0;
  };
  history.batch = setting("batch");
  history.prototypes = setting("prototypes");
  history.width = setting("width");
  history.warmup = static_cast<double>(setting("warmup"));
  for (const TrainingEvent& e : run.events)
    if (e.name == "knn" && e.numbers.count("accuracy") > 0 && e.numbers.count("n") > 0) {
      history.knn_step.push_back(e.step);
      history.knn_accuracy.push_back(e.numbers.at("accuracy"));
      history.knn_images.push_back(e.numbers.at("n"));
    }
  return history;
}

std::string training_html(const TrainingRun& run, const ModelColours& colours) {
  // All curves are the run's, in shades of its model's colour.
  std::string out = "<div class=\"run\" style=\"--run:" + report::escape(colours.of_run(run)) + "\">\n" +
                    checks_html({collapse_check(run)});
  out += loss_figures(run) + health_figures(run) + knn_figure(run);
  out += figures("Gradient norms before clipping", "",
                 drawn(plot_of(run, "Gradient norm", "per module",
                               {{"grad_norm_backbone", "backbone"},
                                {"grad_norm_dino_head", "DINO head"},
                                {"grad_norm_ibot_head", "iBOT head"}},
                               true)));
  out +=
      figures("Schedules", "",
              drawn(plot_of(run, "Learning rate", "", {{"lr", "lr"}})) +
                  drawn(plot_of(run, "Weight decay", "", {{"weight_decay", "weight decay"}})) +
                  drawn(plot_of(run, "Momentum of the teacher", "", {{"momentum", "momentum"}})) +
                  drawn(plot_of(run, "Teacher temperature", "", {{"teacher_temperature", "temperature"}})));
  out += figures(
      "Throughput", "",
      drawn(plot_of(run, "Images per second", "all ranks", {{"images_per_second", "images/s"}})) +
          drawn(plot_of(run, "Waiting for data", "seconds per step", {{"data_wait_seconds", "wait"}})));
  return out + event_table(run) + "</div>\n";
}

}  // namespace dino::eval
