// SPDX-License-Identifier: Apache-2.0
// The report from a small store that is written here.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "base/error.hpp"
#include "eval/temporary.hpp"
#include "report/markup.hpp"
#include "report/parts.hpp"
#include "storage/files.hpp"
#include "test_data.hpp"

namespace dino::eval {
namespace {

using report::external_reference;
using report::markup_fault;

ResultRow row(const std::string& model, int64_t right, int64_t k = 20, const std::string& task = "knn",
              int64_t shared = 0) {
  ResultRow r;
  Card card;
  card.set("k", k).set("shared_keys", shared).set("train", Card().set("data", "<i>set</i>"));
  r.task = task;
  r.dataset = "birds <b>";
  r.model = model;
  r.metric = "top1";
  r.estimate = wilson(right, 1000);
  r.card = card.json();
  r.card_hash = card.hash();
  return r;
}

Image picture() {
  return {8, 8, 3, std::vector<uint8_t>(192, 90)};
}

/// A run whose information and usage go from a to b.
std::string metrics(double a, double b) {
  std::string text =
      "{\"event\":\"start\",\"step\":0,\"ln_k\":6.238,\"prototypes\":512,\"steps\":100,\"preset\":\"vit_"
      "demo\"}\n";
  for (int s = 1; s <= 100; ++s) {
    const double t = (s - 1) / 99.0, v = a + (b - a) * t;
    text += "{\"step\":" + std::to_string(s) + ",\"loss\":" + (s == 50 ? "null" : "5.0") +
            ",\"loss_dino_global\":6.0,\"information\":" + std::to_string(v) +
            ",\"prototype_usage\":" + std::to_string(v / 2) + ",\"grad_norm_backbone\":1.5}\n";
  }
  return text +
         "{\"event\":\"knn\",\"step\":100,\"accuracy\":0.5}\n{\"event\":\"skip\",\"step\":50}\n{\"step\":101,"
         "\"lo";
}

class ReportTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ResultStore store(folder.path());
    for (const auto& [model, right] : std::vector<std::pair<std::string, int64_t>>{
             {"raw-pixels", 900}, {"random-weights", 500}, {"run/step_<9>", 700}}) {
      ResultRow r = row(model, right);
      r.predictions = predictions_name(r);
      Predictions p;
      p.classes = {"cat", "dog & co"};
      for (int64_t i = 0; i < 1000; ++i) {
        p.keys.push_back(std::to_string(i));
        p.labels.push_back(static_cast<int32_t>(i % 2));
        p.predicted.push_back(static_cast<int32_t>(i < right ? i % 2 : 1 - i % 2));
      }
      write_predictions(folder / r.predictions, p);
      store.add(r, false);
      store.add(row(model, right - 10, 5), false);
      store.add(row(model, right - 20, 10), false);
    }
    PictureSet set(folder.path(), "pca", row("run/step_<9>", 700));
    set.begin_strip("strip & title");
    set.add(picture(), "first <picture>", "good");
    set.commit();
    make_folders(folder / "run");
    put(folder / "run/metrics.jsonl", metrics(0.5, 0.9));
    put(folder / "run/config.ini", "lr = 0.1\n");
    put(folder / "run/run.json",
        R"({"starts":[{"time":"2026-01-01T00:00:00Z","host":"n<0>","ranks":2,"from_step":0,"version":"0.1.0","commit":"abc","argv":["dino-pretrain","train"]}]})");
    make_folders(folder / "cur");
    put(folder / "cur/manifest.json",
        R"({"records":100,"kept":60,"dropped":{"near_duplicate":30,"corrupt":10},"selected_with_multiplicity":60,"shards":[{"path":"0.tar","bytes":1000}]})");
    put(folder / "cur/funnel.json",
        R"({"stages":[{"stage":"ingest","in":100,"out":90,"dropped":{"corrupt":10}},{"stage":"dedup","in":90,"out":60,"dropped":{"near_duplicate":30}}],
      "duplicate_group_sizes":[{"size":2,"count":12},{"size":9,"count":2}],"similarity":{"low":0.9,"high":1.0,"counts":[5,0,25]},"clusters":[{"clusters":7,"before":[{"size":20,"count":7}],"after":[{"size":9,"count":7}]}]})");
    put(folder / "cur/galleries.json",
        R"({"duplicates":[{"representative":{"key":"a/x","path":"/does/not/exist.png","reason":"kept"},"size":2,"members":[{"key":"a/y","path":")" +
            (folder / first_picture()) +
            R"(","similarity":0.97,"reason":"near_duplicate"}]}],"leaks":[{"key":"leaky","excluded":"test/1","similarity":0.99}]})");
  }
  std::string first_picture() const {
    const auto name = predictions_name(row("run/step_<9>", 700));
    return "pictures/pca_" + name.substr(name.find('/') + 1, 16) + "/000_00.png";
  }
  ReportInput input() const {
    ReportInput in;
    in.results.push_back(
        {folder.path(), read_results(folder / "results.jsonl"), read_pictures(folder.path())});
    in.training = read_training_run(folder / "run");
    in.curation = read_curation(folder / "cur");
    in.references.push_back({"knn", "ImageNet-1k", "Reference model", "top1", "a paper, table 4", 0.79});
    return in;
  }
  const TemporaryFolder folder;
};

