// SPDX-License-Identifier: Apache-2.0
#pragma once
// Damages good files in a fixed number of ways that depend on a seed alone, and watches what a reader makes
// of each: it is either read or refused by one of our errors, in the time and memory of a small file.

#include <gtest/gtest.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "base/random.hpp"
#include "base/timing.hpp"

#ifdef DINO_SANITIZE
// Damaged headers ask for 2^52 bytes: let malloc refuse that as it does without sanitizers. Freed memory that
// is kept back for a while must not count as growth. (One source of an executable includes this header.)
extern "C" const char* __asan_default_options() {
  return "allocator_may_return_null=1:quarantine_size_mb=16";
}
#endif

namespace dino::testing {

constexpr int kMutations = 5000;
constexpr int64_t kMutationMemory = int64_t{256} << 20;  ///< of growth over all cases
constexpr double kMutationSeconds = 10;  ///< of CPU time for one case, under the sanitizers too

/// DINO_MUTATIONS makes a longer hunt.
inline int mutation_count() {
  const char* more = std::getenv("DINO_MUTATIONS");
  return more == nullptr ? kMutations : std::atoi(more);
}

/// DINO_MUTATION_SEED makes a hunt after other cases.
inline uint64_t mutation_seed() {
  const char* seed = std::getenv("DINO_MUTATION_SEED");
  return seed == nullptr ? 0 : std::strtoull(seed, nullptr, 10);
}

namespace mutation {

/// Values that size and offset fields are attacked with.
inline uint64_t extreme(Random& random, size_t size) {
  const std::array<uint64_t, 14> values = {0,
                                           1,
                                           0x7f,
                                           0x80,
                                           0xff,
                                           0x7fff,
                                           0xffff,
                                           0x7fffffff,
                                           0x80000000,
                                           0xffffffff,
                                           0x7fffffffffffffff,
                                           0x8000000000000000,
                                           0xffffffffffffffff,
                                           size + 1};
  return values[random.below(values.size())];
}

inline void attack_binary_field(std::string& bytes, size_t at, Random& random) {
  const size_t width = std::min<size_t>(size_t{1} << random.below(4), bytes.size() - at);
  const uint64_t value = extreme(random, bytes.size());
  const bool big_endian = random.bernoulli(0.5);
  for (size_t i = 0; i < width; ++i)
    bytes[at + i] = static_cast<char>(value >> (8 * (big_endian ? width - 1 - i : i)));
}

/// The digits from `at` on become another number.
inline void attack_number(std::string& bytes, size_t at, Random& random) {
  size_t begin = bytes.find_first_of("0123456789", at);
  if (begin == std::string::npos) begin = 0;
  const size_t end = std::min(bytes.find_first_not_of("0123456789", begin), bytes.size());
  constexpr std::array<const char*, 9> numbers = {
      "0",   "-1",   "9223372036854775807", "9223372036854775808", "99999999999999999999999", "1e999", "-0",
      "nan", "65536"};
  bytes.replace(begin, end - begin, numbers[random.below(numbers.size())]);
}

/// One edit. `other` is another good file of the kind.
inline void edit(std::string& bytes, const std::string& other, Random& random) {
  // Most structure is at the front.
  const size_t at =
      random.bernoulli(0.6) ? random.below(std::min<size_t>(bytes.size(), 1024)) : random.below(bytes.size());
  const size_t rest = bytes.size() - at;
  switch (random.below(11)) {
    case 0:
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << random.below(8)));
      break;
    case 1:
      bytes[at] = static_cast<char>(random.below(256));
      break;
    case 2:
      bytes.replace(at, std::min<size_t>(8, rest), std::min<size_t>(8, rest),
                    random.bernoulli(0.5) ? '\xff' : '\0');
      break;
    case 3:
      bytes.resize(at);
      break;
    case 4:
      bytes.insert(at, 1 + random.below(9), static_cast<char>(random.below(256)));
      break;
    case 5:
      bytes.erase(at, 1 + random.below(16));
      break;
    case 6:  // a part doubled, some dozens of times in some cases
      for (uint64_t n = random.bernoulli(0.1) ? 50 : 1, size = 1 + random.below(256); n > 0; --n)
        bytes.insert(at, bytes.substr(at, size));
      break;
    case 7:
      bytes = bytes.substr(0, at) + other.substr(std::min(other.size(), random.below(other.size() + 1)));
      break;
    case 8:
      attack_number(bytes, at, random);
      break;
    default:
      attack_binary_field(bytes, at, random);
  }
}

}  // namespace mutation

struct MutationPlan {
  std::vector<std::string> good;  ///< whole files; each gets its share
  uint64_t stream = 0;
  /// Makes checksums right again, so that the damage gets past them; used in half of the cases.
  std::function<void(std::string&)> repair;
  /// The share that must be refused, or the reader did not look.
  double refused = 0.1;
};

inline std::string mutated(const MutationPlan& plan, int index) {
  Random random(plan.stream + (mutation_seed() << 16), RandomStream::test, static_cast<uint64_t>(index));
  std::string bytes = plan.good[static_cast<size_t>(index) % plan.good.size()];
  const std::string& other = plan.good[random.below(plan.good.size())];
  for (uint64_t edits = 1 + random.below(4); edits > 0 && !bytes.empty(); --edits)
    mutation::edit(bytes, other, random);
  if (plan.repair && random.bernoulli(0.5)) plan.repair(bytes);
  return bytes;
}

inline double cpu_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

/// `read` returns whether the bytes were accepted.
inline void run_mutations(const MutationPlan& plan,
                          const std::function<bool(const std::string& bytes, int i)>& read) {
  for (const std::string& good : plan.good) ASSERT_TRUE(read(good, -1));
  const int64_t before = peak_rss_bytes();
  const int count = mutation_count();
  int refused = 0, largest = -1;
  double longest = 0;
  int64_t jump = 0;
  for (int i = 0; i < count; ++i) {
    const std::string bytes = mutated(plan, i);
    const double start = cpu_seconds();
    const int64_t peak = peak_rss_bytes();
    refused += read(bytes, i) ? 0 : 1;
    const double seconds = cpu_seconds() - start;
    EXPECT_LT(seconds, kMutationSeconds) << "case " << i;
    longest = std::max(longest, seconds);
    if (const int64_t more = peak_rss_bytes() - peak; more > jump) {
      jump = more;
      largest = i;
    }
  }
  const int64_t grown = peak_rss_bytes() - before;
  EXPECT_LT(grown, kMutationMemory) << "most at case " << largest << ": " << human_bytes(jump);
  EXPECT_GE(refused, count * plan.refused);
  std::printf("%d cases: %d refused, longest %.3f s of CPU, %s more memory\n", count, refused, longest,
              human_bytes(grown).c_str());
}

/// The same for a reader of files. Only our errors that name the file are a refusal; others go through and
/// fail the test.
inline void run_file_mutations(const MutationPlan& plan, const std::string& path,
                               const std::function<void(const std::string& path)>& read) {
  run_mutations(plan, [&](const std::string& bytes, int i) {
    // No fsync, and a new file: ext4 flushes one that is truncated and written again.
    std::filesystem::remove(path);
    std::ofstream(path, std::ios::binary) << bytes;
    try {
      read(path);
      return true;
    } catch (const Error& error) {
      if (i < 0) ADD_FAILURE() << "the good file: " << error.what();
      EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << i << ": " << error.what();
      EXPECT_NE(error.code(), ExitCode::internal) << i << ": " << error.what();
      return false;
    }
  });
}

}  // namespace dino::testing
