// SPDX-License-Identifier: Apache-2.0
// The stack machine of pickle protocols 2 to 4, as documented in Python's Lib/pickletools.py.
#include "model/pickle.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <map>
#include <utility>

#include "base/error.hpp"

namespace dino {
namespace {

struct Value;
/// Values live in the machine's deque: a hostile pickle can make cycles and deep nests, and nothing here
/// frees them recursively.
using Ref = Value*;

struct Value {
  enum class Kind : uint8_t {
    none,
    boolean,
    integer,
    real,
    text,
    tuple,
    list,
    dict,
    global,
    storage,
    tensor,
    mark
  };
  Kind kind = Kind::none;
  int64_t integer = 0;
  std::string text;                          ///< text; "module name" of a global; the type of a storage
  std::vector<Ref> items;                    ///< tuple and list
  std::vector<std::pair<Ref, Ref>> entries;  ///< dict, in order
  PickledTensor tensor;                      ///< tensor; storage uses storage and type
};
using Kind = Value::Kind;

constexpr int kMaxDepth = 32;
constexpr int kMaxEntries = 1'000'000;

class Machine {
 public:
  Machine(std::span<const uint8_t> bytes, const std::string& path) : bytes_(bytes), path_(path) {}

  Ref run() {
    for (;;) {
      const uint8_t op = byte();
      if (op == '.') {
        Ref result = pop();
        if (!stack_.empty()) fail("its pickle ends with values left over");
        return result;
      }
      if (!constant(op) && !container(op) && !memory(op) && !object(op))
        fail(fmt::format("its pickle uses the opcode 0x{:02x}, which no dict of tensors needs", op));
    }
  }

  [[noreturn]] void fail(const std::string& why) const {
    throw DataError(
        fmt::format("bad .pth file: {}: {}; save a dict of tensors or use .safetensors", path_, why));
  }

 private:
  // ---- reading
  uint8_t byte() {
    if (at_ >= bytes_.size()) fail("its pickle is cut off");
    return bytes_[at_++];
  }
  uint64_t little(int count) {
    uint64_t value = 0;
    for (int i = 0; i < count; ++i) value |= static_cast<uint64_t>(byte()) << (8 * i);
    return value;
  }
  std::string take(uint64_t count) {
    if (count > bytes_.size() - at_) fail("its pickle is cut off");
    std::string text(reinterpret_cast<const char*>(bytes_.data()) + at_, static_cast<size_t>(count));
    at_ += static_cast<size_t>(count);
    return text;
  }
  std::string line() {
    std::string text;
    for (uint8_t c = byte(); c != '\n'; c = byte()) text += static_cast<char>(c);
    return text;
  }

  // ---- the stack
  Ref push(Kind kind) {
    Ref value = &values_.emplace_back();
    value->kind = kind;
    stack_.push_back(value);
    return value;
  }
  void push_integer(int64_t value) { push(Kind::integer)->integer = value; }
  void push_text(std::string value) { push(Kind::text)->text = std::move(value); }
  Ref pop() {
    if (stack_.empty() || stack_.back()->kind == Kind::mark)
      fail("its pickle takes more values than it gives");
    Ref value = stack_.back();
    stack_.pop_back();
    return value;
  }
  Ref& top() {
    if (stack_.empty()) fail("its pickle takes more values than it gives");
    return stack_.back();
  }
  std::vector<Ref> pop_to_mark() {
    size_t mark = stack_.size();
    while (mark > 0 && stack_[mark - 1]->kind != Kind::mark) --mark;
    if (mark == 0) fail("its pickle has no mark where one is needed");
    std::vector<Ref> items(stack_.begin() + static_cast<std::ptrdiff_t>(mark), stack_.end());
    stack_.resize(mark - 1);
    return items;
  }
  Ref want(Ref value, Kind kind, const char* what) const {
    if (value->kind != kind) fail(std::string("its pickle has no ") + what + " where one is needed");
    return value;
  }

