// SPDX-License-Identifier: Apache-2.0
#pragma once
// One table of options per command. It binds names to the fields of a plain config struct and yields the
// command line, recipe files (INI: `key = value`, the flag's name without dashes; sections are for reading
// only), --help, man pages and --print-config.

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/auto_setting.hpp"

namespace dino {

class OptionTable {
 public:
  /// Each `add` binds one option to a field; the field's present value is the default. `help` is one
  /// sentence.
  OptionTable& add(std::string name, bool* field, std::string help);  ///< --name, --name=false, --name true
  OptionTable& add(std::string name, int64_t* field, std::string help);
  OptionTable& add(std::string name, double* field, std::string help);
  OptionTable& add(std::string name, std::string* field, std::string help);
  OptionTable& add(std::string name, std::vector<int64_t>* field, std::string help);  ///< comma separated
  OptionTable& add(std::string name, std::vector<double>* field, std::string help);   ///< comma separated
  OptionTable& add(std::string name, std::vector<std::string>* field,
                   std::string help);  ///< takes one or more words, may be repeated; commas in recipes
  template <TextSetting T>
  OptionTable& add(std::string name, T* field, std::string help) {
    return add_text(
        std::move(name), std::move(help), T::type_name(),
        [field](const std::string& text) { *field = T::from_text(text); }, [field] { return field->text(); },
        std::is_same_v<T, Auto<bool>>);
  }

  /// Restrictions on the option added last; a broken one is a UsageError that names the option and what is
  /// allowed.
  OptionTable& choices(std::vector<std::string> allowed);
  OptionTable& range(double low, double high);
  OptionTable& required();
  /// Positional words fill this option (at most one such option per table).
  OptionTable& positional();
  /// Groups the following options under a heading of --help.
  OptionTable& section(std::string heading);

  /// Parses the words after the sub-command. --config FILE is read first, so flags win. Throws UsageError
  /// (unknown names suggest the nearest one), MissingInputError for an unreadable recipe.
  void parse(const std::vector<std::string>& words);
  /// Reads one recipe text; `source` is used in messages.
  void parse_ini(std::string_view text, const std::string& source);
  [[nodiscard]] bool given(std::string_view name) const;  ///< set by flag or recipe

  [[nodiscard]] std::string help() const;    ///< the options part of --help
  [[nodiscard]] std::string to_ini() const;  ///< all settings in force, readable by parse_ini
  [[nodiscard]] std::string roff() const;    ///< the options part of the man page
  [[nodiscard]] std::vector<std::string> names() const;
  /// True where the option holds a list of paths or another repeated word.
  struct Entry {
    std::string name, help, heading, type;
    std::vector<std::string> allowed;
    double low = 0, high = 0;
    bool has_range = false, is_required = false, is_positional = false, is_given = false;
    std::function<void(const std::vector<std::string>& words, const std::string& source)> assign;
    std::function<std::string()> print;
    std::string default_text;  ///< what print() gave when the option was declared
    bool multiple = false;
    bool is_bool = false;
    bool takes_auto = false;  ///< a bool that `auto` may follow as a word of its own
  };
  [[nodiscard]] const std::vector<Entry>& entries() const { return entries_; }

 private:
  OptionTable& add_text(std::string name, std::string help, std::string type,
                        std::function<void(const std::string&)> assign, std::function<std::string()> print,
                        bool is_bool);
  Entry& push(std::string name, std::string help, std::string type);
  Entry* find(std::string_view name);
  void assign(Entry& entry, const std::vector<std::string>& words, const std::string& source);
  [[noreturn]] void unknown(std::string_view name, const std::string& source) const;

  std::vector<Entry> entries_;
  std::string heading_;
};

/// The options that every command has (interface: "Everywhere").
struct CommonOptions {
  std::string config;  ///< recipe file
  std::string output;  ///< output folder or file
  int64_t seed = 0;
  int64_t threads = 0;  ///< 0 = as OMP_NUM_THREADS, or the cores of the node divided by its ranks
  double watchdog_seconds = 1800;
  double retry_seconds = 30;
  bool dry_run = false;
  bool print_config = false;
  std::string progress = "auto";  ///< auto | plain | off
  bool json = false;
};

void add_common_options(OptionTable& table, CommonOptions& common);

}  // namespace dino