const Check* find(const std::vector<Check>& checks, const std::string& title) {
  for (const Check& c : checks)
    if (c.title == title) return &c;
  return nullptr;
}

std::string lines(const Check* check) {
  std::string out;
  for (const std::string& line : check->detail) out += line + "\n";
  return out;
}

TEST_F(ReportTest, ThePageIsCompleteBalancedAndSelfContained) {
  const std::string html = report_html(input(), "A report");
  EXPECT_EQ(markup_fault(html), "");
  EXPECT_EQ(external_reference(html), "");
  EXPECT_EQ(html.find("http://"), std::string::npos);
  EXPECT_EQ(html.find("https://"), std::string::npos);
  for (const char* text : {"run/step_&lt;9&gt;", "birds &lt;b&gt;", "0.700", "ln K = 6.238, K = 512",
                           "Other data, not comparable", "a paper, table 4", "near_duplicate", "dog &amp; co",
                           "first &lt;picture&gt;", "n&lt;0&gt;", "threshold 0.9", "leaky", "lr = 0.1",
                           "results-json", "k-NN accuracy during training"})
    EXPECT_NE(html.find(text), std::string::npos) << text;
  EXPECT_EQ(html.find("<9>"), std::string::npos);
  EXPECT_EQ(html, report_html(input(), "A report"));
}

TEST_F(ReportTest, TheVerdictSaysWhereRawPixelsWin) {
  const std::vector<Check> checks = verdict_checks(input());
  const Check* raw = find(checks, "Does not beat raw pixels");
  ASSERT_NE(raw, nullptr);
  EXPECT_EQ(raw->level, Level::red);
  EXPECT_EQ(raw->why, "Better on 0 of 1 protocols, within noise on 0, worse on 1.");
  EXPECT_NE(lines(raw).find("0.700 against 0.900, p < 0.0001"), std::string::npos) << lines(raw);
  const Check* random = find(checks, "Beats random weights");
  ASSERT_NE(random, nullptr);
  EXPECT_EQ(random->level, Level::green);
  EXPECT_NE(find(checks, "No sign of collapse"), nullptr);
  EXPECT_NE(find(checks, "Every image is accounted for"), nullptr);
  const Check* skipped = find(checks, "Steps were skipped");
  ASSERT_NE(skipped, nullptr);
  EXPECT_NE(skipped->why.find("1 skipped, 0 rolled back, 1 logged"), std::string::npos) << skipped->why;
}

