// record_prompt.h — the question of a record as the model takes it: all that stands before its last
// assistant turn, media prepared; and what the record says the answer is.
#pragma once
#include <string>
#include <vector>

#include "multimodal/model.h"

namespace euromodal {

struct CaptionMedium {
  Modality kind;
  MediaSource source;
  std::string tensor{};  // features computed before: their name in `source`; else empty
};

/// Decodes and preprocesses one medium into `example`; returns its number of tokens. DataError
/// naming the medium.
int64_t add_medium(const MultimodalModel& model, const CaptionMedium& medium, Example& example);

/// `media`: of the whole record, in order. The example's labels are all -100. DataError naming the
/// medium.
Example caption_record(const MultimodalModel& model, const Record& record,
                       const std::vector<MediaSource>& media);

/// What the assistant says in the record's last assistant turn; empty when there is none.
std::string record_reference(const Record& record);
/// The user's words before it, media as markers.
std::string record_prompt(const Record& record);
/// "image", "audio", "video", several joined by "+", or "text".
std::string record_kind(const Record& record);

}  // namespace euromodal
