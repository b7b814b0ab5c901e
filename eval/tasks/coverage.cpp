// SPDX-License-Identifier: Apache-2.0
// How much of the tokens that relevance shares out falls on labelled objects, against equal tokens.
#include <fmt/format.h>

#include "comm/together.hpp"
#include "imaging/mask_measures.hpp"
#include "inputs/composite_task.hpp"
#include "numeric/token_budget.hpp"

namespace dino::eval {

namespace {

struct CoverageConfig {
  CompositeConfig images;
  int64_t min_tokens = TokenBounds{}.min, max_tokens = TokenBounds{}.max, budget = 0, resamples = 2000;
};

class Coverage final : public Task {
 public:
  void options(OptionTable& table) override {
    using C = CoverageConfig;
    Schema<C> schema = composite_options<C>(&C::images);
    schema.section("tokens");
    schema.add("min-tokens", &C::min_tokens, "Least tokens of a patch.").range(0, 1e6);
    schema.add("max-tokens", &C::max_tokens, "Most tokens of a patch.").range(1, 1e6);
    schema.add("budget", &C::budget, "Tokens of an image; 0 = as each patch's relevance asks.")
        .range(0, 1e12);
    schema.add("resamples", &C::resamples, "Bootstrap resamples.").range(100, 1e6);
    table.bind(schema, config_);
  }

  Plan plan(TaskRun& run) override {
    input_ = composite_input(run, config_.images);
    const int64_t grid = config_.images.size / input_.extractor->patch_side();
    check_token_options(grid * grid, {config_.min_tokens, config_.max_tokens}, config_.budget);
    Plan plan = input_.plan;
    Card card = input_.card;
    card.set("task", "coverage")
        .set("relevance", "entropy of the softmax over a patch's features")
        .set("min_tokens", config_.min_tokens)
        .set("max_tokens", config_.max_tokens)
        .set("budget", config_.budget)
        .set("interval", fmt::format("percentile bootstrap over images, {} resamples", config_.resamples));
    plan.protocols.push_back({card, {"coverage", "uniform_coverage", "coverage_gain"}});
    return plan;
  }

  std::vector<Outcome> run(TaskRun& run, const Plan& /*plan*/, std::span<const size_t> /*wanted*/) override {
    const int64_t grid = config_.images.size / input_.extractor->patch_side();
    std::vector<double> shares;  // of the tokens, of equal tokens
    std::vector<std::string> keys;
    const auto faults = for_each_composite(
        run.world, *input_.extractor, input_.records, input_.options, "coverage",
        [&](const CompositeTokens& tokens) {
          const auto mass =
              cell_shares({tokens.composite->mask, config_.images.size, config_.images.size}, grid);
          const auto relevance =
              patch_entropies(tokens.patches, grid * grid, input_.extractor->patch_width());
          const TokenBounds bounds{config_.min_tokens, config_.max_tokens};
          shares.push_back(token_share(config_.budget > 0 ? token_counts(relevance, bounds, config_.budget)
                                                          : token_counts(relevance, bounds),
                                       mass));
          shares.push_back(token_share(std::vector<int64_t>(mass.size(), 1), mass));
          keys.push_back(input_.records[static_cast<size_t>(tokens.record)].key);
        });
    const auto all = run.world.gather_values<double>(std::span<const double>(shares));
    const auto all_keys = gather_lines(run.world, keys);
    std::vector<Outcome> outcomes;
    on_root(run.world, [&] {
      say_left_out(faults);
      require_composites(input_, all_keys.size());
      outcomes.push_back(outcome(all, all_keys, static_cast<uint64_t>(run.seed)));
    });
    return outcomes;
  }

 private:
  [[nodiscard]] Outcome outcome(const std::vector<double>& shares, const std::vector<std::string>& keys,
                                uint64_t seed) const {
    std::vector<double> covered, uniform;
    for (size_t i = 0; i < keys.size(); ++i)
      covered.push_back(shares[2 * i]), uniform.push_back(shares[2 * i + 1]);
    const auto gain = [&](std::span<const int64_t> counts) {
      double with = 0, without = 0;
      for (size_t i = 0; i < counts.size(); ++i) {
        with += static_cast<double>(counts[i]) * covered[i];
        without += static_cast<double>(counts[i]) * uniform[i];
      }
      return without == 0 ? 1 : with / without;
    };
    Outcome out{0, {}, Predictions{}};
    out.scores.push_back({"coverage", bootstrap_mean(covered, config_.resamples, seed), true});
    out.scores.push_back({"uniform_coverage", bootstrap_mean(uniform, config_.resamples, seed), true});
    out.scores.push_back(
        {"coverage_gain", bootstrap(static_cast<int64_t>(keys.size()), config_.resamples, seed, gain)});
    out.predictions->keys = keys;
    out.predictions->values = {{"coverage", covered}, {"uniform_coverage", uniform}};
    return out;
  }

  CoverageConfig config_;
  CompositeInput input_;
};

}  // namespace

TaskEntry coverage_task() {
  TaskInfo info;
  info.name = "coverage";
  info.summary = "How much of shared-out tokens falls on objects";
  info.usage = "--weights W --data REF [--budget N] --output RESULTS";
  info.description =
      "Shares out tokens over the patches of each image by their relevance, as the command relevance does "
      "with --entropy, and gives the share of them that falls on the object, the share that equal tokens "
      "would give it, and how many times more that is. Objects are those of an alpha channel, pasted on "
      "drawn backgrounds.";
  info.examples = {{"--weights run --data wesnoth-units/test --output results"}};
  info.metrics = {{"coverage_gain", true, true}, {"coverage"}, {"uniform_coverage"}};
  info.inputs = {{"data", "Data reference of cut-outs.", TaskInput::Kind::images, TaskInput::Part::test}};
  info.encoder = TaskInfo::Encoder::tokens;
  return task_entry<Coverage>(std::move(info));
}

}  // namespace dino::eval