TEST_F(ReportTest, TheVerdictSaysWhereTheModelBeatsRawPixelsOnSomeSetsOnly) {
  ResultStore store(folder.path());
  for (const auto& [model, right] :
       std::vector<std::pair<std::string, int64_t>>{{"raw-pixels", 400}, {"run/step_<9>", 600}}) {
    ResultRow other = row(model, right);
    other.dataset = "fish";
    store.add(other, false);
  }
  const std::vector<Check> checks = verdict_checks(input());
  EXPECT_EQ(find(checks, "Does not beat raw pixels"), nullptr);
  const Check* raw = find(checks, "Beats raw pixels on some sets only");
  ASSERT_NE(raw, nullptr);
  EXPECT_EQ(raw->level, Level::amber);
  EXPECT_EQ(raw->why, "Better on 1 of 2 protocols, within noise on 0, worse on 1.");
  EXPECT_NE(lines(raw).find("Worse on knn birds"), std::string::npos) << lines(raw);
  EXPECT_NE(lines(raw).find("Better on knn fish (0.600 against 0.400, intervals apart)"), std::string::npos)
      << lines(raw);
}

TEST_F(ReportTest, FallingInformationIsCollapse) {
  put(folder / "run/metrics.jsonl", metrics(0.9, 0.3));
  EXPECT_EQ(collapse_check(read_training_run(folder / "run")).level, Level::red);
  put(folder / "run/metrics.jsonl", "{\"step\":1,\"loss\":1}\n");
  EXPECT_EQ(collapse_check(read_training_run(folder / "run")).level, Level::amber);
}

/// 16 images in two views reach 32 of 128 prototypes, and no more however healthy the run is.
TEST_F(ReportTest, AUsageThatTheBatchCapsIsNoCollapse) {
  std::string text =
      R"({"event":"start","step":0,"batch":16,"prototypes":128,"ln_k":4.852,"width":64,"warmup":10,"steps":100})"
      "\n";
  for (int s = 1; s <= 100; ++s)
    text += "{\"step\":" + std::to_string(s) +
            ",\"loss\":5,\"information\":" + std::to_string(1.6 - 0.001 * s) +
            ",\"prototype_usage\":" + std::to_string(s > 50 ? 0.2 : 0.25) + ",\"effective_rank\":8}\n";
  put(folder / "run/metrics.jsonl", text);
  const ReportInput in = input();
  EXPECT_EQ(collapse_check(*in.training).level, Level::green) << collapse_check(*in.training).why;
  const std::string html = report_html(in, "T"), markdown = report_markdown(in, "T");
  for (const std::string& page : {html, markdown}) {
    EXPECT_EQ(page.find("Signs of collapse"), std::string::npos);
    EXPECT_NE(page.find("No sign of collapse"), std::string::npos);
    EXPECT_NE(page.find("where its 32 rows can reach 25 %"), std::string::npos);
  }
  EXPECT_NE(html.find("most that 32 rows can have"), std::string::npos) << "drawn beside the curves";
}

TEST_F(ReportTest, OverlappingIntervalsAreNotAWin) {
  ReportInput in = input();
  in.results[0].rows = {row("random-weights", 690), row("raw-pixels", 690), row("m", 700)};
  EXPECT_NE(find(verdict_checks(in), "No better than random weights, as far as the tests tell"), nullptr);
  EXPECT_NE(find(verdict_checks(in), "No better than raw pixels, as far as the tests tell"), nullptr);
  in.results[0].rows = {row("m", 700, 20, "knn", 3)};
  EXPECT_NE(find(verdict_checks(in), "No random-weights floor"), nullptr);
  EXPECT_NE(find(verdict_checks(in), "Test images are in the training set"), nullptr);
}

