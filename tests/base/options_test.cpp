// SPDX-License-Identifier: Apache-2.0
#include "base/options.hpp"

#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>

#include "base/error.hpp"

namespace dino {
namespace {

struct Config {
  bool star = true;
  int64_t k = 20;
  double threshold = 0.95;
  std::string rule = "star";
  std::string text;
  std::vector<int64_t> levels = {1000, 100};
  std::vector<double> rates;
  std::vector<std::string> inputs;
  CommonOptions common;
};

OptionTable table_for(Config& config) {
  OptionTable table;
  table.add("star", &config.star, "Star cover.");
  table.add("k", &config.k, "Neighbours.").range(1, 100);
  table.add("threshold", &config.threshold, "Cosine.").range(-1, 1);
  table.add("rule", &config.rule, "Which rule.").choices({"star", "components"});
  table.add("text", &config.text, "Any text.");
  table.section("Lists").add("levels", &config.levels, "Clusters of each level.");
  table.add("rates", &config.rates, "Rates.");
  table.add("inputs", &config.inputs, "Inputs.").positional();
  add_common_options(table, config.common);
  return table;
}

/// The message of the UsageError that parsing `words` throws.
std::string usage_error(const std::vector<std::string>& words) {
  Config config;
  OptionTable table = table_for(config);
  try {
    table.parse(words);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "no error";
}

std::string ini_error(const std::string& text) {
  Config config;
  OptionTable table = table_for(config);
  try {
    table.parse_ini(text, "r.cfg");
  } catch (const UsageError& error) {
    return error.what();
  }
  return "no error";
}

void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is not in: " << text;
}

TEST(Options, ReadsEveryForm) {
  Config c;
  OptionTable table = table_for(c);
  table.parse({"--k=5", "--threshold", "-0.5", "--rule", "components", "--star=false", "--levels", "10,5,2",
               "--rates", "1e-3,2", "--json", "--inputs", "a", "b", "--text", "two words", "--inputs", "c"});
  EXPECT_EQ(c.k, 5);
  EXPECT_EQ(c.threshold, -0.5);
  EXPECT_EQ(c.rule, "components");
  EXPECT_FALSE(c.star);
  EXPECT_EQ(c.levels, (std::vector<int64_t>{10, 5, 2}));
  EXPECT_EQ(c.rates, (std::vector<double>{1e-3, 2}));
  EXPECT_EQ(c.inputs, (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(c.text, "two words");
  EXPECT_TRUE(c.common.json);
  EXPECT_TRUE(table.given("k"));
  EXPECT_FALSE(table.given("seed"));
}

TEST(Options, PositionalWordsAndBareFlags) {
  Config c;
  OptionTable table = table_for(c);
  table.parse({"--star", "a.tar", "--dry-run", "false", "b.tar", "--", "--c.tar"});
  EXPECT_TRUE(c.star);
  EXPECT_FALSE(c.common.dry_run);
  EXPECT_EQ(c.inputs, (std::vector<std::string>{"a.tar", "b.tar", "--c.tar"}));
}

TEST(Options, LastScalarWins) {
  Config c;
  OptionTable table = table_for(c);
  table.parse({"--k", "3", "--k", "4"});
  EXPECT_EQ(c.k, 4);
}

TEST(Options, UnknownNamesSuggestTheNearest) {
  expect_contains(usage_error({"--treshold", "0.5"}), "did you mean --threshold?");
  expect_contains(usage_error({"--thresh=0.5"}), "did you mean --threshold?");
  expect_contains(usage_error({"--zzzzzzzz"}), "unknown option: --zzzzzzzz");
  expect_contains(usage_error({"--zzzzzzzz"}), "see --help");
  expect_contains(usage_error({"-k", "3"}), "two dashes");
  expect_contains(ini_error("a = 1\n"), "unknown option: --a (r.cfg:1)");
  expect_contains(ini_error("\n# c\n[x]\nthreshhold = 1\n"), "--threshhold (r.cfg:4)");
}

TEST(Options, BadValuesNameTheOptionAndWhatIsAllowed) {
  expect_contains(usage_error({"--k", "abc"}), "--k (command line): 'abc' is not a whole number");
  expect_contains(usage_error({"--k", "1.5"}), "not a whole number");
  expect_contains(usage_error({"--k", "99999999999999999999"}), "not a whole number");
  expect_contains(usage_error({"--k", "0"}), "0 is outside 1 to 100");
  expect_contains(usage_error({"--threshold", "nan"}), "not a number");
  expect_contains(usage_error({"--threshold", "0.5x"}), "not a number");
  expect_contains(usage_error({"--threshold"}), "has no value");
  expect_contains(usage_error({"--rule", "stars"}),
                  "'stars' is not one of star, components; did you mean star?");
  expect_contains(usage_error({"--star=maybe"}), "neither true nor false");
  expect_contains(usage_error({"--levels", "10,x"}), "'x' is not a whole number");
  expect_contains(ini_error("k = abc"), "--k (r.cfg:1): 'abc'");
}

TEST(Options, BrokenRecipesNameTheLine) {
  expect_contains(ini_error("k = 3\nnonsense\n"), "r.cfg:2: 'nonsense' is not a setting");
  expect_contains(ini_error("[open\n"), "r.cfg:1");
  expect_contains(ini_error("text = \"open\n"), "a quote is not closed");
  expect_contains(ini_error("text = \"a\" b\n"), "text follows the closing quote");
  expect_contains(ini_error("config = other.cfg\n"), "cannot name another recipe");
}

TEST(Options, RequiredAndStrayWords) {
  OptionTable table;
  std::string output;
  table.add("output", &output, "Folder.").required();
  EXPECT_THROW(table.parse({}), UsageError);
  EXPECT_THROW(table.parse({"--output", "x", "stray"}), UsageError);
  table.parse({"--output", "x"});
  EXPECT_EQ(output, "x");
}

TEST(Options, FlagsWinOverTheRecipe) {
  const std::string path = testing::TempDir() + "options_test_recipe.cfg";
  std::ofstream(path) << "; a comment\n[Any section]\nk = 7   # inline\nthreshold=0.25\n"
                         "inputs = a, \"b, c\" , d#1\ntext = \"a # b\"\n";
  Config c;
  OptionTable table = table_for(c);
  table.parse({"--k", "9", "--config", path});
  EXPECT_EQ(c.k, 9);
  EXPECT_EQ(c.threshold, 0.25);
  EXPECT_EQ(c.inputs, (std::vector<std::string>{"a", "b, c", "d#1"}));
  EXPECT_EQ(c.text, "a # b");
  std::remove(path.c_str());
  EXPECT_THROW(table.parse({"--config", path}), MissingInputError);
}

TEST(Options, EveryValueSurvivesToIni) {
  Config a;
  OptionTable first = table_for(a);
  first.parse({"--k", "3", "--threshold", "0.1", "--text", " \"#;\\\n,", "--inputs", "x,y", "", " z",
               "--star=false", "--levels", "4", "--rates", "1e-300,0.1,123456789.125", "--seed", "-5"});
  Config b;
  OptionTable second = table_for(b);
  second.parse_ini(first.to_ini(), "round trip");
  EXPECT_EQ(b.k, a.k);
  EXPECT_EQ(b.threshold, a.threshold);
  EXPECT_EQ(b.text, a.text);
  EXPECT_EQ(b.inputs, (std::vector<std::string>{"x,y", "", " z"}));
  EXPECT_EQ(b.star, a.star);
  EXPECT_EQ(b.levels, a.levels);
  EXPECT_EQ(b.rates, a.rates);
  EXPECT_EQ(b.common.seed, -5);
  EXPECT_EQ(second.to_ini(), first.to_ini());
}

TEST(Options, DefaultsRoundTripEvenOutsideTheirLimits) {
  OptionTable table;
  int64_t automatic = 0;
  std::string mode;
  table.add("batch", &automatic, "0 = automatic.").range(1, 8);
  table.add("mode", &mode, "Empty = automatic.").choices({"a", "b"});
  table.parse_ini(table.to_ini(), "defaults");
  EXPECT_EQ(automatic, 0);
  EXPECT_EQ(mode, "");
  EXPECT_THROW(table.parse_ini("batch = 9", "r"), UsageError);
}

TEST(Options, HelpNamesDefaultsAndLimits) {
  Config c;
  const std::string help = table_for(c).help();
  expect_contains(help, "--threshold X");
  expect_contains(help, "default 0.95");
  expect_contains(help, "one of star, components");
  expect_contains(help, "Common options:");
  const std::string roff = table_for(c).roff();
  expect_contains(roff, "\\fB\\-\\-threshold\\fR \\fIX\\fR");
}

TEST(Options, DeclaringANameTwiceIsADefect) {
  OptionTable table;
  int64_t a = 0;
  table.add("a", &a, "A.");
  EXPECT_THROW(table.add("a", &a, "A."), InternalError);
}

}  // namespace
}  // namespace dino
