// greedy.h — one token after the other, the most likely one: single steps, which every decoder of
// inference shares, and the whole loop, which training shows samples with. V vocabulary, D width.
#pragma once
#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/kv_cache.h"
#include "backbone/llama.h"

namespace euromodal {

/// One more position: id -> logits of the next token, V floats. Error when they are not finite.
std::vector<float> decode_step(const Llama& llama, int64_t id, KvCache& cache);

/// hidden_TD's last row -> logits [V]. Error when they are not finite.
std::vector<float> last_logits(const Llama& llama, const at::Tensor& hidden_TD);

/// prompt_emb_TD [T, D], T at most max_positions -> at most `max_new_tokens` ids, as many as
/// positions allow; ends with the first that is one of `stop_ids` (which is among them). No
/// gradient.
std::vector<int64_t> greedy_decode(const Llama& llama, const at::Tensor& prompt_emb_TD,
                                   int64_t max_new_tokens, const std::vector<int64_t>& stop_ids);

}  // namespace euromodal
