// record.h — one sample as it stands in a shard (`stem.json`) or in a line of a JSONL file.
//
//   {"id": "...", "lang": "de", "label": "apple", "messages": [
//     {"role": "user", "parts": [{"kind": "image", "uri": "stem.0.jpg"}, "Was ist das?"]},
//     {"role": "assistant", "parts": ["Apfel"]}]}
// A part is a string, or {"text": "..."}, or {"kind": "image" | "audio" | "video", "uri": "...",
// "t0_s": 0.0, "t1_s": 1.5, "text": "what is said or shown"}; the text of a medium is what
// distillation reads in its place. A medium whose features were computed before has "features":
// "FILE#TENSOR" in place of uri and times (stored_features.h).
#pragma once
#include <string>
#include <vector>

#include "core/json.h"
#include "encoders/media/media.h"

namespace euromodal {

struct MediaRef {
  Modality kind = Modality::kImage;
  std::string uri{};
  double t0_s = 0.0, t1_s = -1.0;
  std::string text{};    // the text that it stands for; may be empty
  std::string tensor{};  // the uri is a file of features, and this one of its tensors; else empty
};

struct Part {
  bool is_media = false;
  std::string text{};
  MediaRef media{};
};

struct Message {
  std::string role;
  std::vector<Part> parts{};
};  // role: system, user, assistant

struct Record {
  std::string id;
  std::string lang;   // may be empty
  std::string label;  // class name for classification; may be empty
  std::vector<Message> messages;
  Json extra;  // every other key, kept as it is (object)
};

/// Strict: DataError "WHAT: messages[0].parts[1].kind: expected image, audio or video, got ...".
Record parse_record(const Json& json, const std::string& what);
Json to_json(const Record& record);

}  // namespace euromodal
