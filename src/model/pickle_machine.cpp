// SPDX-License-Identifier: Apache-2.0
#include "model/pickle_machine.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include "base/error.hpp"

namespace dino::pickle {
namespace {

/// A checkpoint's values (about 40 for a tensor) take some MB; lists of a million numbers fit too.
constexpr size_t kMaxMemory = size_t{192} << 20;
constexpr size_t kMaxName = 4096;
constexpr size_t kMaxRank = 32;
constexpr size_t kMaxClasses = 1000;
/// What else stands for a tensor, in words.
constexpr std::pair<std::string_view, std::string_view> kTensorKinds[] = {
    {"torch._utils._rebuild_qtensor", "torch.Tensor of quantised values"},
    {"torch._utils._rebuild_sparse_tensor", "torch.Tensor in a sparse layout"},
    {"torch._utils._rebuild_meta_tensor_no_storage", "torch.Tensor without data (device meta)"},
    {"multiarray._reconstruct", "numpy.ndarray"},
    {"multiarray.scalar", "numpy scalar (numpy.generic)"},
};

}  // namespace

Ref Machine::run() {
  stack_.clear();
  memo_.clear();
  for (;;) {
    const uint8_t op = byte();
    if (op == '.') {
      Ref result = pop();
      if (!stack_.empty()) fail("its pickle ends with values left over");
      return result;
    }
    if (!constant(op) && !text(op) && !old_constant(op) && !container(op) && !fill(op) && !memory(op) &&
        !object(op))
      fail(fmt::format("its pickle uses the opcode 0x{:02x}, which torch.save never writes", op));
  }
}

void Machine::fail(const std::string& why) const {
  throw DataError(
      fmt::format("bad .pth file: {}: {}; save a dict of tensors or use .safetensors", path_, why));
}

void Machine::charge(size_t bytes) {
  charged_ += bytes;
  if (charged_ > kMaxMemory)
    fail(fmt::format("its pickle asks for more than {} MiB beside the tensors", kMaxMemory >> 20));
}

// ---- reading

uint8_t Machine::byte() {
  if (at_ >= bytes_.size()) fail("its pickle is cut off");
  return bytes_[at_++];
}

uint64_t Machine::little(int count) {
  uint64_t value = 0;
  for (int i = 0; i < count; ++i) value |= static_cast<uint64_t>(byte()) << (8 * i);
  return value;
}

/// Texts are views into the file's bytes: a long one costs nothing twice.
std::string_view Machine::take(uint64_t count) {
  if (count > bytes_.size() - at_) fail("its pickle is cut off");
  const std::string_view text(reinterpret_cast<const char*>(bytes_.data()) + at_, static_cast<size_t>(count));
  at_ += static_cast<size_t>(count);
  return text;
}

std::string_view Machine::line() {
  const auto from = bytes_.begin() + static_cast<std::ptrdiff_t>(at_);
  const auto end = std::find(from, bytes_.end(), '\n');
  if (end == bytes_.end()) fail("its pickle is cut off");
  const std::string_view text = take(static_cast<uint64_t>(end - from));
  ++at_;
  return text;
}

std::string_view Machine::kept(std::string text) {
  charge(sizeof(std::string) + text.size());
  return texts_.emplace_back(std::move(text));
}

// ---- the stack

Ref Machine::push(Kind kind) {
  charge(sizeof(Value));
  Ref value = &values_.emplace_back();
  value->kind = kind;
  push_value(value);
  return value;
}

void Machine::push_value(Ref value) {
  if (stack_.size() >= stack_.capacity()) charge(sizeof(Ref) * (1 + stack_.capacity()));
  stack_.push_back(value);
}

Ref Machine::pop() {
  if (stack_.empty() || stack_.back()->kind == Kind::mark) fail("its pickle takes more values than it gives");
  Ref value = stack_.back();
  stack_.pop_back();
  return value;
}

Ref Machine::top() {
  if (stack_.empty()) fail("its pickle takes more values than it gives");
  return stack_.back();
}

std::vector<Ref> Machine::pop_to_mark() {
  size_t mark = stack_.size();
  while (mark > 0 && stack_[mark - 1]->kind != Kind::mark) --mark;
  if (mark == 0) fail("its pickle has no mark where one is needed");
  std::vector<Ref> items(stack_.begin() + static_cast<std::ptrdiff_t>(mark), stack_.end());
  stack_.resize(mark - 1);
  charge(items.size() * sizeof(Ref));
  return items;
}

// ---- opcodes

bool Machine::constant(uint8_t op) {
  switch (op) {
    case 0x80:  // PROTO
      if (const uint8_t protocol = byte(); protocol > 5)
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
    case 0x8a:  // LONG1, LONG4
      push_long(take(little(1)));
      return true;
    case 0x8b:
      push_long(take(little(4)));
      return true;
    case 'G':  // a double, which nothing here reads
      take(8);
      push_opaque("float");
      return true;
    default:
      return false;
  }
}

bool Machine::text(uint8_t op) {
  switch (op) {
    case 'X':
      push_text(take(little(4)));
      return true;
    case 0x8d:  // BINUNICODE8
      push_text(take(little(8)));
      return true;
    case 0x8c:  // SHORT_BINUNICODE
    case 'U':   // SHORT_BINSTRING
      push_text(take(little(1)));
      return true;
    case 'T':  // BINSTRING
      push_text(take(little(4)));
      return true;
    case 'C':  // SHORT_BINBYTES, BINBYTES
      take(little(1));
      push_opaque("bytes");
      return true;
    case 'B':
      take(little(4));
      push_opaque("bytes");
      return true;
    case 0x8e:  // BINBYTES8, BYTEARRAY8
    case 0x96:
      take(little(8));
      push_opaque("bytes");
      return true;
    default:
      return false;
  }
}

/// Protocol 0 writes values as lines of text.
bool Machine::old_constant(uint8_t op) {
  switch (op) {
    case 'I':
    case 'L':
      push_decimal(line());
      return true;
    case 'F':
      (void)line();
      push_opaque("float");
      return true;
    case 'S': {  // a quoted literal; keys of state dicts need no escapes
      const std::string_view text = line();
      if (text.size() < 2) fail("its pickle has a string without quotes");
      push_text(text.substr(1, text.size() - 2));
      return true;
    }
    case 'V':
      push_text(line());
      return true;
    default:
      return false;
  }
}

void Machine::push_decimal(std::string_view digits) {
  if (digits.ends_with('L')) digits.remove_suffix(1);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error == std::errc{} && end == digits.data() + digits.size())
    push_integer(value);
  else
    push_opaque("int");
}

