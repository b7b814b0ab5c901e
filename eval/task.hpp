// SPDX-License-Identifier: Apache-2.0
#pragma once
// What a task is: one file in tasks/ that computes, and one line in the list of tasks(). The driver
// (driver.hpp) opens its inputs, skips what RESULTS already holds, and writes rows, predictions and --json;
// sweep, report, compare, --help and the man page read TaskInfo, and know no task by its name.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/program.hpp"
#include "inputs/extractor.hpp"
#include "inputs/feature_file.hpp"
#include "pictures.hpp"
#include "results.hpp"

namespace dino::eval {

/// A number that a task gives, as its readers need to know it.
struct Metric {
  const char* name;
  bool higher_is_better = true;
  bool headline = false;  ///< stands in the report's first table, its plots and its verdicts
};

[[nodiscard]] inline bool is_better(const Metric& metric, double a, double b) {
  return metric.higher_is_better ? a > b : a < b;
}

/// What the user names with one flag: a feature file, or a data reference.
struct TaskInput {
  enum class Kind : uint8_t { features, images };
  enum class Part : uint8_t { train, test };
  const char* flag;
  const char* help;
  Kind kind = Kind::features;
  Part part = Part::test;  ///< which part of a data set `sweep` gives for it
};
constexpr size_t kMostInputs = 3;

/// A field of the card in which rows of one task differ, as it is said beside the metric.
struct VariantField {
  const char* field;
  const char* before = "";  ///< "k = "
  const char* usual = "";   ///< the value that is not said
};

/// A number of the card over which rows of one task make a curve; one of them stands for all.
struct CurveField {
  const char* field;
  const char* title;     ///< of the report's part
  double preferred = 0;  ///< stands for all where it is there, else the largest
};

/// Pictures that a task draws, as the report shows them.
struct PictureKind {
  const char* kind;  ///< of its PictureSet
  const char *title, *note;
};

struct TaskInfo {
  std::string name, summary, usage, description;  ///< as Command
  std::vector<Example> examples;
  std::vector<Metric> metrics;
  std::vector<TaskInput> inputs;  ///< at most kMostInputs
  std::vector<VariantField> variants{};
  std::optional<CurveField> curve{};
  std::vector<PictureKind> pictures{};
  /// `none`: it works on what is in files, or brings its own model (Plan::model).
  enum class Encoder : uint8_t { none, tokens, attention };
  Encoder encoder = Encoder::none;  ///< --weights and what goes with it, --floors
  bool confusions = false;          ///< the report draws a matrix of true and predicted classes
  bool in_sweep = false;  ///< without --tasks; any task whose inputs are train and test can be named
};

/// One number's protocol, known before it is computed: a row for each metric.
struct Protocol {
  Card card;  ///< holds "task"
  std::vector<std::string> metrics;
  std::string pictures{};  ///< kind of the picture set that belongs to it, where that is all it makes
  std::string file{};      ///< another file that it makes, below RESULTS
};

struct Plan {
  ModelIdentity model;
  std::string data;  ///< reference of the images that the numbers speak of; --dataset gives another name
  std::vector<Protocol> protocols;
};

struct Score {
  std::string metric;
  Estimate estimate;
  bool from_predictions = false;  ///< Outcome::predictions are its per-image values, for paired tests
  std::optional<double> oracle{};
};

/// What was computed for one protocol.
struct Outcome {
  size_t protocol = 0;  ///< index into Plan::protocols
  std::vector<Score> scores{};
  std::optional<Predictions> predictions{};
};

/// Where an input is, and which part of it counts.
struct Source {
  std::string reference;
  Split split = Split::all;
  double test_fraction = 0.2;
};

/// What all tasks take.
struct TaskOptions {
  ModelOptions model;
  Source first, second, third;  ///< of TaskInfo::inputs, in order
  std::string dataset;          ///< name in results; empty = from Plan::data
  bool force = false, floors = false;
  [[nodiscard]] const Source& source(size_t input) const {
    return input == 0 ? first : input == 1 ? second : third;
  }
  [[nodiscard]] Source& source(size_t input) { return input == 0 ? first : input == 1 ? second : third; }
};

/// What tasks of one process have in common: files are read and encoders made once.
class Shared {
 public:
  [[nodiscard]] std::shared_ptr<const FeatureSet> features(const std::string& path);
  [[nodiscard]] std::shared_ptr<Extractor> encoder(const ModelOptions& model, uint64_t seed);

