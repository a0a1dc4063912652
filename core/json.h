// json.h — strict JSON on nlohmann::json: reading a file with its name in every error, and typed
// access that names file and key.
#pragma once
#include <filesystem>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "core/error.h"

namespace euromodal {

using Json = nlohmann::ordered_json;

/// ConfigError when brackets outside of strings are nested deeper than 128: parsing takes any
/// depth, but what walks the document afterwards (dump) recurses.
void check_json_depth(std::string_view text, std::string_view what);

/// Parses `text`; `what` names it in the error (ConfigError: "config.json: not valid JSON at byte
/// 17: ..."). Refuses nesting deeper than 128.
Json parse_json(std::string_view text, std::string_view what);
Json read_json(const std::filesystem::path& file);

/// Typed access to one object of a file; every error names file and key. A null counts as missing.
class JsonView {
 public:
  JsonView(const Json& object, std::string what) : object_(&object), what_(std::move(what)) {}
  bool has(std::string_view key) const;
  int64_t i64(std::string_view key) const;  // ConfigError when missing or no whole number
  int64_t i64(std::string_view key,
              int64_t otherwise) const;          // `otherwise` when missing or null; still typed
  int64_t positive(std::string_view key) const;  // > 0 and below 2^40
  double f64(std::string_view key) const;
  double f64(std::string_view key, double otherwise) const;
  bool boolean(std::string_view key, bool otherwise) const;
  std::string str(std::string_view key) const;
  std::string str(std::string_view key, std::string otherwise) const;
  JsonView object(std::string_view key) const;
  const Json& raw() const { return *object_; }
  const std::string& what() const { return what_; }

 private:
  const Json* object_;
  std::string what_;
};

}  // namespace euromodal