/// Two's complement, little endian. Beyond 64 bits it is no size of anything.
void Machine::push_long(std::string_view bytes) {
  if (bytes.size() > 8) {
    push_opaque("int");
    return;
  }
  uint64_t value = 0;
  for (size_t i = 0; i < bytes.size(); ++i)
    value |= static_cast<uint64_t>(static_cast<uint8_t>(bytes[i])) << (8 * i);
  const auto spare = static_cast<int>(64 - 8 * bytes.size());
  push_integer(bytes.empty() ? 0 : static_cast<int64_t>(value << spare) >> spare);
}

void Machine::append(Ref target, std::span<const Ref> items) {
  if (target->kind != Kind::list && target->kind != Kind::object)
    fail("its pickle has no list where one is needed");
  charge(items.size() * sizeof(Ref));
  target->items.insert(target->items.end(), items.begin(), items.end());
}

void Machine::set_items(Ref target, std::span<const Ref> pairs) {
  if (target->kind != Kind::dict && target->kind != Kind::object)
    fail("its pickle has no dict where one is needed");
  if (pairs.size() % 2 != 0) fail("its pickle has a key without a value");
  charge(pairs.size() * sizeof(Ref));
  for (size_t i = 0; i < pairs.size(); i += 2) target->entries.emplace_back(pairs[i], pairs[i + 1]);
}

bool Machine::container(uint8_t op) {
  switch (op) {
    case '(':
      push(Kind::mark);
      return true;
    case '}':
      push(Kind::dict);
      return true;
    case ']':
    case 0x8f:  // EMPTY_SET
      push(Kind::list);
      return true;
    case ')':
      push(Kind::tuple);
      return true;
    case 't':
    case 'l':   // LIST
    case 0x91:  // FROZENSET
    {
      std::vector<Ref> items = pop_to_mark();
      push(op == 't' ? Kind::tuple : Kind::list)->items = std::move(items);
      return true;
    }
    case 'd': {  // DICT
      const std::vector<Ref> items = pop_to_mark();
      set_items(push(Kind::dict), items);
      return true;
    }
    case 0x85:  // TUPLE1, TUPLE2, TUPLE3
    case 0x86:
    case 0x87: {
      std::vector<Ref> items(static_cast<size_t>(op - 0x84));
      for (size_t i = items.size(); i-- > 0;) items[i] = pop();
      charge(items.size() * sizeof(Ref));
      push(Kind::tuple)->items = std::move(items);
      return true;
    }
    default:
      return false;
  }
}