  // ---- opcodes
  bool constant(uint8_t op) {
    switch (op) {
      case 0x80:  // PROTO
        if (const uint8_t protocol = byte(); protocol < 2 || protocol > 5)
          fail(fmt::format("its pickle has protocol {}", protocol));
        return true;
      case 0x95:  // FRAME
        little(8);
        return true;
      case 'N':
        push(Kind::none);
        return true;
      case 0x88:  // NEWTRUE, NEWFALSE
      case 0x89:
        push(Kind::boolean)->integer = op == 0x88;
        return true;
      case 'K':
        push_integer(static_cast<int64_t>(little(1)));
        return true;
      case 'M':
        push_integer(static_cast<int64_t>(little(2)));
        return true;
      case 'J':
        push_integer(static_cast<int32_t>(little(4)));
        return true;
      case 0x8a:  // LONG1
        push_integer(long_integer());
        return true;
      case 'G':  // a double, which nothing here reads
        take(8);
        push(Kind::real);
        return true;
      case 'X':
        push_text(take(little(4)));
        return true;
      case 0x8c:  // SHORT_BINUNICODE
      case 'U':   // SHORT_BINSTRING
        push_text(take(little(1)));
        return true;
      default:
        return false;
    }
  }

  int64_t long_integer() {
    const int count = byte();
    if (count > 8) fail("its pickle has an integer beyond 64 bits");
    if (count == 0) return 0;
    const int spare = 64 - 8 * count;
    return static_cast<int64_t>(little(count) << spare) >> spare;
  }

  bool container(uint8_t op) {
    switch (op) {
      case '(':
        push(Kind::mark);
        return true;
      case '}':
        push(Kind::dict);
        return true;
      case ']':
        push(Kind::list);
        return true;
      case ')':
        push(Kind::tuple);
        return true;
      case 't': {
        std::vector<Ref> items = pop_to_mark();
        push(Kind::tuple)->items = std::move(items);
        return true;
      }
      case 0x85:  // TUPLE1, TUPLE2, TUPLE3
      case 0x86:
      case 0x87: {
        std::vector<Ref> items(static_cast<size_t>(op - 0x84));
        for (size_t i = items.size(); i-- > 0;) items[i] = pop();
        push(Kind::tuple)->items = std::move(items);
        return true;
      }
      case 'a': {
        Ref item = pop();
        want(top(), Kind::list, "list")->items.push_back(item);
        return true;
      }
      case 'e': {
        std::vector<Ref> items = pop_to_mark();
        Ref target = want(top(), Kind::list, "list");
        target->items.insert(target->items.end(), items.begin(), items.end());
        return true;
      }
      case 's': {
        Ref value = pop();
        Ref key = pop();
        want(top(), Kind::dict, "dict")->entries.emplace_back(key, value);
        return true;
      }
      case 'u': {
        std::vector<Ref> items = pop_to_mark();
        if (items.size() % 2 != 0) fail("its pickle has a key without a value");
        Ref target = want(top(), Kind::dict, "dict");
        for (size_t i = 0; i < items.size(); i += 2) target->entries.emplace_back(items[i], items[i + 1]);
        return true;
      }
      default:
        return false;
    }
  }

  bool memory(uint8_t op) {
    switch (op) {
      case 'q':
        memo_[little(1)] = top();
        return true;
      case 'r':
        memo_[little(4)] = top();
        return true;
      case 0x94:  // MEMOIZE
        memo_[memo_.size()] = top();
        return true;
      case 'h':
        recall(little(1));
        return true;
      case 'j':
        recall(little(4));
        return true;
      default:
        return false;
    }
  }
  void recall(uint64_t index) {
    const auto found = memo_.find(index);
    if (found == memo_.end()) fail("its pickle recalls a value that it never stored");
    stack_.push_back(found->second);
  }

  bool object(uint8_t op) {
    switch (op) {
      case 'c': {
        const std::string module = line();
        push_global(module, line());
        return true;
      }
      case 0x93: {  // STACK_GLOBAL
        const std::string name = want(pop(), Kind::text, "name")->text;
        push_global(want(pop(), Kind::text, "module")->text, name);
        return true;
      }
      case 'Q':
        persistent();
        return true;
      case 'R':
        reduce();
        return true;
      case 'b':  // BUILD: the _metadata of a state_dict, which holds versions only
        pop();
        want(top(), Kind::dict, "state_dict");
        return true;
      default:
        return false;
    }
  }