TEST_F(ReportTest, ThePairedTestDecidesWhereIntervalsOverlap) {
  // 700 and 680 of 1,000: Wilson's intervals overlap, but the second is right nowhere where the first is not.
  ResultRow random = row("random-weights", 680);
  random.predictions = "predictions/random.h5";
  Predictions p = read_predictions(folder / predictions_name(row("run/step_<9>", 700)));
  for (size_t i = 680; i < 700; ++i) p.predicted[i] = 1 - p.labels[i];
  write_predictions(folder / random.predictions, p);
  ReportInput in = input();
  ResultRow trained = row("run/step_<9>", 700);
  trained.predictions = predictions_name(trained);
  in.results[0].rows = {random, trained};
  const std::vector<Check> checks = verdict_checks(in);
  const Check* beats = find(checks, "Beats random weights");
  ASSERT_NE(beats, nullptr);
  EXPECT_NE(lines(beats).find("Better on knn birds <b> (0.700 against 0.680, p < 0.0001)"), std::string::npos)
      << lines(beats);
  // Other images: nothing is paired, and the intervals decide.
  p.keys[0] = "another";
  write_predictions(folder / random.predictions, p);
  EXPECT_EQ(find(verdict_checks(in), "Beats random weights"), nullptr);
}

TEST_F(ReportTest, ARepresentativeThatWasDroppedLaterIsNotCalledKept) {
  ReportInput in = input();
  DuplicateGroup& group = in.curation->groups.at(0);
  group.members[0].image = group.members[1].image;
  EXPECT_NE(curation_html(*in.curation).find("x, kept"), std::string::npos);
  group.members[0].reason = "leak";
  const std::string html = curation_html(*in.curation);
  EXPECT_EQ(html.find("x, kept"), std::string::npos);
  EXPECT_NE(html.find("x, stands for these, dropped later: leak"), std::string::npos);
  EXPECT_NE(html.find("y, 0.970"), std::string::npos);
}

TEST_F(ReportTest, ModelsOnOtherCardsAreNotCompared) {
  ReportInput in = input();
  ResultRow other = row("random-weights", 100);
  other.card_hash = "0" + other.card_hash.substr(1);
  in.results[0].rows = {other, row("m", 700)};
  EXPECT_EQ(find(verdict_checks(in), "Beats random weights"), nullptr);
}

TEST_F(ReportTest, PairedTestsStandInWords) {
  const ReportInput in = input();
  const std::string html = comparisons_html(in, ModelColours(in));
  EXPECT_NE(html.find("+0.200"), std::string::npos);
  EXPECT_NE(html.find(">better<"), std::string::npos);
  EXPECT_NE(html.find(">worse<"), std::string::npos);
}

TEST_F(ReportTest, ThePairedTestDecidesWhoSharesTheFirstPlace) {
  // 700 and 690 right, their intervals overlap: first where only one is ever right alone, then where 30 and
  // 20 are, which is noise.
  ReportInput in = input();
  ResultRow a = row("a", 700), b = row("b", 690), c = row("random-weights", 500);
  Predictions p = read_predictions(folder / predictions_name(row("run/step_<9>", 700)));
  const auto keep = [&](ResultRow& r, const std::vector<std::pair<int64_t, int64_t>>& right) {
    for (size_t i = 0; i < 1000; ++i) p.predicted[i] = 1 - p.labels[i];
    for (const auto& [from, to] : right)
      for (auto i = static_cast<size_t>(from); i < static_cast<size_t>(to); ++i) p.predicted[i] = p.labels[i];
    r.predictions = "predictions/" + std::string(1, r.model[0]) + ".h5";
    write_predictions(folder / r.predictions, p);
  };
  keep(a, {{0, 700}});
  keep(c, {{0, 500}});
  keep(b, {{0, 690}});
  in.results[0].rows = {c, a, b};
  const ModelColours colours(in);
  Standings s = standings(in, colours);
  ASSERT_EQ(s.models, (std::vector<std::string>{"a", "b", "random-weights"})) << "floors last";
  ASSERT_EQ(s.rows.size(), 1U);
  EXPECT_EQ(s.rows[0].tied, (std::vector<bool>{true, false, false}));
  EXPECT_EQ(s.mean_rank, (std::vector<double>{1, 2, 3}));
  EXPECT_NE(standings_html(s, colours).find("\xE2\x98\x85"), std::string::npos);
  keep(b, {{0, 670}, {980, 1000}});
  s = standings(in, colours);
  EXPECT_EQ(s.rows[0].tied, (std::vector<bool>{true, true, false})) << "30 against 20 is noise";
  EXPECT_EQ(s.rows[0].ties(), 2U);
  EXPECT_EQ(standings_html(s, colours).find("mark\">\xE2\x98\x85"), std::string::npos);
  // Another protocol is another row, in which nobody is compared.
  in.results[0].rows[2].card_hash = "0" + b.card_hash.substr(1);
  s = standings(in, colours);
  ASSERT_EQ(s.rows.size(), 2U);
  EXPECT_FALSE(s.rows[1].contested());
  EXPECT_TRUE(s.mean_rank.empty());
}

