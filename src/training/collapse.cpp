// SPDX-License-Identifier: Apache-2.0
#include "training/collapse.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>

#include "base/json.hpp"
#include "training/health.hpp"

namespace dino {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
/// Below this share of what a batch allows, targets say nothing about the image and features are constant.
constexpr double kNothing = 0.02;
/// Less than this share of the best value so far is a fall, not the noise of small batches.
constexpr double kFall = 0.5;
/// So little is no matter of a hotter teacher.
constexpr double kFallFar = 0.2;
/// Training may lower the rank of a network that was drawn with a high one: alone, less is a sign.
constexpr double kRankFallAlone = 0.25;
/// Information that rises and is above this is on its way.
constexpr double kSomeNats = 1e-3;
/// Before that many steps, or the end of the warm-up, a network is still what it was drawn as: with the
/// published LayerScale of 1e-5 its features are constant then.
constexpr double kFirstSteps = 50;

double mean_of(const std::vector<double>& values, size_t begin, size_t end) {
  double sum = 0;
  int64_t count = 0;
  for (size_t i = begin; i < std::min(end, values.size()); ++i)
    if (std::isfinite(values[i])) {
      sum += values[i];
      ++count;
    }
  return count == 0 ? kNan : sum / static_cast<double>(count);
}

/// Means over tenths of the log, which single batches do not sway.
struct Course {
  double first = kNan, best = kNan, last = kNan;
  [[nodiscard]] bool known() const { return std::isfinite(last); }
};

Course course_of(const std::vector<double>& values) {
  const size_t n = values.size(), window = std::max<size_t>(1, n / 10);
  Course course;
  course.first = mean_of(values, 0, window);
  course.last = mean_of(values, n - std::min(n, window), n);
  for (size_t end = n; end >= window && end > 0; end -= window)
    course.best = std::fmax(course.best, mean_of(values, end - window, end));
  return course;
}

/// " of at most 3.466", when the most is known.
std::string at_most(double limit, const char* format = " of at most {:.3f}") {
  return std::isfinite(limit) ? fmt::format(fmt::runtime(format), limit) : "";
}

struct Signs {
  Course information, rank;  ///< rank: less 1, so that constant features have 0
  HealthLimits limits;
  bool no_information = false, information_fell = false, information_fell_far = false;
  bool no_rank = false, rank_fell = false, rank_fell_far = false;
  bool rising = false;
};

Signs signs_of(const HealthHistory& history) {
  Signs s;
  s.limits = health_limits(history.batch, history.prototypes, history.width);
  s.information = course_of(history.information);
  s.rank = course_of(history.effective_rank);
  for (double* value : {&s.rank.first, &s.rank.best, &s.rank.last}) *value -= 1;
  // Where nothing is known of the batch, the smallest batch that can be judged stands for it.
  const double information = std::isfinite(s.limits.information) ? s.limits.information : std::log(4.0);
  const double rank = std::isfinite(s.limits.effective_rank) ? s.limits.effective_rank - 1 : 1.0;
  s.no_information = s.information.last < kNothing * information;
  s.no_rank = s.rank.last < kNothing * rank;
  s.information_fell = s.information.last < kFall * s.information.best;
  s.information_fell_far = s.information.last < kFallFar * s.information.best;
  s.rank_fell = s.rank.last < kFall * s.rank.best;
  s.rank_fell_far = s.rank.last < kRankFallAlone * s.rank.best;
  s.rising = s.information.last > std::max(2 * s.information.first, kSomeNats) && !s.no_rank &&
             s.information.last >= s.information.best;
  return s;
}

std::string numbers(const HealthHistory& history, const Signs& s) {
  std::string text;
  if (s.information.known())
    text += fmt::format("Teacher information went from {:.3f} to {:.3f} nats{}. ", s.information.first,
                        s.information.last, at_most(s.limits.information));
  if (s.rank.known())
    text += fmt::format("The features' effective rank went from {:.1f} to {:.1f}{}. ", s.rank.first + 1,
                        s.rank.last + 1, at_most(s.limits.effective_rank, " of at most {:.0f}"));
  const Course usage = course_of(history.prototype_usage);
  if (usage.known()) {
    text += fmt::format("A step's targets peak on {:.3g} % of the prototypes", 100 * usage.last);
    if (std::isfinite(s.limits.prototype_usage) && s.limits.prototype_usage < 1)
      text += fmt::format(", where its {} rows can reach {:.3g} %", 2 * history.batch,
                          100 * s.limits.prototype_usage);
    text += ". ";
  }
  if (!text.empty()) text.pop_back();
  return text;
}

/// What targets without information look like.
std::string targets_in_words(const HealthHistory& history) {
  const double entropy = course_of(history.teacher_entropy).last;
  const double uniform = history.prototypes > 1 ? std::log(static_cast<double>(history.prototypes)) : kNan;
  if (entropy > 0.9 * uniform) return "the teacher's targets are uniform, whatever the image";
  if (entropy < 0.1 * uniform) return "the teacher gives every image the same prototype";
  return "the teacher's targets are the same for every image";
}

std::vector<double> column(const std::vector<Json>& lines, const char* name) {
  std::vector<double> values;
  bool any = false;
  for (const Json& line : lines) {
    const auto it = line.find(name);
    const bool number = it != line.end() && it->is_number();
    values.push_back(number ? it->get<double>() : kNan);
    any = any || number;
  }
  return any ? values : std::vector<double>{};
}

}  // namespace

