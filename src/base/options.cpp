// SPDX-License-Identifier: Apache-2.0
#include "base/options.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <stdexcept>

#include "base/error.hpp"
#include "base/text.hpp"
#include "base/version.hpp"

namespace dino {
namespace {

constexpr const char* kCommandLine = "command line";

[[noreturn]] void bad(const std::string& name, const std::string& source, const std::string& why,
                      const std::string& action) {
  throw UsageError(fmt::format("bad option: --{} ({}): {}; {}", name, source, why, action));
}

/// All of `word` as a number, or nothing.
template <class T>
std::optional<T> parse_number(std::string_view word) {
  if (word.starts_with('+')) word.remove_prefix(1);
  T value{};
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  if (error != std::errc() || end != word.data() + word.size()) return std::nullopt;
  return value;
}

int64_t to_integer(const std::string& name, const std::string& word, const std::string& source) {
  const auto value = parse_number<int64_t>(word);
  if (!value) bad(name, source, fmt::format("'{}' is not a whole number", word), "give one such as 16");
  return *value;
}

double to_double(const std::string& name, const std::string& word, const std::string& source) {
  const auto value = parse_number<double>(word);
  if (!value || !std::isfinite(*value))
    bad(name, source, fmt::format("'{}' is not a number", word), "give one such as 0.5 or 1e-3");
  return *value;
}

std::optional<bool> parse_bool(std::string_view word) {
  for (const char* yes : {"true", "yes", "on", "1"})
    if (word == yes) return true;
  for (const char* no : {"false", "no", "off", "0"})
    if (word == no) return false;
  return std::nullopt;
}

const std::string& only_word(const std::string& name, const std::vector<std::string>& words,
                             const std::string& source) {
  if (words.size() != 1)
    bad(name, source, fmt::format("takes one value, not {}", words.size()), "quote a value that has spaces");
  return words.front();
}

std::string print_words(const std::vector<std::string>& words) {
  std::vector<std::string> quoted;
  for (const std::string& word : words) quoted.push_back(ini_quote(word, true));
  return fmt::format("{}", fmt::join(quoted, ", "));
}

/// --name=value or --name; `value` is empty where there is no '='.
struct Flag {
  std::string name;
  std::optional<std::string> value;
};

Flag split_flag(const std::string& word) {
  const size_t equals = word.find('=');
  if (equals == std::string::npos) return {word.substr(2), std::nullopt};
  return {word.substr(2, equals - 2), word.substr(equals + 1)};
}

bool is_flag(const std::string& word) {
  return word.size() > 2 && word.starts_with("--");
}

std::string read_recipe(const std::string& path) {
  // A bare name is looked up among the recipes that come with the programs.
  std::vector<std::string> places = {path};
  if (path.find('/') == std::string::npos) {
    places.push_back(share_dir() + "/recipes/" + path);
    places.push_back(share_dir() + "/recipes/" + path + ".cfg");
  }
  for (const std::string& place : places) {
    std::error_code error;
    if (std::filesystem::is_directory(place, error))
      throw MissingInputError(fmt::format("cannot read recipe: {}: it is a folder; name a file", place));
    if (!std::filesystem::is_regular_file(place, error)) continue;
    std::ifstream file(place, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    if (!file)
      throw MissingInputError(fmt::format("cannot read recipe: {}: unreadable; check its rights", place));
    return text.str();
  }
  throw MissingInputError(fmt::format(
      "cannot read recipe: {}: no such file, here or in {}/recipes; check --config", path, share_dir()));
}

/// Settings that say how to run, not what: they are not part of a recipe.
bool is_run_only(std::string_view name) {
  return name == "config" || name == "print-config" || name == "dry-run" || name == "json" ||
         name == "progress";
}

}  // namespace

OptionTable::Entry& OptionTable::push(std::string name, std::string help, std::string type) {
  DINO_CHECK(find(name) == nullptr, "option --" + name + " is declared twice");
  Entry entry;
  entry.name = std::move(name);
  entry.help = std::move(help);
  entry.heading = heading_;
  entry.type = std::move(type);
  entries_.push_back(std::move(entry));
  return entries_.back();
}

OptionTable& OptionTable::add(std::string name, bool* field, std::string help) {
  Entry& entry = push(name, std::move(help), "");
  entry.is_bool = true;
  entry.assign = [=](const std::vector<std::string>& words, const std::string& source) {
    const std::string& word = only_word(name, words, source);
    const auto value = parse_bool(word);
    if (!value) bad(name, source, fmt::format("'{}' is neither true nor false", word), "give true or false");
    *field = *value;
  };
  entry.print = [=] { return *field ? "true" : "false"; };
  entry.default_text = entry.print();
  return *this;
}

OptionTable& OptionTable::add(std::string name, int64_t* field, std::string help) {
  Entry& entry = push(name, std::move(help), "N");
  entry.assign = [=](const std::vector<std::string>& words, const std::string& source) {
    *field = to_integer(name, only_word(name, words, source), source);
  };
  entry.print = [=] { return fmt::format("{}", *field); };
  entry.default_text = entry.print();
  return *this;
}

OptionTable& OptionTable::add(std::string name, double* field, std::string help) {
  Entry& entry = push(name, std::move(help), "X");
  entry.assign = [=](const std::vector<std::string>& words, const std::string& source) {
    *field = to_double(name, only_word(name, words, source), source);
  };
  entry.print = [=] { return fmt::format("{}", *field); };
  entry.default_text = entry.print();
  return *this;
}

OptionTable& OptionTable::add(std::string name, std::string* field, std::string help) {
  Entry& entry = push(name, std::move(help), "TEXT");
  entry.assign = [=](const std::vector<std::string>& words, const std::string& source) {
    *field = only_word(name, words, source);
  };
  entry.print = [=] { return ini_quote(*field, false); };
  entry.default_text = entry.print();
  return *this;
}

OptionTable& OptionTable::add(std::string name, std::vector<int64_t>* field, std::string help) {
  Entry& entry = push(name, std::move(help), "N,N,...");
  entry.multiple = true;
  entry.assign = [=](const std::vector<std::string>& words, const std::string& source) {
    std::vector<int64_t> values;
    for (const std::string& word : words) values.push_back(to_integer(name, word, source));
    *field = std::move(values);
  };
  entry.print = [=] { return fmt::format("{}", fmt::join(*field, ",")); };
  entry.default_text = entry.print();
  return *this;
}

OptionTable& OptionTable::add(std::string name, std::vector<double>* field, std::string help) {
  Entry& entry = push(name, std::move(help), "X,X,...");
  entry.multiple = true;
  entry.assign = [=](const std::vector<std::string>& words, const std::string& source) {
    std::vector<double> values;
    for (const std::string& word : words) values.push_back(to_double(name, word, source));
    *field = std::move(values);
  };
  entry.print = [=] { return fmt::format("{}", fmt::join(*field, ",")); };
  entry.default_text = entry.print();
  return *this;
}

OptionTable& OptionTable::add(std::string name, std::vector<std::string>* field, std::string help) {
  Entry& entry = push(std::move(name), std::move(help), "TEXT...");
  entry.multiple = true;
  entry.assign = [=](const std::vector<std::string>& words, const std::string&) { *field = words; };
  entry.print = [=] { return print_words(*field); };
  entry.default_text = entry.print();
  return *this;
}

OptionTable& OptionTable::add_text(std::string name, std::string help, std::string type,
                                   std::function<void(const std::string&)> assign,
                                   std::function<std::string()> print, bool is_bool) {
  Entry& entry = push(name, std::move(help), std::move(type));
  entry.is_bool = is_bool;
  entry.takes_auto = is_bool;
  entry.assign = [name = std::move(name), assign = std::move(assign)](const std::vector<std::string>& words,
                                                                      const std::string& source) {
    try {
      assign(only_word(name, words, source));
    } catch (const std::invalid_argument& fault) {
      bad(name, source, fault.what(), "see --help");
    }
  };
  entry.print = [print = std::move(print)] { return ini_quote(print(), false); };
  entry.default_text = entry.print();
  return *this;
}

OptionTable& OptionTable::choices(std::vector<std::string> allowed) {
  entries_.back().allowed = std::move(allowed);
  return *this;
}

OptionTable& OptionTable::range(double low, double high) {
  entries_.back().low = low;
  entries_.back().high = high;
  entries_.back().has_range = true;
  return *this;
}

OptionTable& OptionTable::required() {
  entries_.back().is_required = true;
  return *this;
}

OptionTable& OptionTable::positional() {
  for (const Entry& entry : entries_) DINO_CHECK(!entry.is_positional, "two positional options");
  entries_.back().is_positional = true;
  return *this;
}

OptionTable& OptionTable::section(std::string heading) {
  heading_ = std::move(heading);
  return *this;
}

OptionTable::Entry* OptionTable::find(std::string_view name) {
  const auto it =
      std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.name == name; });
  return it == entries_.end() ? nullptr : &*it;
}