/// Items and entries of what is below them on the stack.
bool Machine::fill(uint8_t op) {
  switch (op) {
    case 'a': {
      const Ref item = pop();
      append(top(), {&item, 1});
      return true;
    }
    case 'e':
    case 0x90: {  // ADDITEMS
      const std::vector<Ref> items = pop_to_mark();
      append(top(), items);
      return true;
    }
    case 's': {
      const Ref value = pop();
      const Ref pair[] = {pop(), value};
      set_items(top(), pair);
      return true;
    }
    case 'u': {
      const std::vector<Ref> items = pop_to_mark();
      set_items(top(), items);
      return true;
    }
    default:
      return false;
  }
}

bool Machine::memory(uint8_t op) {
  const auto number = [&] {
    uint64_t value = 0;
    const std::string_view digits = line();
    std::from_chars(digits.data(), digits.data() + digits.size(), value);
    return value;
  };
  switch (op) {
    case 'q':
      remember(little(1));
      return true;
    case 'r':
      remember(little(4));
      return true;
    case 'p':
      remember(number());
      return true;
    case 0x94:  // MEMOIZE
      remember(memo_.size());
      return true;
    case 'h':
      recall(little(1));
      return true;
    case 'j':
      recall(little(4));
      return true;
    case 'g':
      recall(number());
      return true;
    case '0':  // POP also takes a mark
      (void)top();
      stack_.pop_back();
      return true;
    case '1':  // POP_MARK
      (void)pop_to_mark();
      return true;
    case '2':  // DUP
      push_value(top());
      return true;
    default:
      return false;
  }
}

void Machine::remember(uint64_t index) {
  if (memo_.insert_or_assign(index, top()).second) charge(64);
}

void Machine::recall(uint64_t index) {
  const auto found = memo_.find(index);
  if (found == memo_.end()) fail("its pickle recalls a value that it never stored");
  push_value(found->second);
}

bool Machine::object(uint8_t op) {
  switch (op) {
    case 'c': {
      const std::string_view module = line();
      push_global(module, line());
      return true;
    }
    case 0x93: {  // STACK_GLOBAL
      const Ref name = pop(), module = pop();
      if (name->kind != Kind::text || module->kind != Kind::text)
        fail("its pickle has a class without a name");
      push_global(module->text, name->text);
      return true;
    }
    case 'i': {  // INST
      const std::string_view module = line();
      const std::string_view name = line();
      (void)pop_to_mark();
      push_global(module, name);
      push_opaque(pop()->text);
      return true;
    }
    case 'o': {  // OBJ: mark, class, arguments
      const std::vector<Ref> items = pop_to_mark();
      if (items.empty()) fail("its pickle has an object without a class");
      push_opaque(items[0]->text);
      return true;
    }
    case 'P':
      (void)line();
      push_opaque("persistent object");
      return true;
    case 'Q':
      persistent(pop());
      return true;
    case 'R':
    case 0x81: {  // NEWOBJ
      const Ref arguments = pop();
      call(pop(), arguments);
      return true;
    }
    case 0x92: {  // NEWOBJ_EX
      (void)pop();
      const Ref arguments = pop();
      call(pop(), arguments);
      return true;
    }
    case 'b': {
      const Ref state = pop();
      build(top(), state);
      return true;
    }
    default:
      return false;
  }
}

void Machine::push_global(std::string_view module, std::string_view name) {
  if (module.size() + name.size() > kMaxName) fail("its pickle has a class of an implausible name");
  const Ref value = push(Kind::global);
  value->text = kept(fmt::format("{}.{}", module, name));
}

/// ('storage', torch.FloatStorage, key, device, element count[, view of it])
void Machine::persistent(Ref id) {
  const auto& items = id->items;
  if (id->kind != Kind::tuple || items.size() < 5 || items[0]->kind != Kind::text ||
      items[0]->text != "storage" || items[1]->kind != Kind::global || items[2]->kind != Kind::text ||
      items[2]->text.size() > kMaxName) {
    push_opaque("persistent object");
    return;
  }
  const std::string_view type = items[1]->text;
  // A view of another storage, which PyTorch before 0.4 made: its start would have to be added.
  if (items.size() > 5 && items[5]->kind == Kind::tuple) {
    push_opaque("view of a storage");
    return;
  }
  const Ref value = push(Kind::storage);
  value->text = items[2]->text;
  value->type = type.substr(type.rfind('.') + 1);
  charge(128 + value->text.size());
  storages_.emplace(value->text, value->type);
}

