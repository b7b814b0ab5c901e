// SPDX-License-Identifier: Apache-2.0
#include "base/working.hpp"

namespace dino {
namespace {

thread_local WorkListener* listening = nullptr;

}  // namespace

void still_working() {
  if (listening != nullptr) listening->working();
}

WorkListener::WorkListener() : outer_(listening) {
  listening = this;
}
WorkListener::~WorkListener() {
  listening = outer_;
}

}  // namespace dino
