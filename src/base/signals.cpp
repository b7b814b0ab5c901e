// SPDX-License-Identifier: Apache-2.0
#include "base/signals.hpp"

#include <csignal>
#include <initializer_list>

namespace dino {
namespace {

volatile std::sig_atomic_t stop_flag = 0;

void on_signal(int) {
  stop_flag = 1;
}

}  // namespace

void install_stop_handlers() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  for (const int signal : {SIGUSR1, SIGUSR2, SIGTERM}) sigaction(signal, &action, nullptr);
  // A second Ctrl-C ends the program at once, as people at a terminal expect.
  action.sa_flags = SA_RESTART | static_cast<int>(SA_RESETHAND);
  sigaction(SIGINT, &action, nullptr);
}

bool stop_requested() noexcept {
  return stop_flag != 0;
}

void request_stop() noexcept {
  stop_flag = 1;
}

void clear_stop_request() noexcept {
  stop_flag = 0;
}

}  // namespace dino