void OptionTable::unknown(std::string_view name, const std::string& source) const {
  const std::string nearest = nearest_name(name, names());
  throw UsageError(fmt::format("unknown option: --{} ({}): no such option; {}", name, source,
                               nearest.empty() ? "see --help" : "did you mean --" + nearest + "?"));
}

/// `words` are final: numbers are split at commas, recipe lists too.
void OptionTable::assign(Entry& entry, const std::vector<std::string>& words, const std::string& source) {
  std::vector<std::string> pieces;
  if (entry.multiple && entry.type != "TEXT...") {
    for (const std::string& word : words) {
      for (std::string& piece : split(word, ',')) pieces.push_back(trim(piece));
    }
    if (pieces.size() == 1 && pieces.front().empty()) pieces.clear();
  } else {
    pieces = words;
  }
  // A default may lie outside of what users may give (0 = automatic, say), and must be readable back.
  const bool is_default = fmt::format("{}", fmt::join(pieces, ",")) == entry.default_text;
  for (const std::string& piece : pieces) {
    if (!entry.allowed.empty() && !is_default &&
        std::find(entry.allowed.begin(), entry.allowed.end(), piece) == entry.allowed.end()) {
      const std::string nearest = nearest_name(piece, entry.allowed);
      bad(entry.name, source, fmt::format("'{}' is not one of {}", piece, fmt::join(entry.allowed, ", ")),
          nearest.empty() ? "choose one of them" : "did you mean " + nearest + "?");
    }
    if (entry.has_range && !is_default) {
      const double value = entry.type.starts_with('N')
                               ? static_cast<double>(to_integer(entry.name, piece, source))
                               : to_double(entry.name, piece, source);
      if (value < entry.low || value > entry.high)
        bad(entry.name, source, fmt::format("{} is outside {} to {}", piece, entry.low, entry.high),
            "give a value in that range");
    }
  }
  entry.assign(pieces, source);
  entry.is_given = true;
}

