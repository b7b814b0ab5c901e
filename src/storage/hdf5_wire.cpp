// SPDX-License-Identifier: Apache-2.0
#include "storage/hdf5_wire.hpp"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.hpp"

namespace dino::h5 {

Message& Message::put(int64_t value) {
  bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  return *this;
}

Message& Message::put(double value) {
  bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
  return *this;
}

Message& Message::put(std::string_view text) {
  put(static_cast<int64_t>(text.size()));
  bytes_.append(text);
  return *this;
}

Message& Message::put(const std::vector<std::string>& texts) {
  put(static_cast<int64_t>(texts.size()));
  for (const std::string& text : texts) put(std::string_view(text));
  return *this;
}

Message& Message::put(const std::vector<int64_t>& values) {
  put(static_cast<int64_t>(values.size()));
  for (const int64_t value : values) put(value);
  return *this;
}

void Message::take(void* out, size_t size) {
  DINO_CHECK(size <= bytes_.size() - at_, "a message is shorter than its content");
  std::memcpy(out, bytes_.data() + at_, size);
  at_ += size;
}

int64_t Message::number() {
  int64_t value = 0;
  take(&value, sizeof value);
  return value;
}

double Message::real() {
  double value = 0;
  take(&value, sizeof value);
  return value;
}

std::string Message::text() {
  const int64_t size = number();
  DINO_CHECK(size >= 0 && static_cast<size_t>(size) <= bytes_.size() - at_,
             "a text is longer than its message");
  std::string text(bytes_, at_, static_cast<size_t>(size));
  at_ += static_cast<size_t>(size);
  return text;
}

std::vector<std::string> Message::texts() {
  std::vector<std::string> texts;
  for (int64_t left = number(); left > 0; --left) texts.push_back(text());
  return texts;
}

std::vector<int64_t> Message::numbers() {
  std::vector<int64_t> values;
  for (int64_t left = number(); left > 0; --left) values.push_back(number());
  return values;
}

bool send_all(int socket, const void* data, size_t size) {
  const auto* bytes = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t put = ::send(socket, bytes, size, MSG_NOSIGNAL);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return false;
    bytes += put;
    size -= static_cast<size_t>(put);
  }
  return true;
}

bool receive_all(int socket, void* data, size_t size) {
  auto* bytes = static_cast<char*>(data);
  while (size > 0) {
    const ssize_t got = ::recv(socket, bytes, size, MSG_WAITALL);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    bytes += got;
    size -= static_cast<size_t>(got);
  }
  return true;
}

bool send_message(int socket, const Message& message) {
  const uint64_t size = message.bytes().size();
  return send_all(socket, &size, sizeof size) && send_all(socket, message.bytes().data(), size);
}

bool receive_message(int socket, Message& message) {
  // Read in parts: a process with damaged memory may claim any length.
  constexpr uint64_t kPart = uint64_t{64} << 20;
  uint64_t size = 0;
  if (!receive_all(socket, &size, sizeof size)) return false;
  std::string bytes;
  while (bytes.size() < size) {
    const size_t begin = bytes.size();
    bytes.resize(begin + std::min(kPart, size - begin));
    if (!receive_all(socket, bytes.data() + begin, bytes.size() - begin)) return false;
  }
  message = Message(std::move(bytes));
  return true;
}

}  // namespace dino::h5
