// SPDX-License-Identifier: Apache-2.0
#include "base/working.hpp"

#include "base/signals.hpp"

namespace dino {
namespace {

thread_local WorkListener* listening = nullptr;

}  // namespace

void still_working() {
  if (listening != nullptr) listening->working();
}

void work_point() {
  still_working();
  stop_here();
}

WorkListener::WorkListener() : outer_(listening) {
  listening = this;
}
WorkListener::~WorkListener() {
  listening = outer_;
}

}  // namespace dino
