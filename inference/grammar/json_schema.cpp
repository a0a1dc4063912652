// json_schema.cpp — see json_schema.h.
#include "inference/grammar/json_schema.h"

#include <algorithm>
#include <limits>
#include <map>
#include <set>

#include "inference/grammar/regex.h"

namespace euromodal {

namespace {

constexpr int64_t kMostItems = 4096;
constexpr int kDeepest = 128;
constexpr int64_t kLargest = 999'999'999'999'999'999;  // integers of at most 18 digits

const std::set<std::string> kNotes = {"title",       "description", "default",  "examples",
                                      "$schema",     "$id",         "$comment", "$defs",
                                      "definitions", "deprecated",  "readOnly", "writeOnly"};

class SchemaReader {
 public:
  SchemaReader(const Json& root, std::string what) : root_(root), what_(std::move(what)) {
    space_ = grammar_.choice(
        {grammar_.text(""), grammar_.byte(' '),
         grammar_.sequence({grammar_.byte('\n'), grammar_.repeat(grammar_.byte(' '), 0, 24)})});
    const GrammarSymbol hex = [&] {
      GrammarSymbol out = grammar_.byte_range('0', '9');
      out.bytes |= grammar_.byte_range('a', 'f').bytes | grammar_.byte_range('A', 'F').bytes;
      return out;
    }();
    GrammarSymbol escaped;
    for (const char c : std::string_view("\"\\/bfnrt")) escaped.bytes.set(static_cast<size_t>(c));
    character_ = grammar_.choice(
        {grammar_.characters({{0x20, '"' - 1}, {'"' + 1, '\\' - 1}, {'\\' + 1, 0x10FFFF}}),
         grammar_.sequence({grammar_.byte('\\'),
                            grammar_.choice({escaped, grammar_.sequence({grammar_.byte('u'), hex,
                                                                         hex, hex, hex})})})});
    string_ = quoted(grammar_.repeat(character_, 0, -1));
    integer_ = add_regex(grammar_, "-?(0|[1-9][0-9]{0,17})");
    number_ =
        add_regex(grammar_, R"(-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?([eE][+-]?[0-9]{1,3})?)");
    boolean_ = grammar_.choice({grammar_.text("true"), grammar_.text("false")});
    null_ = grammar_.text("null");
    any_ = grammar_.declare();
    grammar_.define(any_, {{string_},
                           {number_},
                           {boolean_},
                           {null_},
                           {members({}, {}, &any_)},
                           {array_of({}, &any_, 0, -1)}});
  }

  Grammar read() {
    grammar_.start = value(root_, "#", 0);
    return std::move(grammar_);
  }

 private:
  template <typename... Args>
  void expect(bool holds, const std::string& place, fmt::format_string<Args...> text,
              Args&&... args) const {
    if (!holds)
      throw ConfigError("{}: {}: {}", what_, place, fmt::format(text, std::forward<Args>(args)...));
  }