TEST_F(ReportTest, AModelHasOneColourAndNoOtherHasIt) {
  ReportInput in = input();
  in.results[0].rows.clear();
  for (int i = 0; i < 20; ++i) in.results[0].rows.push_back(row("m" + std::to_string(i), 500 + i));
  in.results[0].rows.push_back(row("raw-pixels", 300));
  in.results[0].rows.push_back(row("random-weights", 310));
  const ModelColours colours(in);
  std::set<std::string> seen;
  for (const std::string& model : colours.models()) seen.insert(colours.of(model));
  EXPECT_EQ(seen.size(), 22U);
  const std::string html = report_html(in, "T");
  EXPECT_EQ(markup_fault(html), "");
  // The forest plot, its table and the summary paint m3 alike.
  EXPECT_NE(html.find("style=\"stroke:var(--m4);fill:var(--m4)\"><title>m3:"), std::string::npos);
  EXPECT_NE(html.find("style=\"--c:var(--m4)\"></span><span>m3<"), std::string::npos);
}

TEST_F(ReportTest, ARunIsPaintedAsItsModel) {
  ReportInput in = input();
  in.results[0].rows = {row("other", 700), row("run/step_<9>", 690)};
  const ModelColours colours(in);
  EXPECT_EQ(colours.of_run(*in.training), colours.of("run/step_<9>"));
  EXPECT_NE(training_html(*in.training, colours).find("--run:var(--m2)"), std::string::npos);
}

TEST_F(ReportTest, WhatItCostStandsOnTheFirstScreen) {
  ReportInput in = input();
  EXPECT_NE(cost_html(in).find("not measured"), std::string::npos);
  make_folders(folder / "chain/curate");
  put(folder / "chain/chain.json", R"({"name":"night","chain_file":")" + (folder / "chain/c.cfg") +
                                       R"(","stages":[{"stage":"curate"},{"stage":"report"}]})");
  put(folder / "chain/c.cfg", "[chain]\nname = night <1>\n");
  put(folder / "chain/curate/started.json", R"({"time":"2026-01-31T23:59:00Z"})");
  put(folder / "chain/curate/done.json", R"({"time":"2026-02-01T01:00:30Z"})");
  in.chain = read_chain(folder / "chain");
  ASSERT_EQ(in.chain->stages.size(), 2U);
  EXPECT_EQ(in.chain->stages[0].seconds, 3690);
  EXPECT_EQ(in.chain->stages[1].seconds, 0) << "not known";
  in.training->run_json = R"({"starts":[{"ranks":8,"cpu_model":"Example CPU","cores":48}]})";
  EXPECT_NE(cost_html(in).find("48<small>Example CPU, 8 rank(s)"), std::string::npos) << cost_html(in);
  EXPECT_NE(cost_html(in).find("curate 1 h"), std::string::npos) << cost_html(in);
  EXPECT_NE(provenance_html(in).find("night &lt;1&gt;"), std::string::npos);
  put(folder / "chain/chain.json", R"({"name":"night","stages":[{"stage":"../x"}]})");
  EXPECT_NE(message_of<DataError>([&] { (void)read_chain(folder / "chain"); }).find("chain.json"),
            std::string::npos);
  put(folder / "chain/chain.json", "[]");
  EXPECT_NE(message_of<DataError>([&] { (void)read_chain(folder / "chain"); }).find("chain.json"),
            std::string::npos);
  EXPECT_THROW((void)read_chain(folder / "nowhere"), MissingInputError);
}

