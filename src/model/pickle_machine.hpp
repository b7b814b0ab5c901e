// SPDX-License-Identifier: Apache-2.0
#pragma once
// The stack machine of pickles, as documented in Python's Lib/pickletools.py. Internal to src/model.

#include <cstdint>
#include <deque>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/pickle.hpp"

namespace dino::pickle {

struct Value;
/// Values live in the machine's deque: a hostile pickle can make cycles and deep nests, and nothing here
/// frees them recursively.
using Ref = Value*;

struct Value {
  enum class Kind : uint8_t {
    none,
    boolean,
    integer,
    text,
    tuple,
    list,
    dict,
    object,  ///< of a class that is not executed
    global,
    storage,
    tensor,
    mark
  };
  Kind kind = Kind::none;
  int64_t integer = 0;
  std::string_view text;   ///< text; "module.name" of a global or of an object's class; the key of a storage
  std::string_view type;   ///< of a storage
  std::vector<Ref> items;  ///< of a tuple or list
  std::vector<std::pair<Ref, Ref>> entries;  ///< of a dict, or the fields of an object, in order
  const PickledTensor* tensor = nullptr;
};
using Kind = Value::Kind;

class Machine {
 public:
  Machine(std::span<const uint8_t> bytes, const std::string& path) : bytes_(bytes), path_(path) {}
  /// The next pickle of the bytes.
  Ref run();
  [[nodiscard]] size_t position() const { return at_; }
  /// Type of every storage that a persistent id named.
  [[nodiscard]] const std::map<std::string, std::string>& storages() const { return storages_; }
  [[nodiscard]] const std::set<std::string>& classes() const { return classes_; }
  [[noreturn]] void fail(const std::string& why) const;
  /// Counts memory that the pickle asks for; DataError beyond what a checkpoint can need.
  void charge(size_t bytes);

 private:
  // ---- reading
  uint8_t byte();
  uint64_t little(int count);
  std::string_view take(uint64_t count);
  std::string_view line();
  std::string_view kept(std::string text);

  // ---- the stack
  Ref push(Kind kind);
  void push_value(Ref value);
  void push_integer(int64_t value) { push(Kind::integer)->integer = value; }
  void push_text(std::string_view value) { push(Kind::text)->text = value; }
  void push_opaque(std::string_view type) { push(Kind::object)->text = type; }
  Ref pop();
  Ref top();
  std::vector<Ref> pop_to_mark();

  // ---- opcodes
  bool constant(uint8_t op);
  bool text(uint8_t op);
  bool old_constant(uint8_t op);
  bool container(uint8_t op);
  bool fill(uint8_t op);
  bool memory(uint8_t op);
  bool object(uint8_t op);
  void push_decimal(std::string_view digits);
  void push_long(std::string_view bytes);
  void append(Ref target, std::span<const Ref> items);
  void set_items(Ref target, std::span<const Ref> pairs);
  void remember(uint64_t index);
  void recall(uint64_t index);
  void push_global(std::string_view module, std::string_view name);
  void persistent(Ref id);
  void call(Ref function, Ref arguments);
  bool rebuild(std::string_view function, Ref arguments);
  bool rebuild_tensor(std::span<const Ref> arguments, std::string_view dtype);
  bool rebuild_ordered(Ref arguments);
  void build(Ref target, Ref state);

  std::span<const uint8_t> bytes_;
  std::string path_;
  size_t at_ = 0;
  size_t charged_ = 0;
  std::deque<Value> values_;
  std::deque<PickledTensor> tensors_;
  std::deque<std::string> texts_;
  std::vector<Ref> stack_;
  std::unordered_map<uint64_t, Ref> memo_;
  std::map<std::string, std::string> storages_;
  std::set<std::string> classes_;
};

}  // namespace dino::pickle
