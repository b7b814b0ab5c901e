// SPDX-License-Identifier: Apache-2.0
// Damaged recipes: each is read or refused as a mistake of its writer.
#include <gtest/gtest.h>

#include "base/options.hpp"
#include "mutation.hpp"

namespace dino {
namespace {

TEST(RecipeMutation, Ini) {
  testing::MutationPlan plan;
  plan.good = {
      "# a recipe\n[model]\npreset = small\nsteps = 200\nlr = 1e-3\nbias = true\n\n[data]\nlevels = "
      "1000,100,10\n"
      "rates = 0.1,0.2\ninput = a b\nname = \"a # b\"\n",
      "lr=0.5\nsteps=7\n; comment\n[x]\nbias=false\npreset=large\n"};
  plan.stream = 31;
  testing::run_mutations(plan, [](const std::string& bytes, int i) {
    bool bias = false;
    int64_t steps = 0;
    double lr = 0;
    std::string preset = "small", name;
    std::vector<int64_t> levels;
    std::vector<double> rates;
    std::vector<std::string> input;
    OptionTable table;
    table.add("preset", &preset, "Size.").choices({"small", "large"});
    table.add("steps", &steps, "Steps.").range(1, 1e6);
    table.add("lr", &lr, "Rate.").range(0, 10);
    table.add("bias", &bias, "Bias.").add("levels", &levels, "Levels.").add("rates", &rates, "Rates.");
    table.add("input", &input, "Input.").add("name", &name, "Name.");
    try {
      table.parse_ini(bytes, "bad.cfg");
      EXPECT_TRUE(steps == 0 || (steps >= 1 && steps <= 1000000)) << i << ": " << steps;
      EXPECT_TRUE(lr >= 0 && lr <= 10) << i << ": " << lr;
      return true;
    } catch (const UsageError& error) {
      EXPECT_NE(std::string(error.what()).find("bad.cfg"), std::string::npos) << i << ": " << error.what();
      return false;
    }
  });
}

}  // namespace
}  // namespace dino