  GrammarSymbol quoted(const GrammarSymbol& inside) {
    return grammar_.sequence({grammar_.byte('"'), inside, grammar_.byte('"')});
  }
  GrammarSymbol literal(const Json& json) {
    return grammar_.text(json.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
  GrammarSymbol comma() { return grammar_.sequence({grammar_.byte(','), space_}); }

  /// One value by `schema`. `place`: a JSON pointer, for messages.
  GrammarSymbol value(const Json& schema, const std::string& place, int depth) {
    expect(depth < kDeepest, place, "schemas are nested too deep");
    if (schema.is_boolean()) {
      expect(schema.get<bool>(), place, "false admits nothing");
      return any_;
    }
    expect(schema.is_object(), place, "expected an object or true, got {}", schema.type_name());
    if (schema.contains("$ref")) return reference(schema, place, depth);
    if (schema.contains("const")) {
      only(schema, place, {"const", "type"});
      return literal(schema["const"]);
    }
    if (schema.contains("enum")) {
      only(schema, place, {"enum", "type"});
      expect(schema["enum"].is_array() && !schema["enum"].empty(), place,
             "enum must be a list that is not empty");
      std::vector<GrammarSymbol> out;
      for (const Json& one : schema["enum"]) out.push_back(literal(one));
      return grammar_.choice(std::move(out));
    }
    for (const char* word : {"anyOf", "oneOf", "allOf"}) {
      if (!schema.contains(word)) continue;
      only(schema, place, {word, "type"});
      const Json& list = schema[word];
      expect(list.is_array() && !list.empty(), place, "{} must be a list that is not empty", word);
      expect(std::string(word) != "allOf" || list.size() == 1, place,
             "allOf of several schemas is not supported; write them as one");
      std::vector<GrammarSymbol> out;
      for (size_t i = 0; i < list.size(); ++i)
        out.push_back(value(list[i], fmt::format("{}/{}/{}", place, word, i), depth + 1));
      return grammar_.choice(std::move(out));
    }
    if (!schema.contains("type")) {
      if (schema.contains("properties")) return object(schema, place, depth);
      if (schema.contains("items") || schema.contains("prefixItems"))
        return array(schema, place, depth);
      only(schema, place, {});
      return any_;
    }
    const Json& type = schema["type"];
    if (type.is_string()) return of_type(type.get<std::string>(), schema, place, depth);
    expect(type.is_array() && !type.empty(), place, "type must be a word or a list of words");
    std::vector<GrammarSymbol> out;
    for (const Json& one : type) {
      expect(one.is_string(), place, "type must be a word or a list of words");
      out.push_back(of_type(one.get<std::string>(), schema, place, depth, /*one_of_many=*/true));
    }
    return grammar_.choice(std::move(out));
  }

  /// Keywords that say something must be among `known`.
  void only(const Json& schema, const std::string& place,
            const std::set<std::string>& known) const {
    for (const auto& [key, ignored] : schema.items())
      expect(known.contains(key) || kNotes.contains(key), place, "keyword {} is not supported here",
             key);
  }

  GrammarSymbol of_type(const std::string& type, const Json& schema, const std::string& place,
                        int depth, bool one_of_many = false) {
    if (type == "object") return object(schema, place, depth, one_of_many);
    if (type == "array") return array(schema, place, depth, one_of_many);
    if (type == "string") return string(schema, place, one_of_many);
    if (type == "integer") return integer(schema, place, one_of_many);
    if (!one_of_many) only(schema, place, {"type"});
    if (type == "number") return number_;
    if (type == "boolean") return boolean_;
    if (type == "null") return null_;
    throw ConfigError("{}: {}: unknown type {}", what_, place, type);
  }

  GrammarSymbol reference(const Json& schema, const std::string& place, int depth) {
    expect(schema["$ref"].is_string(), place, "$ref must be a string");
    only(schema, place, {"$ref"});
    const auto target = schema["$ref"].get<std::string>();
    const auto known = references_.find(target);
    if (known != references_.end()) return known->second;
    expect(target.starts_with("#"), place, "$ref {} is not inside this document", target);
    const Json* found = nullptr;
    try {
      found = &root_.at(Json::json_pointer(target.substr(1)));
    } catch (const Json::exception&) {
      throw ConfigError("{}: {}: $ref {} leads nowhere", what_, place, target);
    }
    const GrammarSymbol rule = grammar_.declare();  // before its content: it may name itself
    references_[target] = rule;
    grammar_.define(rule, {{value(*found, target, depth + 1)}});
    return rule;
  }

  int64_t count(const Json& schema, const char* key, const std::string& place,
                int64_t otherwise) const {
    if (!schema.contains(key)) return otherwise;
    expect(schema[key].is_number_integer() && schema[key].get<int64_t>() >= 0 &&
               schema[key].get<int64_t>() <= kMostItems,
           place, "{} must be a whole number from 0 to {}", key, kMostItems);
    return schema[key].get<int64_t>();
  }

  GrammarSymbol string(const Json& schema, const std::string& place, bool one_of_many) {
    if (!one_of_many) only(schema, place, {"type", "minLength", "maxLength", "pattern", "format"});
    const int64_t least = count(schema, "minLength", place, 0),
                  most = count(schema, "maxLength", place, -1);
    expect(most < 0 || least <= most, place, "minLength {} is above maxLength {}", least, most);
    if (schema.contains("pattern") || schema.contains("format")) {
      expect(!schema.contains("minLength") && !schema.contains("maxLength") &&
                 !(schema.contains("pattern") && schema.contains("format")),
             place, "pattern, format and lengths of one string cannot be taken together");
      if (schema.contains("format")) return quoted(add_regex(grammar_, format(schema, place)));
      expect(schema["pattern"].is_string(), place, "pattern must be a string");
      const auto pattern = schema["pattern"].get<std::string>();
      expect(pattern.find_first_of("\"") == std::string::npos, place,
             "pattern: a \" cannot stand in it, it ends the string");
      return quoted(add_regex(grammar_, pattern));
    }
    if (least == 0 && most < 0) return string_;
    return quoted(grammar_.repeat(character_, least, most));
  }

  std::string format(const Json& schema, const std::string& place) const {
    const std::string date = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])";
    const std::string time =
        R"(([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-][0-2][0-9]:[0-5][0-9]))";
    const std::map<std::string, std::string> known = {
        {"date", date},
        {"time", time},
        {"date-time", date + "T" + time},
        {"uuid", "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"}};
    const auto found = schema["format"].is_string()
                           ? known.find(schema["format"].get<std::string>())
                           : known.end();
    expect(found != known.end(), place, "format {} is not supported (date, time, date-time, uuid)",
           schema["format"].dump());
    return found->second;
  }