  /// The whole list of what a pickle may name.
  void push_global(const std::string& module, const std::string& name) {
    const std::string full = module + "." + name;
    const bool storage = module == "torch" && name.size() > 7 && name.ends_with("Storage");
    if (!storage && full != "collections.OrderedDict" && full != "torch._utils._rebuild_tensor_v2" &&
        full != "torch._utils._rebuild_parameter")
      fail(fmt::format("its pickle names {}, which is not part of a dict of tensors and is not executed",
                       full.substr(0, 100)));
    push(Kind::global)->text = full;
  }

  /// ('storage', torch.FloatStorage, key, device, element count)
  void persistent() {
    const Ref id = want(pop(), Kind::tuple, "storage");
    if (id->items.size() < 5 || want(id->items[0], Kind::text, "storage tag")->text != "storage")
      fail("its pickle refers to something that is not a storage");
    const std::string type = want(id->items[1], Kind::global, "storage type")->text;
    const Ref value = push(Kind::storage);
    value->tensor.type = type.substr(type.rfind('.') + 1);
    value->tensor.storage = want(id->items[2], Kind::text, "storage key")->text;
  }

  void reduce() {
    const Ref arguments = want(pop(), Kind::tuple, "argument tuple");
    const std::string function = want(pop(), Kind::global, "function")->text;
    if (function == "collections.OrderedDict") {
      if (!arguments->items.empty()) fail("its pickle builds an OrderedDict from arguments");
      push(Kind::dict);
    } else if (function == "torch._utils._rebuild_parameter") {
      if (arguments->items.empty()) fail("its pickle has a parameter without a tensor");
      stack_.push_back(want(arguments->items[0], Kind::tensor, "tensor"));
    } else if (function == "torch._utils._rebuild_tensor_v2") {
      rebuild_tensor(arguments->items);
    } else {
      fail("its pickle calls " + function);
    }
  }

  /// (storage, offset, size, stride, requires_grad, backward_hooks)
  void rebuild_tensor(const std::vector<Ref>& arguments) {
    if (arguments.size() < 4) fail("its pickle has a tensor without sizes");
    const Ref value = push(Kind::tensor);
    value->tensor = want(arguments[0], Kind::storage, "storage")->tensor;
    value->tensor.offset = want(arguments[1], Kind::integer, "offset")->integer;
    for (const Ref& dim : want(arguments[2], Kind::tuple, "size")->items)
      value->tensor.shape.push_back(want(dim, Kind::integer, "size")->integer);
    for (const Ref& step : want(arguments[3], Kind::tuple, "stride")->items)
      value->tensor.stride.push_back(want(step, Kind::integer, "stride")->integer);
  }

  std::span<const uint8_t> bytes_;
  std::string path_;
  size_t at_ = 0;
  std::deque<Value> values_;
  std::vector<Ref> stack_;
  std::map<uint64_t, Ref> memo_;
};

void collect(const Machine& machine, const Value& value, const std::string& prefix, int depth, int& visited,
             std::vector<PickledTensor>& out) {
  if (depth > kMaxDepth) machine.fail("its dicts are nested too deeply");
  for (const auto& [key, item] : value.entries) {
    if (++visited > kMaxEntries) machine.fail("its dicts have implausibly many entries");
    if (key->kind != Kind::text) continue;  // an optimizer's state is keyed by numbers
    const std::string name = prefix.empty() ? key->text : prefix + "." + key->text;
    if (item->kind == Kind::dict) collect(machine, *item, name, depth + 1, visited, out);
    if (item->kind != Kind::tensor) continue;
    out.push_back(item->tensor);
    out.back().name = name;
  }
}

}  // namespace

std::vector<PickledTensor> read_pickled_tensors(std::span<const uint8_t> bytes, const std::string& path) {
  Machine machine(bytes, path);
  const Ref root = machine.run();
  if (root->kind != Kind::dict) machine.fail("it does not hold a dict");
  std::vector<PickledTensor> tensors;
  int visited = 0;
  collect(machine, *root, "", 0, visited, tensors);
  return tensors;
}

}  // namespace dino
