// SPDX-License-Identifier: Apache-2.0
#pragma once
// Options of commands and settings of files. A Schema declares them once, by pointers to the members of a
// plain config struct; an OptionTable binds schemas to objects and yields the command line, recipe files
// (INI: `key = value`, the flag's name without dashes; sections are for reading only), --help, man pages,
// completions and --print-config. Words and recipes are parsed by Boost.Program_options.

#include <concepts>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/auto_setting.hpp"
#include "base/field_type.hpp"
#include "base/progress.hpp"
#include "base/text.hpp"

namespace dino {

/// One declaration.
struct Option {
  std::string name, help, heading;
  const FieldType* type = nullptr;
  std::vector<std::string> allowed;  ///< of an enum its names
  double low = 0, high = 0;
  bool has_range = false, is_required = false, is_positional = false;
  bool is_recipe = false;  ///< completed by the names of the recipes
  bool by_line = false;    ///< a list of which each line of a file gives one item, commas included
};

/// The declarations of one kind of config struct, without its type: what Schema<C> is made of.
class OptionList {
 public:
  struct Declared {
    Option option;
    std::function<void*(void*)> field;  ///< of the config struct
  };
  [[nodiscard]] const std::vector<Declared>& declared() const { return declared_; }

 protected:
  void push(std::string name, std::string help, const FieldType& type, std::function<void*(void*)> field);
  void include(const OptionList& part, const std::function<void*(void*)>& member);
  Option& last();
  std::string heading_;
  std::vector<Declared> declared_;
};

/// Declares options over the members of a C. Each `add` declares one; `help` is one sentence. The member's
/// value in the object that is bound is the default.
///
///   bool                 --name, --name=false, --name true
///   int64_t, double      limits by range()
///   std::string          limits by choices()
///   an enum              with a table of names (base/names.hpp)
///   std::vector<number>  comma separated
///   std::vector<enum or std::string>  one or more words, may be repeated; commas in recipes
///   a TextSetting        a type that reads and prints itself (base/auto_setting.hpp)
template <class C>
class Schema : public OptionList {
 public:
  template <class T, class B>
  requires std::derived_from<C, B> Schema& add(std::string name, T B::*member, std::string help) {
    push(std::move(name), std::move(help), field_type<T>(),
         [member](void* object) { return static_cast<void*>(&(static_cast<C*>(object)->*member)); });
    return *this;
  }
  /// A member of a member.
  template <class T, class P, class B>
  requires std::derived_from<C, B> Schema& add(std::string name, P B::*part, T P::*member, std::string help) {
    push(std::move(name), std::move(help), field_type<T>(), [part, member](void* object) {
      return static_cast<void*>(&(static_cast<C*>(object)->*part.*member));
    });
    return *this;
  }
  /// All options of a member that has a schema of its own, under their headings (or the present one).
  template <class P, class B>
  requires std::derived_from<C, B> Schema& add(P B::*part, const Schema<P>& schema) {
    include(schema, [part](void* object) { return static_cast<void*>(&(static_cast<C*>(object)->*part)); });
    return *this;
  }

  /// Restrictions on the option added last; a broken one is a UsageError that names the option and what is
  /// allowed.
  Schema& choices(std::vector<std::string> allowed) {
    last().allowed = std::move(allowed);
    return *this;
  }
  Schema& range(double low, double high) {
    last().low = low;
    last().high = high;
    last().has_range = true;
    return *this;
  }
  Schema& required() {
    last().is_required = true;
    return *this;
  }
  /// Positional words fill this option (at most one such option per table).
  Schema& positional() {
    last().is_positional = true;
    return *this;
  }
  Schema& completed_by_recipes() {
    last().is_recipe = true;
    return *this;
  }
  Schema& by_line() {
    last().by_line = true;
    return *this;
  }
  /// Groups the following options under a heading of --help.
  Schema& section(std::string heading) {
    heading_ = std::move(heading);
    return *this;
  }
};

class OptionTable {
 public:
  OptionTable() = default;
  /// For a file that is no recipe: `kind` begins the messages ("bad chain"), which name settings without
  /// dashes.
  explicit OptionTable(std::string kind) : kind_(std::move(kind)), dashes_() {}

  /// Binds the options of a schema to an object, which outlives the table.
  template <class C>
  OptionTable& bind(const Schema<C>& schema, C& object) {
    for (const OptionList::Declared& declared : schema.declared())
      push(declared.option, declared.field(&object));
    return *this;
  }

  /// Parses the words after the sub-command. --config FILE is read first, so flags win; a flag that is given
  /// twice counts the last time, lists are joined. Throws UsageError (unknown names suggest the nearest one),
  /// MissingInputError for an unreadable recipe.
  void parse(const std::vector<std::string>& words);
  /// Reads one recipe text; `source` is used in messages. A key that is not a list stands once.
  void parse_ini(std::string_view text, const std::string& source);
  /// The same for lines that have been read already, all of them or those of one section.
  void parse_lines(const std::vector<IniLine>& lines, const std::string& source);
  /// UsageError for a required option that nobody gave.
  void check_required(const std::string& source) const;
  [[nodiscard]] bool given(std::string_view name) const;  ///< set by flag or recipe

  [[nodiscard]] std::string help() const;    ///< the options part of --help
  [[nodiscard]] std::string to_ini() const;  ///< all settings in force, readable by parse_ini
  [[nodiscard]] std::string roff() const;    ///< the options part of the man page
  [[nodiscard]] std::vector<std::string> names() const;
  /// The values that a shell may offer for an option, one a line; empty: file names.
  [[nodiscard]] std::vector<std::string> values(std::string_view name) const;

  struct Entry {
    Option option;
    void* field = nullptr;
    std::string default_text;  ///< what print() gave when the option was bound
    std::string place;         ///< where the value in force was given; empty: nowhere
    [[nodiscard]] std::string print() const { return option.type->print(field); }
    [[nodiscard]] bool is_given() const { return !place.empty(); }
  };
  [[nodiscard]] const std::vector<Entry>& entries() const { return entries_; }

  /// Throws the UsageError of a wrong setting, or of one that does not exist.
  [[noreturn]] void bad(const std::string& name, const std::string& place, const std::string& why,
                        const std::string& action) const;
  [[noreturn]] void unknown(std::string_view name, const std::string& place) const;

 private:
  void push(Option option, void* field);
  Entry* find(std::string_view name);
  [[nodiscard]] const Entry* positional_entry() const;
  void assign(Entry& entry, const std::vector<std::string>& words, const std::string& place);
  void check_piece(const Entry& entry, const std::string& piece, const std::string& place) const;
  std::string kind_ = "bad option", dashes_ = "--";
  std::vector<Entry> entries_;
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
  ProgressStyle progress = ProgressStyle::automatic;
  bool json = false;
};

/// `output`: what --output names, which is then required; empty: it may be left out.
[[nodiscard]] Schema<CommonOptions> common_options(const std::string& output = {});

}  // namespace dino