  GrammarSymbol integer(const Json& schema, const std::string& place, bool one_of_many) {
    if (!one_of_many) only(schema, place, {"type", "minimum", "maximum"});
    const auto bound = [&](const char* key, int64_t otherwise) {
      if (!schema.contains(key)) return otherwise;
      expect(schema[key].is_number_integer() && std::abs(schema[key].get<int64_t>()) <= kLargest,
             place, "{} must be a whole number of at most 18 digits", key);
      return schema[key].get<int64_t>();
    };
    const int64_t least = bound("minimum", -kLargest), most = bound("maximum", kLargest);
    expect(least <= most, place, "minimum {} is above maximum {}", least, most);
    if (least == -kLargest && most == kLargest) return integer_;
    std::vector<GrammarSymbol> out;
    if (least < 0)
      out.push_back(grammar_.sequence(
          {grammar_.byte('-'), whole_numbers(std::max<int64_t>(1, -most), -least)}));
    if (most >= 0) out.push_back(whole_numbers(std::max<int64_t>(0, least), most));
    return grammar_.choice(std::move(out));
  }

  /// The numerals of [least, most], 0 <= least <= most.
  GrammarSymbol whole_numbers(int64_t least, int64_t most) {
    std::vector<GrammarSymbol> out;
    for (int64_t low = 0, high = 9; low <= most; low = high + 1, high = high * 10 + 9) {
      const int64_t from = std::max(low, least), to = std::min(high, most);
      if (from <= to) out.push_back(digits(std::to_string(from), std::to_string(to)));
    }
    return grammar_.choice(std::move(out));
  }

  /// Numerals of one length between `from` and `to`.
  GrammarSymbol digits(const std::string& from, const std::string& to) {
    if (from.size() == 1)
      return grammar_.byte_range(static_cast<unsigned char>(from[0]),
                                 static_cast<unsigned char>(to[0]));
    const std::string rest_from = from.substr(1), rest_to = to.substr(1);
    const std::string zeros(rest_from.size(), '0'), nines(rest_from.size(), '9');
    std::vector<GrammarSymbol> out;
    const auto add = [&](char first, char last, const std::string& low, const std::string& high) {
      if (first > last) return;
      out.push_back(grammar_.sequence(
          {grammar_.byte_range(static_cast<unsigned char>(first), static_cast<unsigned char>(last)),
           digits(low, high)}));
    };
    if (from[0] == to[0]) {
      add(from[0], to[0], rest_from, rest_to);
    } else {  // the ends have bounds, all between is free
      const bool whole_first = rest_from == zeros, whole_last = rest_to == nines;
      if (!whole_first) add(from[0], from[0], rest_from, nines);
      add(static_cast<char>(from[0] + (whole_first ? 0 : 1)),
          static_cast<char>(to[0] - (whole_last ? 0 : 1)), zeros, nines);
      if (!whole_last) add(to[0], to[0], zeros, rest_to);
    }
    return grammar_.choice(std::move(out));
  }

  GrammarSymbol object(const Json& schema, const std::string& place, int depth,
                       bool one_of_many = false) {
    if (!one_of_many)
      only(schema, place, {"type", "properties", "required", "additionalProperties"});
    const Json properties = schema.value("properties", Json::object());
    const Json required = schema.value("required", Json::array());
    expect(properties.is_object(), place, "properties must be an object");
    expect(required.is_array(), place, "required must be a list");
    std::set<std::string> must;
    for (const Json& name : required) {
      expect(name.is_string() && properties.contains(name.get<std::string>()), place,
             "required names {}, which properties does not hold", name.dump());
      must.insert(name.get<std::string>());
    }
    std::vector<GrammarSymbol> pairs;
    std::vector<bool> needed;
    for (const auto& [name, inside] : properties.items()) {
      pairs.push_back(
          pair(literal(Json(name)), value(inside, place + "/properties/" + name, depth + 1)));
      needed.push_back(must.contains(name));
    }
    const Json more = schema.value("additionalProperties", Json(properties.empty()));
    if (more.is_boolean() && !more.get<bool>()) return members(pairs, needed, nullptr);
    const GrammarSymbol other = value(more, place + "/additionalProperties", depth + 1);
    return members(pairs, needed, &other);
  }