 private:
  std::vector<std::pair<std::string, std::shared_ptr<const FeatureSet>>> files_;  ///< the last few
  std::string encoder_key_;
  std::shared_ptr<Extractor> encoder_;  ///< the last one
};

/// What the driver hands to a task.
class TaskRun {
 public:
  TaskRun(const Communicator& communicator, const TaskInfo& task_info, const TaskOptions& task_options,
          Shared& kept, std::string results, int64_t draws)
      : world(communicator),
        info(task_info),
        options(task_options),
        output(std::move(results)),
        seed(draws),
        shared_(kept) {}
  const Communicator& world;
  const TaskInfo& info;
  const TaskOptions& options;
  std::string output;  ///< RESULTS
  int64_t seed;
  /// Set on the root by a task: members of --json's object, as an object; beside "results" where there are
  /// rows.
  std::string json{};

  /// The input of that flag. Features: read once by every rank; images: opened on all ranks, the records of
  /// its part alone. Collective. Errors as read_features and open_on_all_ranks.
  [[nodiscard]] std::shared_ptr<const FeatureSet> features(const char* flag);
  [[nodiscard]] Dataset images(const char* flag);
  /// The model of --weights; settles `protocol` as `input` says (a floor takes the input of the model that it
  /// is compared with). UsageError where it lacks what TaskInfo::encoder asks for.
  [[nodiscard]] Extractor& encoder(const InputOptions& input, FeatureProtocol& protocol);
  /// The row of a protocol without its numbers.
  [[nodiscard]] ResultRow row(const Plan& plan, const Protocol& protocol) const;
  /// A set of pictures that belongs to the protocol.
  [[nodiscard]] PictureSet pictures(const std::string& kind, const Plan& plan,
                                    const Protocol& protocol) const;

  // The driver's own.
  std::vector<FeatureProtocol> settled{};  ///< by call of encoder()
  std::vector<FeatureProtocol> like{};     ///< what a floor takes instead
  int64_t patch = 0;                       ///< of the encoder

 private:
  [[nodiscard]] size_t index_of(const char* flag, TaskInput::Kind kind) const;
  Shared& shared_;
  std::shared_ptr<Extractor> encoder_;
};

/// Options are members of a task. `plan`, then `run`, are collective, and called for each model anew.
class Task {
 public:
  virtual ~Task() = default;
  /// Declares what the task takes beside its inputs (bind a Schema to a member).
  virtual void options(OptionTable& table) = 0;
  /// The same in `sweep`, whose names all tasks share: a few of them, begun with the task's name unless
  /// `sweep` had them before.
  virtual void sweep_options(OptionTable& /*table*/) {}
  /// Reads the inputs, checks the options against them, and says what is to be computed: little work, as all
  /// of it may be there already, and as a dry run ends here.
  [[nodiscard]] virtual Plan plan(TaskRun& run) = 0;
  /// Computes the protocols whose index is in `wanted`; what it returns counts on the root alone. A stop
  /// ends it by throw_stopped().
  [[nodiscard]] virtual std::vector<Outcome> run(TaskRun& run, const Plan& plan,
                                                 std::span<const size_t> wanted) = 0;
};

struct TaskEntry {
  TaskInfo info;
  std::unique_ptr<Task> (*make)();
};
template <class T>
[[nodiscard]] TaskEntry task_entry(TaskInfo info) {
  return {std::move(info), [] { return std::unique_ptr<Task>(new T); }};
}
/// All tasks, in the order of --help.
[[nodiscard]] std::span<const TaskEntry> tasks();
/// Null for rows of a task that this version does not know.
[[nodiscard]] const TaskInfo* task_named(const std::string& name);
/// What is known of a metric: of the task's, else {name, higher is better, headline}.
[[nodiscard]] Metric metric_of(const std::string& task, const std::string& metric);

}  // namespace dino::eval
