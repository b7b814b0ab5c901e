// SPDX-License-Identifier: Apache-2.0
#include "base/machine.hpp"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>

#include "base/text.hpp"

namespace dino {

std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    const size_t colon = line.find(':');
    if (!line.starts_with("model name") || colon == std::string::npos) continue;
    const std::string name = printable_line(trim(line.substr(colon + 1)));
    if (!name.empty()) return name;
  }
  return "unknown";
}

int64_t cpu_cores() {
  return std::max<int64_t>(1, sysconf(_SC_NPROCESSORS_ONLN));
}

std::string command_line() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  const std::string all((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::string out;
  for (size_t begin = 0; begin < all.size();) {
    const size_t end = std::min(all.find('\0', begin), all.size());
    const std::string word = all.substr(begin, end - begin);
    out += (out.empty() ? "" : " ") + shell_quote(word);
    begin = end + 1;
  }
  return printable_line(out);
}

}  // namespace dino
