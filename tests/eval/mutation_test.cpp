// SPDX-License-Identifier: Apache-2.0
// Damaged results are read or refused by file and line.
#include "mutation.hpp"

#include <gtest/gtest.h>

#include "results.hpp"
#include "temporary.hpp"

namespace dino::eval {
namespace {

TEST(ResultsMutation, Jsonl) {
  std::string good;
  for (int k : {5, 10}) {
    ResultRow row{"knn", "pets", "model", "top1", {0.5, 0.4, 0.6, 100}, "", "", 1.5, "", {}, ""};
    Card card;
    card.set("k", int64_t{k}).set("temperature", 0.07);
    row.card = card.json();
    row.card_hash = card.hash();
    good += to_json_line(row) + "\n";
  }
  const TemporaryFolder folder;
  testing::run_file_mutations({{good, good.substr(0, good.find('\n') + 1)}, 51, {}, 0.1},
                              folder.path() + "/results.jsonl",
                              [](const std::string& path) { (void)read_results(path); });
}

}  // namespace
}  // namespace dino::eval