  GrammarSymbol pair(const GrammarSymbol& name, const GrammarSymbol& content) {
    return grammar_.sequence({name, grammar_.byte(':'), space_, content});
  }

  /// An object of `pairs` in their order, those that are not needed may be left out, then any
  /// number of others with values of *other. What follows depends on whether a comma is due.
  GrammarSymbol members(const std::vector<GrammarSymbol>& pairs, const std::vector<bool>& needed,
                        const GrammarSymbol* other) {
    GrammarSymbol rest[2] = {grammar_.text(""), grammar_.text("")};  // [is a comma due?]
    if (other) {
      const GrammarSymbol one = pair(string_, *other);
      rest[1] = grammar_.repeat(grammar_.sequence({comma(), one}), 0, -1);
      rest[0] = grammar_.choice({grammar_.text(""), grammar_.sequence({one, rest[1]})});
    }
    for (size_t i = pairs.size(); i-- > 0;) {
      std::vector<GrammarSymbol> first = {grammar_.sequence({pairs[i], rest[1]})};
      std::vector<GrammarSymbol> later = {grammar_.sequence({comma(), pairs[i], rest[1]})};
      if (!needed[i]) {
        first.push_back(rest[0]);
        later.push_back(rest[1]);
      }
      rest[0] = grammar_.choice(std::move(first));
      rest[1] = grammar_.choice(std::move(later));
    }
    return grammar_.sequence({grammar_.byte('{'), space_, rest[0], space_, grammar_.byte('}')});
  }

  GrammarSymbol array(const Json& schema, const std::string& place, int depth,
                      bool one_of_many = false) {
    if (!one_of_many) only(schema, place, {"type", "items", "prefixItems", "minItems", "maxItems"});
    std::vector<GrammarSymbol> first;
    const Json prefix = schema.value("prefixItems", Json::array());
    expect(prefix.is_array(), place, "prefixItems must be a list");
    for (size_t i = 0; i < prefix.size(); ++i)
      first.push_back(value(prefix[i], fmt::format("{}/prefixItems/{}", place, i), depth + 1));
    const int64_t least = count(schema, "minItems", place, 0),
                  most = count(schema, "maxItems", place, -1);
    expect(most < 0 || least <= most, place, "minItems {} is above maxItems {}", least, most);
    const Json items = schema.value("items", Json(prefix.empty()));
    if (items.is_boolean() && !items.get<bool>()) return array_of(first, nullptr, least, most);
    const GrammarSymbol item = value(items, place + "/items", depth + 1);
    return array_of(first, &item, least, most);
  }

  /// A list of `first`, then of *item: `least` to `most` in all (most < 0: without end).
  GrammarSymbol array_of(const std::vector<GrammarSymbol>& first, const GrammarSymbol* item,
                         int64_t least, int64_t most) {
    const auto fixed = static_cast<int64_t>(first.size());
    const int64_t longest = item ? most : most < 0 ? fixed : std::min(most, fixed);
    // From the end: what may follow the i-th element, a comma first. Behind the fixed ones it is a
    // repetition.
    GrammarSymbol rest = grammar_.text("");
    if (item && (longest < 0 || longest > fixed))
      rest =
          grammar_.repeat(grammar_.sequence({comma(), *item}), std::max<int64_t>(0, least - fixed),
                          longest < 0 ? -1 : longest - fixed);
    GrammarSymbol inside = rest;
    if (fixed == 0 && item && longest != 0) {  // the first element has no comma
      std::vector<GrammarSymbol> ways = {
          grammar_.sequence({*item, grammar_.repeat(grammar_.sequence({comma(), *item}),
                                                    std::max<int64_t>(0, least - 1),
                                                    longest < 0 ? -1 : longest - 1)})};
      if (least == 0) ways.push_back(grammar_.text(""));
      inside = grammar_.choice(std::move(ways));
    }
    for (int64_t i = std::min(fixed, longest < 0 ? fixed : longest); i-- > 0;) {
      GrammarSequence one = {first[static_cast<size_t>(i)], inside};
      if (i > 0) one.insert(one.begin(), comma());
      const GrammarSymbol with = grammar_.sequence(std::move(one));
      inside = i < least ? with : grammar_.choice({with, grammar_.text("")});
    }
    return grammar_.sequence({grammar_.byte('['), space_, inside, space_, grammar_.byte(']')});
  }

  const Json& root_;
  std::string what_;
  Grammar grammar_;
  GrammarSymbol space_, character_, string_, integer_, number_, boolean_, null_, any_;
  std::map<std::string, GrammarSymbol> references_;
};

}  // namespace

Grammar json_schema_grammar(const Json& schema, const std::string& what) {
  return SchemaReader(schema, what).read();
}

}  // namespace euromodal
