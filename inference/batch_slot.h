// batch_slot.h — a sequence under way in a BatchEngine, for its implementation. Its next rows are
// ids [cache length, ...), until a device decoder has it in a slot.
#pragma once
#include "inference/batch_engine.h"

namespace euromodal {

struct BatchEngine::Slot {
  BatchRequest request;
  Sequence sequence;
  KvCache cache;
  int64_t budget, reserved;
  Generated result;
  bool begun = false;  // its cache holds what is known of its beginning, or more
  int64_t place = -1;  // slot of the device decoder

  bool reads_prompt() const {
    return begun && place < 0 && cache.length() < sequence.prompt_tokens;
  }
  int64_t due() const {
    return place >= 0 ? 1 : static_cast<int64_t>(sequence.ids.size()) - cache.length();
  }
  /// Positions that it may reach: the last token takes none.
  int64_t longest() const { return sequence.prompt_tokens + std::max<int64_t>(0, budget - 1); }
};

}  // namespace euromodal
