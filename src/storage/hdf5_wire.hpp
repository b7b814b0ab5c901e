// SPDX-License-Identifier: Apache-2.0
#pragma once
// What the process that reads HDF5 files and the one that asks say to each other: messages of a length and
// that many bytes, over a stream socket.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace dino::h5 {

enum class Ask : int64_t {
  exists,
  list,
  list_datasets,
  info,
  place,
  rows,
  whole,
  strings,
  has_attribute,
  attributes,
  attribute_numbers,
  attribute_strings
};

class Message {
 public:
  Message() = default;
  explicit Message(std::string bytes) : bytes_(std::move(bytes)) {}
  Message& put(int64_t value);
  Message& put(double value);
  Message& put(std::string_view text);
  Message& put(const std::vector<std::string>& texts);
  Message& put(const std::vector<int64_t>& values);
  /// In the order of `put`; InternalError when the message is shorter.
  [[nodiscard]] int64_t number();
  [[nodiscard]] double real();
  [[nodiscard]] std::string text();
  [[nodiscard]] std::vector<std::string> texts();
  [[nodiscard]] std::vector<int64_t> numbers();
  [[nodiscard]] const std::string& bytes() const { return bytes_; }

 private:
  void take(void* out, size_t size);
  std::string bytes_;
  size_t at_ = 0;
};

/// False when the other side is gone.
[[nodiscard]] bool send_all(int socket, const void* data, size_t size);
[[nodiscard]] bool receive_all(int socket, void* data, size_t size);
[[nodiscard]] bool send_message(int socket, const Message& message);
[[nodiscard]] bool receive_message(int socket, Message& message);

}  // namespace dino::h5
