// SPDX-License-Identifier: Apache-2.0
// Damaged recipes: each is read or refused as a mistake of its writer.
#include <gtest/gtest.h>

#include "base/options.hpp"
#include "mutation.hpp"

namespace dino {
namespace {

struct RecipeSettings {
  bool bias = false;
  int64_t steps = 0;
  double lr = 0;
  std::string preset = "small", name;
  std::vector<int64_t> levels;
  std::vector<double> rates;
  std::vector<std::string> input;
};

Schema<RecipeSettings> settings() {
  using C = RecipeSettings;
  Schema<C> schema;
  schema.add("preset", &C::preset, "Size.").choices({"small", "large"});
  schema.add("steps", &C::steps, "Steps.").range(1, 1e6);
  schema.add("lr", &C::lr, "Rate.").range(0, 10);
  schema.add("bias", &C::bias, "Bias.")
      .add("levels", &C::levels, "Levels.")
      .add("rates", &C::rates, "Rates.");
  schema.add("input", &C::input, "Input.").add("name", &C::name, "Name.");
  return schema;
}

TEST(RecipeMutation, Ini) {
  testing::MutationPlan plan;
  plan.good = {
      "# a recipe\n[model]\npreset = small\nsteps = 200\nlr = 1e-3\nbias = true\n\n[data]\nlevels = "
      "1000,100,10\n"
      "rates = 0.1,0.2\ninput = a b\nname = \"a # b\"\n",
      "lr=0.5\nsteps=7\n; comment\n[x]\nbias=false\npreset=large\n"};
  plan.stream = 31;
  testing::run_mutations(plan, [](const std::string& bytes, int i) {
    RecipeSettings s;
    OptionTable table;
    table.bind(settings(), s);
    try {
      table.parse_ini(bytes, "bad.cfg");
      EXPECT_TRUE(s.steps == 0 || (s.steps >= 1 && s.steps <= 1000000)) << i << ": " << s.steps;
      EXPECT_TRUE(s.lr >= 0 && s.lr <= 10) << i << ": " << s.lr;
      return true;
    } catch (const UsageError& error) {
      EXPECT_NE(std::string(error.what()).find("bad.cfg"), std::string::npos) << i << ": " << error.what();
      return false;
    }
  });
}

}  // namespace
}  // namespace dino