HealthLimits health_limits(int64_t batch, int64_t prototypes, int64_t width) {
  constexpr auto kInfinite = std::numeric_limits<double>::infinity();
  const double rows = batch > 0 ? 2 * static_cast<double>(batch) : kInfinite;
  const double k = prototypes > 0 ? static_cast<double>(prototypes) : kInfinite;
  HealthLimits limits;
  limits.information = std::log(std::min(rows, k));
  if (!std::isfinite(limits.information)) limits.information = kNan;
  limits.prototype_usage = batch > 0 && prototypes > 0 ? std::min(1.0, rows / k) : kNan;
  limits.effective_rank = std::min(
      {rows / 2, static_cast<double>(kRankRows), width > 0 ? static_cast<double>(width) : kInfinite});
  return limits;
}

HealthHistory read_health_history(const std::string& path, double last_step) {
  HealthHistory history;
  std::ifstream file(path);
  std::vector<Json> lines;
  for (std::string text; std::getline(file, text);) {
    const Json json = Json::parse(text, nullptr, false);
    if (!json.is_object()) continue;
    const auto number = [&](const char* name) {
      const auto it = json.find(name);
      return it != json.end() && it->is_number() ? it->get<double>() : 0.0;
    };
    const auto setting = [&](const char* name) {
      return static_cast<int64_t>(std::clamp(number(name), 0.0, 1e12));
    };
    if (json.contains("event")) {
      if (json["event"] == "knn" && number("step") <= last_step) {
        history.knn_step.push_back(number("step"));
        history.knn_accuracy.push_back(number("accuracy"));
        history.knn_images.push_back(number("n"));
      }
      if (json["event"] != "start") continue;
      history.batch = setting("batch");
      history.prototypes = setting("prototypes");
      history.width = setting("width");
      history.warmup = number("warmup");
    } else if (json.contains("step") && json["step"].is_number() && number("step") <= last_step) {
      Json line;
      for (const char* name : {"step", "information", "teacher_entropy", "prototype_usage", "effective_rank"})
        if (json.contains(name)) line[name] = json[name];
      lines.push_back(std::move(line));
    }
  }
  history.step = column(lines, "step");
  history.information = column(lines, "information");
  history.teacher_entropy = column(lines, "teacher_entropy");
  history.prototype_usage = column(lines, "prototype_usage");
  history.effective_rank = column(lines, "effective_rank");
  return history;
}

const char* name_of(CollapseVerdict::Level level) {
  constexpr const char* names[] = {"good", "attention", "problem"};
  return names[static_cast<size_t>(level)];
}

namespace {

/// Empty where downstream has not fallen.
struct Peak {
  std::string title, why;
};

Peak downstream_peak(const HealthHistory& history) {
  const std::vector<double>& accuracy = history.knn_accuracy;
  if (accuracy.size() < 2) return {};
  const auto best = std::max_element(accuracy.begin(), accuracy.end());
  const double last = accuracy.back(), images = std::max(1.0, history.knn_images.back());
  // Of a difference of two shares; that the images are the same ones makes it smaller.
  const double error = std::sqrt((*best * (1 - *best) + last * (1 - last)) / images);
  if (*best - last <= 2 * error) return {};
  const double step = history.knn_step[static_cast<size_t>(best - accuracy.begin())];
  const std::string title = fmt::format("Downstream peaked at step {:.0f}", step);
  return {title, fmt::format(" {}: the online k-NN had {:.1f} % then, and {:.1f} % at step {:.0f}.", title,
                             100 * *best, 100 * last, history.knn_step.back())};
}

CollapseVerdict judge_course(const HealthHistory& history) {
  using Level = CollapseVerdict::Level;
  const Signs s = signs_of(history);
  if (!s.information.known() && !s.rank.known())
    return {Level::attention, "Collapse cannot be judged",
            "The log has neither information nor effective_rank."};
  const std::string seen = numbers(history, s);
  if (history.batch == 1)
    return {Level::attention, "Collapse cannot be judged",
            "A step sees one image, and nothing tells images apart in it. " + seen};
  const bool bad = s.no_information || s.no_rank || s.information_fell || s.rank_fell_far;
  if (!bad) return {Level::good, "No sign of collapse", seen};
  const double steps = history.step.empty() ? 0 : history.step.back();
  const double needed = std::max(kFirstSteps, history.warmup);
  if (steps < needed)
    return {Level::attention, "Too early to judge collapse",
            fmt::format("Step {:.0f}; before step {:.0f} a network may still be what it began as. {}", steps,
                        needed, seen)};
  if (s.no_information && s.rising)
    return {Level::attention, "The teacher tells little about an image yet", seen + " It is rising."};
  std::string cause;
  if (s.no_information)
    cause = targets_in_words(history);
  else if (s.no_rank)
    cause = "the features of all images are nearly the same";
  else if (s.information_fell_far || (s.information_fell && (s.rank_fell || !s.rank.known())))
    cause = fmt::format("information fell to {:.0f} % of its best",
                        100 * s.information.last / s.information.best);
  if (!cause.empty())
    return {Level::problem, "Signs of collapse",
            seen + " That is a collapse: " + cause + ". See the curves, and the teacher temperature first."};
  return {Level::attention,
          s.information_fell ? "Teacher information has fallen" : "The effective rank has fallen",
          seen + " In a collapse both fall: see the curves."};
}

}  // namespace

CollapseVerdict judge_collapse(const HealthHistory& history) {
  CollapseVerdict verdict = judge_course(history);
  const Peak peak = downstream_peak(history);
  if (peak.title.empty()) return verdict;
  verdict.why += peak.why;
  if (verdict.level == CollapseVerdict::Level::good)
    verdict = {CollapseVerdict::Level::attention, peak.title, verdict.why};
  return verdict;
}

}  // namespace dino
