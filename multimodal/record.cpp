// record.cpp — see record.h. Every fault names the record and the key: samples are made by other
// programs, and a message must lead to the line.
#include "multimodal/record.h"

#include <cmath>
#include <initializer_list>
#include <string_view>

#include "core/error.h"
#include "core/files.h"

namespace euromodal {
namespace {

std::string record_type(const Json& value) {
  return value.is_string() ? fmt::format("'{}'", value.get<std::string>()) : value.type_name();
}

std::string record_text(const Json& value, const std::string& where) {
  check<DataError>(value.is_string(), "{}: expected a string, got {}", where, record_type(value));
  const auto& text = value.get_ref<const std::string&>();
  const size_t bad = find_invalid_utf8(text);
  check<DataError>(bad == std::string::npos, "{}: not valid UTF-8 at byte {}", where, bad);
  return text;
}

double record_seconds(const Json& value, const std::string& where) {
  check<DataError>(value.is_number(), "{}: expected a number of seconds, got {}", where,
                   record_type(value));
  const double seconds = value.get<double>();
  check<DataError>(std::isfinite(seconds), "{}: {} is no time", where, seconds);
  return seconds;
}

void record_only(const Json& object, const std::string& where,
                 std::initializer_list<std::string_view> keys) {
  for (const auto& [key, value] : object.items()) {
    bool known = false;
    for (const std::string_view name : keys) known |= key == name;
    check<DataError>(known, "{}: unknown key '{}'; expected one of: {}", where, key,
                     fmt::join(keys, ", "));
  }
}

Modality record_kind(const Json& value, const std::string& where) {
  for (const Modality kind : {Modality::kImage, Modality::kAudio, Modality::kVideo}) {
    if (value.is_string() && value.get_ref<const std::string&>() == modality_name(kind))
      return kind;
  }
  throw DataError("{}: expected image, audio or video, got {}", where, record_type(value));
}

MediaRef record_media(const Json& json, const std::string& where) {
  record_only(json, where, {"kind", "uri", "features", "t0_s", "t1_s", "text"});
  MediaRef out{.kind = record_kind(json.at("kind"), where + ".kind")};
  if (json.contains("features")) {
    const std::string text = record_text(json.at("features"), where + ".features");
    const size_t cut = text.rfind('#');
    check<DataError>(cut != std::string::npos && cut > 0 && cut + 1 < text.size(),
                     "{}.features: expected FILE#TENSOR, got '{}'", where, text);
    check<DataError>(!json.contains("uri") && !json.contains("t0_s") && !json.contains("t1_s"),
                     "{}: features stand for the whole medium, uri, t0_s and t1_s do not go with "
                     "them",
                     where);
    out.uri = text.substr(0, cut);
    out.tensor = text.substr(cut + 1);
  } else {
    check<DataError>(json.contains("uri"), "{}.uri: missing", where);
    out.uri = record_text(json.at("uri"), where + ".uri");
  }
  check<DataError>(!out.uri.empty(), "{}.uri: empty", where);
  if (json.contains("t0_s")) out.t0_s = record_seconds(json.at("t0_s"), where + ".t0_s");
  if (json.contains("t1_s")) out.t1_s = record_seconds(json.at("t1_s"), where + ".t1_s");
  if (json.contains("text")) out.text = record_text(json.at("text"), where + ".text");
  check<DataError>(out.t0_s >= 0, "{}.t0_s: {} is before the start", where, out.t0_s);
  check<DataError>(!json.contains("t1_s") || out.t1_s > out.t0_s,
                   "{}.t1_s: {} is not after t0_s = {}", where, out.t1_s, out.t0_s);
  return out;
}

Part record_part(const Json& json, const std::string& where) {
  if (json.is_string()) return {.text = record_text(json, where)};
  check<DataError>(json.is_object(), "{}: expected a string, {{text}} or {{kind, uri}}, got {}",
                   where, record_type(json));
  if (json.contains("kind")) return {.is_media = true, .media = record_media(json, where)};
  record_only(json, where, {"text"});
  check<DataError>(json.contains("text"), "{}: neither text nor kind is there", where);
  return {.text = record_text(json.at("text"), where + ".text")};
}

Message record_message(const Json& json, const std::string& where) {
  check<DataError>(json.is_object(), "{}: expected an object, got {}", where, record_type(json));
  record_only(json, where, {"role", "parts"});
  check<DataError>(json.contains("role"), "{}.role: missing", where);
  check<DataError>(json.contains("parts"), "{}.parts: missing", where);
  Message out{.role = record_text(json.at("role"), where + ".role")};
  check<DataError>(out.role == "system" || out.role == "user" || out.role == "assistant",
                   "{}.role: expected system, user or assistant, got '{}'", where, out.role);
  const Json& parts = json.at("parts");
  check<DataError>(parts.is_array(), "{}.parts: expected a list, got {}", where,
                   record_type(parts));
  for (size_t i = 0; i < parts.size(); ++i)
    out.parts.push_back(record_part(parts[i], fmt::format("{}.parts[{}]", where, i)));
  return out;
}

}  // namespace

Record parse_record(const Json& json, const std::string& what) {
  check<DataError>(json.is_object(), "{}: expected an object, got {}", what, record_type(json));
  Record out;
  out.extra = Json::object();
  bool has_messages = false;
  for (const auto& [key, value] : json.items()) {
    const std::string where = fmt::format("{}: {}", what, key);
    if (key == "id") {
      out.id = record_text(value, where);
    } else if (key == "lang") {
      out.lang = record_text(value, where);
    } else if (key == "label") {
      out.label = record_text(value, where);
    } else if (key == "messages") {
      check<DataError>(value.is_array() && !value.empty(), "{}: expected a list of turns, got {}",
                       where, value.is_array() ? "an empty one" : record_type(value));
      has_messages = true;
      for (size_t i = 0; i < value.size(); ++i)
        out.messages.push_back(record_message(value[i], fmt::format("{}[{}]", where, i)));
    } else {
      out.extra[key] = value;
    }
  }
  check<DataError>(!out.id.empty(), "{}: id: missing or empty", what);
  check<DataError>(has_messages, "{}: messages: missing", what);
  return out;
}

Json to_json(const Record& record) {
  Json messages = Json::array();
  for (const Message& message : record.messages) {
    Json parts = Json::array();
    for (const Part& part : message.parts) {
      if (!part.is_media) {
        parts.push_back(part.text);
        continue;
      }
      Json media = {{"kind", modality_name(part.media.kind)}};
      if (part.media.tensor.empty()) {
        media["uri"] = part.media.uri;
      } else {
        media["features"] = part.media.uri + "#" + part.media.tensor;
      }
      if (part.media.t0_s != 0.0) media["t0_s"] = part.media.t0_s;
      if (part.media.t1_s >= 0.0) media["t1_s"] = part.media.t1_s;
      if (!part.media.text.empty()) media["text"] = part.media.text;
      parts.push_back(std::move(media));
    }
    messages.push_back({{"role", message.role}, {"parts", std::move(parts)}});
  }
  Json out = {{"id", record.id}};
  if (!record.lang.empty()) out["lang"] = record.lang;
  if (!record.label.empty()) out["label"] = record.label;
  out["messages"] = std::move(messages);
  if (record.extra.is_object()) {
    for (const auto& [key, value] : record.extra.items()) out[key] = value;
  }
  return out;
}

}  // namespace euromodal
