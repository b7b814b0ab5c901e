// SPDX-License-Identifier: Apache-2.0
#include "base/options.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <boost/make_shared.hpp>
#include <boost/program_options.hpp>
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

namespace po = boost::program_options;
using Takes = FieldType::Takes;

constexpr const char* kCommandLine = "command line";

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

std::vector<std::string> recipe_names() {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& file : std::filesystem::directory_iterator(share_dir() + "/recipes", error))
    if (file.path().extension() == ".cfg") names.push_back(file.path().stem().string());
  std::sort(names.begin(), names.end());
  return names;
}

bool is_flag(const std::string& word) {
  return word.size() > 2 && word.starts_with("--");
}

/// What Boost is told of a table: names, and how many words each option takes.
po::options_description description_of(const std::vector<OptionTable::Entry>& entries) {
  po::options_description description;
  for (const OptionTable::Entry& entry : entries) {
    const po::value_semantic* semantic = nullptr;  // the description owns it
    if (entry.option.type->takes == Takes::words)
      semantic = po::value<std::vector<std::string>>()->multitoken();
    else
      semantic = po::value<std::string>();
    description.add(boost::make_shared<po::option_description>(entry.option.name.c_str(), semantic));
  }
  return description;
}

po::option option_of(const std::string& name, std::vector<std::string> values, std::string place) {
  po::option option(name, std::move(values));
  option.original_tokens = {std::move(place)};
  return option;
}

/// What Boost's own styles do not know: a flag takes the next word only where it says true or false, and
/// `--name=` gives an empty value.
std::vector<po::option> parse_flag(const std::vector<OptionTable::Entry>& entries,
                                   std::vector<std::string>& words) {
  const std::string word = words.front();
  const bool empty = word.ends_with('=') && std::count(word.begin(), word.end(), '=') == 1;
  if (!is_flag(word) || (!empty && word.find('=') != std::string::npos)) return {};
  const std::string name = word.substr(2, word.size() - 2 - (empty ? 1 : 0));
  const auto it = std::find_if(entries.begin(), entries.end(),
                               [&](const OptionTable::Entry& e) { return e.option.name == name; });
  if (it == entries.end() || (!empty && it->option.type->takes != Takes::flag)) return {};
  words.erase(words.begin());
  if (empty) return {option_of(name, {""}, word)};
  std::string value = "true";
  if (!words.empty() && (words.front() == "true" || words.front() == "false" ||
                         (it->option.type->takes_auto && words.front() == "auto"))) {
    value = words.front();
    words.erase(words.begin());
  }
  return {option_of(name, {value}, word)};
}

/// Boost's errors name an option as it stands on the command line.
std::string bare_name(std::string word) {
  word.erase(0, word.find_first_not_of('-'));
  return word.substr(0, word.find('='));
}

/// The words as Boost understands them: options in order, and loose words without a key.
std::vector<po::option> split_words(const OptionTable& table, const std::vector<std::string>& words) {
  const po::options_description description = description_of(table.entries());
  try {
    return po::command_line_parser(words)
        .options(description)
        .style(po::command_line_style::allow_long | po::command_line_style::long_allow_next |
               po::command_line_style::long_allow_adjacent)
        .extra_style_parser([&](std::vector<std::string>& rest) { return parse_flag(table.entries(), rest); })
        .run()
        .options;
  } catch (const po::unknown_option& error) {
    table.unknown(bare_name(error.get_option_name()), kCommandLine);
  } catch (const po::error_with_option_name& error) {
    table.bad(bare_name(error.get_option_name()), kCommandLine, "has no value", "give one after it");
  }
}

/// Single dashes are mistakes among the loose words; behind "--" a word may begin as it likes.
void refuse_short_options(const std::vector<std::string>& words, const std::vector<std::string>& loose) {
  const auto end = std::find(words.begin(), words.end(), "--");
  const size_t free = end == words.end() ? 0 : static_cast<size_t>(words.end() - end) - 1;
  for (size_t i = 0; i + free < loose.size(); ++i) {
    if (loose[i].size() > 1 && loose[i][0] == '-' && !parse_number<double>(loose[i]))
      throw UsageError(fmt::format("unknown option: {} ({}): options begin with two dashes; see --help",
                                   loose[i], kCommandLine));
  }
}

