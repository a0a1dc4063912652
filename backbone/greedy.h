// greedy.h — one token after the other, the most likely one: single steps, which every decoder of
// inference shares, and the whole loop, which training shows samples with. V vocabulary, D width.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/kv_cache.h"
#include "backbone/llama.h"

namespace euromodal {

/// hidden_RD -> logits [R, V] f32 on the CPU. Error when they are not finite.
at::Tensor checked_logits(const Llama& llama, const at::Tensor& hidden_RD);

/// The next positions of a sequence: ids [R] -> logits behind each of them, as checked_logits().
at::Tensor decode_rows(const Llama& llama, const std::vector<int64_t>& ids, KvCache& cache);

/// The next position of several sequences in one pass: ids [S], a cache each (none twice) -> [S,
/// V], as checked_logits().
at::Tensor decode_step(const Llama& llama, const std::vector<int64_t>& ids,
                       std::span<KvCache* const> caches);

/// prompt_emb_TD [T, D], T at most max_positions -> at most `max_new_tokens` ids, as many as
/// positions allow; ends with the first that is one of `stop_ids` (which is among them). No
/// gradient.
std::vector<int64_t> greedy_decode(const Llama& llama, const at::Tensor& prompt_emb_TD,
                                   int64_t max_new_tokens, const std::vector<int64_t>& stop_ids);

}  // namespace euromodal
