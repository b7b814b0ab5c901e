// SPDX-License-Identifier: Apache-2.0
#include "base/options.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <fstream>

#include "base/error.hpp"

namespace dino {
namespace {

enum class Rule : uint8_t { star, components };
constexpr auto names_of(Rule) {
  return std::to_array<Named<Rule>>({{"star", Rule::star}, {"components", Rule::components}});
}

struct Part {
  double rate = 0.5;
  std::vector<Rule> rules = {Rule::star};
};

Schema<Part> part_options() {
  Schema<Part> schema;
  schema.add("rate", &Part::rate, "A rate.").range(0, 1);
  schema.add("rules", &Part::rules, "Several rules.");
  return schema;
}

struct Config {
  bool star = true;
  int64_t k = 20;
  double threshold = 0.95;
  Rule rule = Rule::star;
  std::string text, size = "small";
  std::vector<int64_t> levels = {1000, 100};
  std::vector<double> rates;
  std::vector<std::string> inputs;
  Part part;
  CommonOptions common;
};

Schema<Config> options() {
  using C = Config;
  Schema<C> schema;
  schema.add("star", &C::star, "Star cover.");
  schema.add("k", &C::k, "Neighbours.").range(1, 100);
  schema.add("threshold", &C::threshold, "Cosine.").range(-1, 1);
  schema.add("rule", &C::rule, "Which rule.");
  schema.add("size", &C::size, "Which size.").choices({"small", "large"});
  schema.add("text", &C::text, "Any text.");
  schema.section("Lists").add("levels", &C::levels, "Clusters of each level.");
  schema.add("rates", &C::rates, "Rates.");
  schema.add("inputs", &C::inputs, "Inputs.").positional();
  schema.section("Part").add(&C::part, part_options());
  schema.add(&C::common, common_options());
  return schema;
}

OptionTable table_for(Config& config) {
  OptionTable table;
  table.bind(options(), config);
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
  table.parse({"--k=5",
               "--threshold",
               "-0.5",
               "--rule",
               "components",
               "--star=false",
               "--levels",
               "10,5,2",
               "--rates",
               "1e-3,2",
               "--json",
               "--inputs",
               "a",
               "b",
               "--text",
               "two words",
               "--inputs",
               "c",
               "--size=large",
               "--rules",
               "components",
               "star",
               "--rate",
               "1"});
  EXPECT_EQ(c.k, 5);
  EXPECT_EQ(c.size, "large");
  EXPECT_EQ(c.part.rate, 1);
  EXPECT_EQ(c.part.rules, (std::vector<Rule>{Rule::components, Rule::star}));
  EXPECT_EQ(c.threshold, -0.5);
  EXPECT_EQ(c.rule, Rule::components);
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
  expect_contains(usage_error({"--size", "smal"}), "'smal' is not one of small, large; did you mean small?");
  expect_contains(usage_error({"--rules", "star", "x"}), "'x' is not one of star, components; choose one");
  expect_contains(usage_error({"--rate", "1.5"}), "--rate (command line): 1.5 is outside 0 to 1");
  expect_contains(usage_error({"--text", "--threshold", "1"}), "--text (command line): has no value");
  expect_contains(usage_error({"--text", "--treshold", "1"}), "--text (command line): has no value");
  expect_contains(usage_error({"--text", "--", "1"}), "--text (command line): has no value");
  expect_contains(ini_error("rate = 2"), "--rate (r.cfg:1): 2 is outside 0 to 1");
  expect_contains(ini_error("rule = strs"),
                  "--rule (r.cfg:1): 'strs' is not one of star, components; did you");
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

TEST(Options, AKeyThatStandsTwiceIsAListOrAnError) {
  expect_contains(ini_error("k = 3\n\n[x]\nk = 4\n"),
                  "--k (r.cfg:4): stands before in r.cfg:1; leave one of the two lines");
  expect_contains(ini_error("rule = star\nrule = star\n"), "stands before in r.cfg:1");
  Config c;
  table_for(c).parse_ini("inputs = a\nlevels = 7,5\ninputs = \"b, c\", d\nlevels = 2\n", "r.cfg");
  EXPECT_EQ(c.inputs, (std::vector<std::string>{"a", "b, c", "d"}));
  EXPECT_EQ(c.levels, (std::vector<int64_t>{7, 5, 2}));
}

TEST(Options, AListOfLinesKeepsItsCommas) {
  struct Lines {
    std::vector<std::string> pattern;
  } lines;
  Schema<Lines> schema;
  schema.add("pattern", &Lines::pattern, "Patterns.").by_line();
  OptionTable table("bad set");
  table.bind(schema, lines).parse_ini("pattern = a{1,2}\npattern = b, c\n", "s.cfg");
  EXPECT_EQ(lines.pattern, (std::vector<std::string>{"a{1,2}", "b, c"}));
  try {
    table.parse_ini("patern = x\n", "s.cfg");
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_STREQ(error.what(), "bad set: patern (s.cfg:1): there is no such setting; did you mean pattern?");
  }
}

TEST(Options, EmptyValues) {
  Config c;
  c.text = "before";
  table_for(c).parse({"--text=", "--levels=", "--inputs", "a", ""});
  EXPECT_EQ(c.text, "");
  EXPECT_TRUE(c.levels.empty());
  EXPECT_EQ(c.inputs, (std::vector<std::string>{"a", ""}));
}

TEST(Options, ByteOrderMarksAndWideTexts) {
  Config c;
  table_for(c).parse_ini("\xef\xbb\xbfk = 3\r\n", "r.cfg");
  EXPECT_EQ(c.k, 3);
  expect_contains(ini_error(std::string("\xff\xfek\0", 4)),
                  "r.cfg: it is UTF-16 or UTF-32; save it as UTF-8");
}

TEST(Options, RequiredAndStrayWords) {
  struct Only {
    std::string output;
  } only;
  Schema<Only> schema;
  schema.add("output", &Only::output, "Folder.").required();
  const auto parse = [&](const std::vector<std::string>& words) {
    OptionTable table;
    table.bind(schema, only).parse(words);
  };
  EXPECT_THROW(parse({}), UsageError);
  EXPECT_THROW(parse({"--output", "x", "stray"}), UsageError);
  parse({"--output", "x"});
  EXPECT_EQ(only.output, "x");
  OptionTable table;
  expect_contains(table.bind(schema, only).help(), "Folder. (required)");
}

TEST(Options, ShellsAreOfferedWhatAnOptionTakes) {
  Config c;
  const OptionTable table = table_for(c);
  EXPECT_EQ(table.values("rule"), (std::vector<std::string>{"star", "components"}));
  EXPECT_EQ(table.values("size"), (std::vector<std::string>{"small", "large"}));
  EXPECT_EQ(table.values("star"), (std::vector<std::string>{"true", "false"}));
  EXPECT_TRUE(table.values("text").empty());
  const std::vector<std::string> recipes = table.values("config");
  EXPECT_NE(std::find(recipes.begin(), recipes.end(), "tiny"), recipes.end());
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
  struct Odd {
    int64_t automatic = 0;
    std::string mode;
  } odd;
  Schema<Odd> schema;
  schema.add("batch", &Odd::automatic, "0 = automatic.").range(1, 8);
  schema.add("mode", &Odd::mode, "Empty = automatic.").choices({"a", "b"});
  OptionTable table;
  table.bind(schema, odd);
  table.parse_ini(table.to_ini(), "defaults");
  EXPECT_EQ(odd.automatic, 0);
  EXPECT_EQ(odd.mode, "");
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

TEST(Options, HelpIsEightyColumnsWide) {
  Config c;
  for (const std::string& line : split(table_for(c).help(), '\n')) EXPECT_LE(line.size(), 80U) << line;
}

TEST(Options, DeclaringANameTwiceIsADefect) {
  Config c;
  OptionTable table = table_for(c);
  EXPECT_THROW(table.bind(part_options(), c.part), InternalError);
}

}  // namespace
}  // namespace dino