/// Words of a list from the command line, or of a value from a file, split at commas where they are numbers.
std::vector<std::string> pieces_of(const FieldType& type, const std::vector<std::string>& words) {
  if (type.takes != Takes::numbers) return words;
  std::vector<std::string> pieces;
  for (const std::string& word : words)
    for (std::string& piece : split(word, ',')) pieces.push_back(trim(piece));
  if (pieces.size() == 1 && pieces.front().empty()) pieces.clear();
  return pieces;
}

}  // namespace

void OptionList::push(std::string name, std::string help, const FieldType& type,
                      std::function<void*(void*)> field) {
  Option option;
  option.name = std::move(name);
  option.help = std::move(help);
  option.heading = heading_;
  option.type = &type;
  option.allowed = type.names;
  declared_.push_back({std::move(option), std::move(field)});
}

void OptionList::include(const OptionList& part, const std::function<void*(void*)>& member) {
  for (const Declared& one : part.declared()) {
    Option option = one.option;
    if (option.heading.empty()) option.heading = heading_;
    declared_.push_back(
        {std::move(option), [member, field = one.field](void* object) { return field(member(object)); }});
  }
}

Option& OptionList::last() {
  DINO_CHECK(!declared_.empty(), "a restriction stands before the first option");
  return declared_.back().option;
}

void OptionTable::push(Option option, void* field) {
  DINO_CHECK(find(option.name) == nullptr, "option --" + option.name + " is declared twice");
  DINO_CHECK(!option.is_positional || positional_entry() == nullptr, "two positional options");
  Entry entry{std::move(option), field, {}, {}};
  entry.default_text = entry.print();
  entries_.push_back(std::move(entry));
}

OptionTable::Entry* OptionTable::find(std::string_view name) {
  const auto it =
      std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.option.name == name; });
  return it == entries_.end() ? nullptr : &*it;
}

const OptionTable::Entry* OptionTable::positional_entry() const {
  const auto it =
      std::find_if(entries_.begin(), entries_.end(), [](const Entry& e) { return e.option.is_positional; });
  return it == entries_.end() ? nullptr : &*it;
}

void OptionTable::bad(const std::string& name, const std::string& place, const std::string& why,
                      const std::string& action) const {
  throw UsageError(fmt::format("{}: {}{} ({}): {}; {}", kind_, dashes_, name, place, why, action));
}

void OptionTable::unknown(std::string_view name, const std::string& place) const {
  const std::string nearest = nearest_name(name, names());
  std::string action = fmt::format("did you mean {}{}?", dashes_, nearest);
  if (nearest.empty())
    action = dashes_.empty() ? fmt::format("use {}", fmt::join(names(), ", ")) : "see --help";
  if (dashes_.empty()) bad(std::string(name), place, "there is no such setting", action);
  throw UsageError(fmt::format("unknown option: --{} ({}): no such option; {}", name, place, action));
}

void OptionTable::check_piece(const Entry& entry, const std::string& piece, const std::string& place) const {
  const Option& option = entry.option;
  if (!option.allowed.empty() &&
      std::find(option.allowed.begin(), option.allowed.end(), piece) == option.allowed.end()) {
    const std::string nearest = nearest_name(piece, option.allowed);
    bad(option.name, place, fmt::format("'{}' is not one of {}", piece, fmt::join(option.allowed, ", ")),
        nearest.empty() ? "choose one of them" : "did you mean " + nearest + "?");
  }
}