TEST_F(ReportTest, PicturesWithoutLabelsSaySo) {
  ReportInput in = input();
  EXPECT_EQ(report_html(in, "T").find("No labels:"), std::string::npos);
  in.results[0].rows.clear();
  const std::string html = report_html(in, "T");
  EXPECT_NE(html.find("No labels: sub-folders of --data would name classes"), std::string::npos);
  EXPECT_EQ(markup_fault(html), "");
}

TEST_F(ReportTest, RowsSayWhatComputedThem) {
  const ReportInput in = input();
  const ResultRow& first = *all_rows(in).front().row;
  EXPECT_NE(first.command.find("test_eval"), std::string::npos) << first.command;
  EXPECT_FALSE(first.cpu.empty());
  EXPECT_GE(first.cores, 1);
}

TEST_F(ReportTest, LedgersThatDoNotAddUpAreRed) {
  ReportInput in = input();
  in.curation->kept = 59;
  EXPECT_NE(find(verdict_checks(in), "The ledger does not add up"), nullptr);
}

TEST_F(ReportTest, OtherFormsHoldTheSameRows) {
  EXPECT_NE(report_markdown(input(), "T")
                .find("| knn | birds &lt;b&gt; | run/step_&lt;9&gt; | top1 | k = 20 | 0.700 ["),
            std::string::npos);
  EXPECT_NE(report_csv(input()).find("knn,birds <b>,run/step_<9>,top1,k = 20,0.7,"), std::string::npos);
  std::string rows = read_text(folder / "results.jsonl");
  constexpr size_t kSeal = std::string_view(R"(,"crc32c":"00000000")").size();
  for (size_t at = 0; (at = rows.find(R"(,"crc32c":")", at)) != std::string::npos;) rows.erase(at, kSeal);
  EXPECT_EQ(report_jsonl(input()), rows);
}

TEST_F(ReportTest, BrokenInputsAreNamed) {
  put(folder / "run/metrics.jsonl", "{\"step\":1}\nnonsense\n");
  EXPECT_NE(message_of<DataError>([&] {
              (void)read_training_run(folder / "run");
            }).find("metrics.jsonl:2: is neither"),
            std::string::npos);
  EXPECT_THROW((void)read_training_run(folder / "nowhere"), MissingInputError);
  put(folder / "cur/funnel.json", "{\"stages\":[{\"stage\":3}]}");
  EXPECT_NE(message_of<DataError>([&] { (void)read_curation(folder / "cur"); }).find("reading a curation"),
            std::string::npos);
  put(folder / "cur/manifest.json", "[]");
  EXPECT_NE(message_of<DataError>([&] { (void)read_curation(folder / "cur"); }).find("manifest.json"),
            std::string::npos);
  put(folder / first_picture(), "not a picture");
  EXPECT_NE(message_of<DataError>([&] { (void)read_pictures(folder.path()); }).find("000_00.png"),
            std::string::npos);
  put(folder / "refs.csv", "task,dataset,model,metric,value,source\nknn,a,b,top1,high,paper\n");
  EXPECT_NE(message_of<DataError>([&] { (void)read_reference_rows(folder / "refs.csv"); }).find("refs.csv:2"),
            std::string::npos);
}

TEST(ReferenceRows, TheShippedFileReads) {
  const auto rows = read_reference_rows(dino::test::data_folder() + "/../share/report/reference_rows.csv");
  ASSERT_GT(rows.size(), 10U);
  for (const ReferenceRow& r : rows) {
    EXPECT_GT(r.value, 0);
    EXPECT_LT(r.value, 1);
    EXPECT_NE(r.source.find("arXiv"), std::string::npos);
  }
}

}  // namespace
}  // namespace dino::eval
