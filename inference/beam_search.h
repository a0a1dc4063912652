// beam_search.h — beam search as transformers' generate with num_beams, early_stopping=False and
// length_penalty. B beams, V vocabulary.
#pragma once
#include <cstdint>
#include <vector>

#include "inference/decoding.h"

namespace euromodal {

/// first_V: logits after the prompt, whose keys and values `cache` holds. Returns the new tokens of
/// the best hypothesis (its stop id included); `budget` > 0 bounds their number.
std::vector<int64_t> beam_search(const Llama& llama, const std::vector<int64_t>& prompt_ids,
                                 std::vector<float> first_V, KvCache cache, int64_t budget,
                                 const GenerateOptions& options);

}  // namespace euromodal