void OptionTable::assign(Entry& entry, const std::vector<std::string>& words, const std::string& place) {
  const Option& option = entry.option;
  const std::vector<std::string> pieces = pieces_of(*option.type, words);
  if (!option.type->is_list() && pieces.size() != 1)
    bad(option.name, place, fmt::format("takes one value, not {}", pieces.size()),
        "quote a value that has spaces");
  // A default may lie outside of what users may give (0 = automatic, say), and must be readable back.
  const bool is_default = fmt::format("{}", fmt::join(pieces, ",")) == entry.default_text;
  if (!is_default)
    for (const std::string& piece : pieces) check_piece(entry, piece, place);
  try {
    option.type->assign(entry.field, pieces);
  } catch (const std::invalid_argument& fault) {
    const std::string& of = option.type->metavar;
    bad(option.name, place, fault.what(),
        option.type->takes == Takes::flag && !option.type->takes_auto ? "give true or false"
        : of.starts_with("N")                                         ? "give one such as 16"
        : of.starts_with("X")                                         ? "give one such as 0.5 or 1e-3"
        : dashes_.empty()                                             ? "correct the line"
                                                                      : "see --help");
  }
  if (option.has_range && !is_default) {
    for (const std::string& piece : pieces) {
      const auto value = parse_number<double>(piece);
      if (value && (*value < option.low || *value > option.high))
        bad(option.name, place, fmt::format("{} is outside {} to {}", piece, option.low, option.high),
            "give a value in that range");
    }
  }
  entry.place = place;
}

void OptionTable::parse(const std::vector<std::string>& words) {
  // What the command line gives, in order; repeated lists are joined, the last scalar wins.
  std::vector<std::pair<Entry*, std::vector<std::string>>> given_words;
  const auto collect = [&](Entry* entry, const std::vector<std::string>& values) {
    for (auto& [other, all] : given_words) {
      if (other != entry) continue;
      if (!entry->option.type->is_list()) all.clear();
      all.insert(all.end(), values.begin(), values.end());
      return;
    }
    given_words.emplace_back(entry, values);
  };
  std::vector<std::string> loose;
  for (const po::option& option : split_words(*this, words)) {
    if (!option.string_key.empty()) {
      const bool apart = option.original_tokens.front().find('=') == std::string::npos;
      if (apart && (is_flag(option.value.front()) || option.value.front() == "--"))
        bad(option.string_key, kCommandLine, "has no value", "give one after it");
      collect(find(option.string_key), option.value);
      continue;
    }
    loose.push_back(option.value.front());
  }
  refuse_short_options(words, loose);
  if (!loose.empty()) {
    const Entry* entry = positional_entry();
    if (entry == nullptr)
      throw UsageError(fmt::format("unexpected word: {} ({}): this command takes options only; see --help",
                                   loose.front(), kCommandLine));
    if (!entry->option.type->is_list() && loose.size() > 1)
      throw UsageError(fmt::format("unexpected word: {} ({}): one {} is enough; see --help", loose[1],
                                   kCommandLine, entry->option.name));
    collect(find(entry->option.name), loose);
  }
  for (auto& [entry, values] : given_words) {
    if (entry->option.name == "config") parse_ini(read_recipe(values.back()), values.back());
  }
  for (auto& [entry, values] : given_words) assign(*entry, values, kCommandLine);
  check_required(kCommandLine);
}

void OptionTable::check_required(const std::string& source) const {
  for (const Entry& entry : entries_) {
    const Option& option = entry.option;
    if (option.is_required && !entry.is_given())
      bad(option.name, source, "is missing",
          fmt::format("give {}{} {}", dashes_, option.name, option.type->metavar));
  }
}

void OptionTable::parse_ini(std::string_view text, const std::string& source) {
  parse_lines(read_ini(text, source, dashes_.empty() ? kind_ : "bad recipe"), source);
}

