// json.cpp — see json.h. Depth is limited before parsing, so that hostile files cannot exhaust the
// stack.
#include "core/json.h"

#include "core/files.h"

namespace euromodal {
namespace {

constexpr int kMaxDepth = 128;

const Json* json_find(const Json& object, std::string_view key) {
  const auto it = object.find(std::string(key));
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

const char* json_type(const Json& value) {
  return value.is_number_float() ? "a fraction"
         : value.is_number()     ? "a whole number"
                                 : value.type_name();
}

const Json& json_require(const JsonView& view, std::string_view key) {
  const Json* value = json_find(view.raw(), key);
  if (!value) throw ConfigError("{}: {} is missing", view.what(), key);
  return *value;
}

int64_t json_whole(const JsonView& view, std::string_view key, const Json& value) {
  if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    throw ConfigError("{}: {} is {}, larger than any 64-bit number", view.what(), key,
                      value.dump());
  }
  if (!value.is_number_integer())
    throw ConfigError("{}: {} is {}, expected a whole number", view.what(), key, json_type(value));
  return value.get<int64_t>();
}

}  // namespace

void check_json_depth(std::string_view text, std::string_view what) {
  int depth = 0;
  bool quoted = false;
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (quoted) {
      if (c == '\\') ++at;
      quoted = c != '"';
    } else if (c == '"') {
      quoted = true;
    } else if (c == '[' || c == '{') {
      check<ConfigError>(++depth <= kMaxDepth, "{}: JSON is nested deeper than {}", what,
                         kMaxDepth);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
}

Json parse_json(std::string_view text, std::string_view what) {
  check_json_depth(text, what);
  try {
    return Json::parse(text.begin(), text.end());
  } catch (const Json::parse_error& e) {
    throw ConfigError("{}: not valid JSON at byte {}", what, e.byte);
  } catch (const Json::exception& e) {
    throw ConfigError("{}: not valid JSON: {}", what, e.what());
  }
}

Json read_json(const std::filesystem::path& file) {
  return parse_json(read_text(file), file.string());
}

bool JsonView::has(std::string_view key) const { return json_find(*object_, key) != nullptr; }

int64_t JsonView::i64(std::string_view key) const {
  return json_whole(*this, key, json_require(*this, key));
}

int64_t JsonView::i64(std::string_view key, int64_t otherwise) const {
  const Json* value = json_find(*object_, key);
  return value ? json_whole(*this, key, *value) : otherwise;
}

int64_t JsonView::positive(std::string_view key) const {
  const int64_t value = i64(key);
  check<ConfigError>(value > 0, "{}: {} is {}, expected a number above 0", what_, key, value);
  check<ConfigError>(value < (int64_t{1} << 40), "{}: {} is {}, which no model has", what_, key,
                     value);
  return value;
}

double JsonView::f64(std::string_view key) const {
  const Json& value = json_require(*this, key);
  check<ConfigError>(value.is_number(), "{}: {} is {}, expected a number", what_, key,
                     json_type(value));
  return value.get<double>();
}

double JsonView::f64(std::string_view key, double otherwise) const {
  return has(key) ? f64(key) : otherwise;
}

bool JsonView::boolean(std::string_view key, bool otherwise) const {
  const Json* value = json_find(*object_, key);
  if (!value) return otherwise;
  check<ConfigError>(value->is_boolean(), "{}: {} is {}, expected true or false", what_, key,
                     json_type(*value));
  return value->get<bool>();
}

std::string JsonView::str(std::string_view key) const {
  const Json& value = json_require(*this, key);
  check<ConfigError>(value.is_string(), "{}: {} is {}, expected a string", what_, key,
                     json_type(value));
  return value.get<std::string>();
}

std::string JsonView::str(std::string_view key, std::string otherwise) const {
  return has(key) ? str(key) : otherwise;
}

JsonView JsonView::object(std::string_view key) const {
  const Json& value = json_require(*this, key);
  check<ConfigError>(value.is_object(), "{}: {} is {}, expected an object", what_, key,
                     json_type(value));
  return {value, fmt::format("{}: {}", what_, key)};
}

}  // namespace euromodal
