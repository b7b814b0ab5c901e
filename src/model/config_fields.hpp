// SPDX-License-Identifier: Apache-2.0
#pragma once
// Fields of the configurations that other software leaves beside its weights. Internal to src/model.

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

namespace dino {

/// A JSON object of a size and depth that a configuration may have; DataError.
[[nodiscard]] nlohmann::json read_config_json(const std::string& path);

/// All errors are DataError and name the file and the field. null counts as absent.
struct ConfigFields {
  const nlohmann::json& json;
  const std::string& path;

  [[nodiscard]] bool has(const char* key) const;
  [[nodiscard]] int64_t size(const char* key, std::optional<int64_t> fallback = {}) const;
  /// A size, or a list of two equal ones: the model's grid is square.
  [[nodiscard]] int64_t side(const char* key) const;
  [[nodiscard]] double number(const char* key, double fallback) const;
  [[nodiscard]] bool flag(const char* key, bool fallback) const;
  [[nodiscard]] std::string text(const char* key, const char* fallback) const;
  /// The object under `key`; DataError where there is none.
  [[nodiscard]] ConfigFields object(const char* key) const;

 private:
  [[nodiscard]] int64_t whole(const nlohmann::json& value, const char* key) const;
};

}  // namespace dino
