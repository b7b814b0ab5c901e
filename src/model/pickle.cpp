// SPDX-License-Identifier: Apache-2.0
// From the values of a pickle to the tensors and facts of a checkpoint.
#include "model/pickle.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.hpp"
#include "model/pickle_machine.hpp"

namespace dino {
namespace {

using pickle::Kind;
using pickle::Machine;
using pickle::Ref;

constexpr int kMaxDepth = 64;
constexpr int kMaxVisits = 2'000'000;
constexpr size_t kMaxName = 1024;
constexpr size_t kMaxFact = 256;
constexpr size_t kMaxFacts = 100'000;
/// 0x1950a86a20f9469cfc6c as LONG1 in protocol 2: what PyTorch wrote first before 1.6.
constexpr std::string_view kLegacyMagic("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15);

class Collector {
 public:
  explicit Collector(Machine& machine) : machine_(machine) {}

  PickledFile collect(Ref root) {
    visit(root, "");
    file_.classes = machine_.classes();
    return std::move(file_);
  }

 private:
  /// Values can hold themselves, directly or through others: what is being visited is not entered again.
  void visit(Ref value, const std::string& name) {
    if (++visits_ > kMaxVisits) machine_.fail("its pickle has implausibly many values");
    switch (value->kind) {
      case Kind::tensor:
        add(file_.tensors, name.empty() ? "tensor" : name, *value->tensor);
        return;
      case Kind::text:
        if (value->text.size() <= kMaxFact) add_fact(name, std::string(value->text));
        return;
      case Kind::integer:
        add_fact(name, std::to_string(value->integer));
        return;
      case Kind::dict:
      case Kind::list:
      case Kind::tuple:
      case Kind::object:
        break;
      default:
        return;
    }
    if (value->kind == Kind::object && value->text.find('.') != std::string_view::npos && !name.empty())
      add(file_.opaque, name, std::string(value->text.substr(0, kMaxFact)));
    if (path_.size() >= kMaxDepth || std::find(path_.begin(), path_.end(), value) != path_.end()) return;
    path_.push_back(value);
    for (const auto& [key, item] : value->entries) {
      if (key->kind == Kind::text) visit(item, joined(name, key->text));
      if (key->kind == Kind::integer) visit(item, joined(name, std::to_string(key->integer)));
    }
    for (size_t i = 0; i < value->items.size(); ++i) {
      const Kind kind = value->items[i]->kind;
      if (kind != Kind::text && kind != Kind::integer)
        visit(value->items[i], joined(name, std::to_string(i)));
    }
    path_.pop_back();
  }

  std::string joined(const std::string& name, std::string_view key) {
    if (name.size() + key.size() > kMaxName) machine_.fail("its pickle has names of more than 1,024 bytes");
    return name.empty() ? std::string(key) : name + "." + std::string(key);
  }

  template <class T>
  void add(std::map<std::string, T>& to, const std::string& name, T value) {
    machine_.charge(160 + name.size());
    to.insert_or_assign(name, std::move(value));
  }
  void add_fact(const std::string& name, std::string value) {
    if (!name.empty() && file_.facts.size() < kMaxFacts) add(file_.facts, name, std::move(value));
  }

  Machine& machine_;
  PickledFile file_;
  std::vector<Ref> path_;
  int visits_ = 0;
};

}  // namespace

PickledFile read_pickled_file(std::span<const uint8_t> bytes, const std::string& path) {
  Machine machine(bytes, path);
  const Ref root = machine.run();
  return Collector(machine).collect(root);
}

bool is_legacy_file(std::span<const uint8_t> head) {
  return std::string_view(reinterpret_cast<const char*>(head.data()), head.size()).starts_with(kLegacyMagic);
}

LegacyFile read_legacy_file(std::span<const uint8_t> bytes, const std::string& path) {
  Machine machine(bytes, path);
  (void)machine.run();  // the magic number
  if (const Ref version = machine.run(); version->kind != Kind::integer || version->integer != 1001)
    machine.fail("its format before PyTorch 1.6 is not version 1001");
  const Ref system = machine.run();
  for (const auto& [key, value] : system->entries)
    if (key->text == "little_endian" && value->kind == Kind::boolean && value->integer == 0)
      machine.fail("its numbers are not little endian");
  const Ref root = machine.run();
  LegacyFile file;
  file.content = Collector(machine).collect(root);
  const Ref keys = machine.run();
  if (keys->kind != Kind::list) machine.fail("it has no list of storages");
  for (const Ref& key : keys->items) {
    const auto found = machine.storages().find(std::string(key->text));
    if (key->kind != Kind::text || found == machine.storages().end())
      machine.fail("its list of storages names one that no tensor has");
    machine.charge(sizeof(LegacyStorage) + 2 * found->first.size());
    file.storages.push_back({found->first, found->second});
  }
  file.end = machine.position();
  return file;
}

}  // namespace dino