void OptionTable::parse_lines(const std::vector<IniLine>& lines, const std::string& source) {
  // A recipe arrives in the form in which words do; the place of a value stands for its original word.
  const po::options_description description = description_of(entries_);
  po::parsed_options parsed(&description);
  for (const IniLine& line : lines) {
    const std::string place = fmt::format("{}:{}", source, line.number);
    const Entry* entry = find(line.key);
    if (entry == nullptr) unknown(line.key, place);
    if (entry->option.name == "config")
      bad("config", place, "a recipe cannot name another recipe", "put the settings into one file");
    const bool list = entry->option.type->takes == Takes::words && !entry->option.by_line;
    parsed.options.push_back(option_of(
        line.key, list ? ini_words(line.value, place) : std::vector{ini_word(line.value, place)}, place));
  }
  std::vector<std::string> done;
  for (const po::option& option : parsed.options) {
    if (std::find(done.begin(), done.end(), option.string_key) != done.end()) continue;
    done.push_back(option.string_key);
    Entry& entry = *find(option.string_key);
    std::vector<std::string> values;
    for (const po::option& other : parsed.options) {
      if (other.string_key != option.string_key) continue;
      const std::string& place = other.original_tokens.front();
      if (&other != &option && !entry.option.type->is_list())
        bad(entry.option.name, place, "stands before in " + option.original_tokens.front(),
            "leave one of the two lines");
      // Alone first: a fault is one of its line.
      if (entry.option.type->is_list()) assign(entry, other.value, place);
      values.insert(values.end(), other.value.begin(), other.value.end());
    }
    assign(entry, values, option.original_tokens.front());
  }
}

bool OptionTable::given(std::string_view name) const {
  return std::any_of(entries_.begin(), entries_.end(),
                     [&](const Entry& e) { return e.option.name == name && e.is_given(); });
}

std::vector<std::string> OptionTable::names() const {
  std::vector<std::string> all;
  for (const Entry& entry : entries_) all.push_back(entry.option.name);
  return all;
}

std::vector<std::string> OptionTable::values(std::string_view name) const {
  const auto it =
      std::find_if(entries_.begin(), entries_.end(), [&](const Entry& e) { return e.option.name == name; });
  if (it == entries_.end()) return {};
  if (it->option.is_recipe) return recipe_names();
  if (it->option.type->takes != Takes::flag) return it->option.allowed;
  std::vector<std::string> values = {"true", "false"};
  if (it->option.type->takes_auto) values.emplace_back("auto");
  return values;
}

std::string OptionTable::to_ini() const {
  std::string text;
  const std::string* heading = nullptr;
  for (const Entry& entry : entries_) {
    const Option& option = entry.option;
    if (is_run_only(option.name)) continue;
    if (heading == nullptr || *heading != option.heading) {
      if (!option.heading.empty()) text += fmt::format("{}[{}]\n", text.empty() ? "" : "\n", option.heading);
      heading = &option.heading;
    }
    const std::string value = entry.print();
    // An empty default stands as a comment: the file shows that the setting exists.
    const bool unset = value.empty() && !entry.is_given();
    text += fmt::format("{}{} = {}", unset ? "# " : "", option.name, value);
    while (text.ends_with(' ')) text.pop_back();
    text += '\n';
  }
  return text;
}

Schema<CommonOptions> common_options(const std::string& output) {
  using C = CommonOptions;
  Schema<C> schema;
  schema.section("Common options")
      .add("config", &C::config, "Recipe file to read first; flags win over it.")
      .completed_by_recipes()
      .add("output", &C::output, output.empty() ? "Output folder or file." : output);
  if (!output.empty()) schema.required();
  schema.add("seed", &C::seed, "Seed of every random draw.")
      .add("threads", &C::threads,
           "Threads of a rank; 0 = OMP_NUM_THREADS, or the cores of the node divided by its ranks (those "
           "that a launcher binds a rank to, where that was asked for).")
      .range(0, 4096)
      .add("watchdog-seconds", &C::watchdog_seconds,
           "End the job, naming rank and phase, when a collective or a call on a file waits for longer; 0 = "
           "never. Without this flag DINO_WATCHDOG_SECONDS counts.")
      .range(0, 1e9)
      .add("retry-seconds", &C::retry_seconds,
           "Try reads that fail or that lack a file listed before again for so long, then end with exit code "
           "74; 0 = at once.")
      .range(0, 1e9)
      .add("dry-run", &C::dry_run, "Check everything, write nothing.")
      .add("print-config", &C::print_config, "Print all settings in force as a recipe and stop.")
      .add("progress", &C::progress,
           "Progress on stderr: a live line on a terminal, plain lines, or nothing.")
      .add("json", &C::json, "Print the result as one JSON object on stdout.");
  return schema;
}

}  // namespace dino