void Machine::call(Ref function, Ref arguments) {
  if (function->kind == Kind::global && arguments->kind == Kind::tuple && rebuild(function->text, arguments))
    return;
  std::string_view name = function->text;
  if (name == "torch._utils._rebuild_wrapper_subclass" && !arguments->items.empty() &&
      arguments->items[0]->kind == Kind::global)
    name = arguments->items[0]->text;
  for (const auto& [called, words] : kTensorKinds)
    if (name.ends_with(called)) name = words;
  push_opaque(name);
  if (function->kind == Kind::global && classes_.size() < kMaxClasses) classes_.emplace(name);
}

/// The few functions whose result is known without calling them. False = opaque.
bool Machine::rebuild(std::string_view function, Ref arguments) {
  const std::span<const Ref> items = arguments->items;
  if (function == "collections.OrderedDict") return rebuild_ordered(arguments);
  if (function == "builtins.dict" && items.empty()) {
    push(Kind::dict);
    return true;
  }
  if (!function.starts_with("torch.")) return false;
  function.remove_prefix(6);
  // A parameter is its tensor; one with attributes of its own has a fourth argument.
  if (function == "_utils._rebuild_parameter" || function == "_utils._rebuild_parameter_with_state") {
    if (items.empty() || items[0]->kind != Kind::tensor) return false;
    push_value(items[0]);
    return true;
  }
  if (function == "_utils._rebuild_tensor_v2" || function == "_utils._rebuild_tensor")
    return rebuild_tensor(items, "");
  if (function == "_utils._rebuild_tensor_v3" && items.size() > 6 && items[6]->kind == Kind::global)
    return rebuild_tensor(items, items[6]->text);
  if (function == "_tensor._rebuild_from_type_v2" && items.size() > 2 && items[0]->kind == Kind::global &&
      items[1]->kind == Kind::global && items[2]->kind == Kind::tuple) {
    const std::string_view type = items[1]->text;
    if ((type == "torch.Tensor" || type == "torch._tensor.Tensor" || type == "torch.nn.parameter.Parameter" ||
         type == "torch.nn.parameter.Buffer") &&
        items[0]->text != "torch._tensor._rebuild_from_type_v2" && rebuild(items[0]->text, items[2]))
      return true;
    push_opaque(type);
    return true;
  }
  return false;
}

/// (storage, offset, size, stride, requires_grad, backward_hooks)
bool Machine::rebuild_tensor(std::span<const Ref> arguments, std::string_view dtype) {
  if (arguments.size() < 4 || arguments[0]->kind != Kind::storage || arguments[1]->kind != Kind::integer)
    return false;
  PickledTensor tensor;
  tensor.storage = arguments[0]->text;
  tensor.type = dtype.empty() ? arguments[0]->type : dtype.substr(dtype.rfind('.') + 1);
  tensor.offset = arguments[1]->integer;
  for (const auto& [from, to] :
       {std::pair(arguments[2], &tensor.shape), std::pair(arguments[3], &tensor.stride)}) {
    if (from->kind != Kind::tuple || from->items.size() > kMaxRank) return false;
    for (const Ref& number : from->items) {
      if (number->kind != Kind::integer) return false;
      to->push_back(number->integer);
    }
  }
  if (tensor.shape.size() != tensor.stride.size()) return false;
  charge(sizeof(PickledTensor) + tensor.storage.size() + 16 * tensor.shape.size());
  push(Kind::tensor)->tensor = &tensors_.emplace_back(std::move(tensor));
  return true;
}

/// Python 2 wrote the entries as a list of pairs.
bool Machine::rebuild_ordered(Ref arguments) {
  if (!arguments->items.empty())
    for (const Ref& pair : arguments->items[0]->items)
      if (pair->items.size() != 2) return false;
  const Ref value = push(Kind::dict);
  if (!arguments->items.empty())
    for (const Ref& pair : arguments->items[0]->items) set_items(value, pair->items);
  return true;
}

/// The state of an object becomes its fields. That of a dict is what state_dict() hangs on it (_metadata,
/// which holds versions only); a tensor keeps its own.
void Machine::build(Ref target, Ref state) {
  if (target->kind == Kind::mark) fail("its pickle has no object where one is needed");
  if (target->kind != Kind::object) return;
  const auto add = [&](Ref fields) {
    if (fields->kind != Kind::dict) return;
    charge(fields->entries.size() * sizeof(fields->entries[0]));
    target->entries.insert(target->entries.end(), fields->entries.begin(), fields->entries.end());
  };
  add(state);
  if (state->kind == Kind::tuple)  // (__dict__, __slots__)
    for (const Ref& part : state->items) add(part);
}

}  // namespace dino::pickle