void OptionTable::parse(const std::vector<std::string>& words) {
  // What the command line gives, in order; repeated lists are joined, the last scalar wins.
  std::vector<std::pair<Entry*, std::vector<std::string>>> given_words;
  const auto collect = [&](Entry* entry, std::vector<std::string> values) {
    for (auto& [other, all] : given_words) {
      if (other != entry) continue;
      if (!entry->multiple) all.clear();
      all.insert(all.end(), values.begin(), values.end());
      return;
    }
    given_words.emplace_back(entry, std::move(values));
  };
  std::vector<std::string> loose;
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i] == "--") {
      loose.insert(loose.end(), words.begin() + static_cast<ptrdiff_t>(i) + 1, words.end());
      break;
    }
    if (!is_flag(words[i])) {
      if (words[i].size() > 1 && words[i][0] == '-' && !parse_number<double>(words[i]))
        throw UsageError(fmt::format("unknown option: {} ({}): options begin with two dashes; see --help",
                                     words[i], kCommandLine));
      loose.push_back(words[i]);
      continue;
    }
    const Flag flag = split_flag(words[i]);
    Entry* entry = find(flag.name);
    if (entry == nullptr) unknown(flag.name, kCommandLine);
    std::vector<std::string> values;
    if (flag.value) {
      values.push_back(*flag.value);
    } else if (entry->is_bool) {
      const bool spelled = i + 1 < words.size() && (words[i + 1] == "true" || words[i + 1] == "false" ||
                                                    (entry->takes_auto && words[i + 1] == "auto"));
      values.push_back(spelled ? words[++i] : "true");
    } else {
      while (i + 1 < words.size() && !is_flag(words[i + 1]) && words[i + 1] != "--" &&
             (values.empty() || entry->type == "TEXT..."))
        values.push_back(words[++i]);
      if (values.empty()) bad(entry->name, kCommandLine, "has no value", "give one after it");
    }
    collect(entry, std::move(values));
  }
  if (!loose.empty()) {
    const auto it =
        std::find_if(entries_.begin(), entries_.end(), [](const Entry& e) { return e.is_positional; });
    if (it == entries_.end())
      throw UsageError(fmt::format("unexpected word: {} ({}): this command takes options only; see --help",
                                   loose.front(), kCommandLine));
    if (!it->multiple && loose.size() > 1)
      throw UsageError(fmt::format("unexpected word: {} ({}): one {} is enough; see --help", loose[1],
                                   kCommandLine, it->name));
    collect(&*it, loose);
  }
  for (auto& [entry, values] : given_words) {
    if (entry->name == "config") parse_ini(read_recipe(values.back()), values.back());
  }
  for (auto& [entry, values] : given_words) assign(*entry, values, kCommandLine);
  for (const Entry& entry : entries_) {
    if (entry.is_required && !entry.is_given)
      bad(entry.name, kCommandLine, "is missing", fmt::format("give --{} {}", entry.name, entry.type));
  }
}

void OptionTable::parse_ini(std::string_view text, const std::string& source) {
  for (const IniLine& line : read_ini(text, source)) {
    const std::string place = fmt::format("{}:{}", source, line.number);
    Entry* entry = find(line.key);
    if (entry == nullptr) unknown(line.key, place);
    if (entry->name == "config")
      bad("config", place, "a recipe cannot name another recipe", "put the settings into one file");
    assign(*entry,
           entry->type == "TEXT..." ? ini_words(line.value, place) : std::vector{ini_word(line.value, place)},
           place);
  }
}

bool OptionTable::given(std::string_view name) const {
  return std::any_of(entries_.begin(), entries_.end(),
                     [&](const Entry& e) { return e.name == name && e.is_given; });
}

std::vector<std::string> OptionTable::names() const {
  std::vector<std::string> all;
  for (const Entry& entry : entries_) all.push_back(entry.name);
  return all;
}

std::string OptionTable::to_ini() const {
  std::string text;
  const std::string* heading = nullptr;
  for (const Entry& entry : entries_) {
    if (is_run_only(entry.name)) continue;
    if (heading == nullptr || *heading != entry.heading) {
      if (!entry.heading.empty()) text += fmt::format("{}[{}]\n", text.empty() ? "" : "\n", entry.heading);
      heading = &entry.heading;
    }
    const std::string value = entry.print();
    // An empty default stands as a comment: the file shows that the setting exists.
    const bool unset = value.empty() && !entry.is_given;
    text += fmt::format("{}{} = {}", unset ? "# " : "", entry.name, value);
    while (text.ends_with(' ')) text.pop_back();
    text += '\n';
  }
  return text;
}

void add_common_options(OptionTable& table, CommonOptions& common) {
  table.section("Common options")
      .add("config", &common.config, "Recipe file to read first; flags win over it.")
      .add("output", &common.output, "Output folder or file.")
      .add("seed", &common.seed, "Seed of every random draw.")
      .add("threads", &common.threads,
           "Threads of a rank; 0 = OMP_NUM_THREADS, or the cores of the node divided by its ranks (those "
           "that a "
           "launcher binds a rank to, where that was asked for).")
      .range(0, 4096)
      .add("watchdog-seconds", &common.watchdog_seconds,
           "End the job, naming rank and phase, when a collective or a call on a file waits for longer; 0 = "
           "never. Without this flag DINO_WATCHDOG_SECONDS counts.")
      .range(0, 1e9)
      .add("retry-seconds", &common.retry_seconds,
           "Try reads that fail or that lack a file listed before again for so long, then end with exit code "
           "74; 0 = at once.")
      .range(0, 1e9)
      .add("dry-run", &common.dry_run, "Check everything, write nothing.")
      .add("print-config", &common.print_config, "Print all settings in force as a recipe and stop.")
      .add("progress", &common.progress,
           "Progress on stderr: a live line on a terminal, plain lines, or nothing.")
      .choices({"auto", "plain", "off"})
      .add("json", &common.json, "Print the result as one JSON object on stdout.");
}

}  // namespace dino
