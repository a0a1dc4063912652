// beam_search.h — beam search over a prefilled prompt, as transformers' generate does it
// (early_stopping false), also with rules, constraints and several answers.
#pragma once
#include <ATen/core/Tensor.h>

#include "backbone/kv_cache.h"
#include "backbone/llama.h"
#include "inference/decoding.h"
#include "inference/generator.h"

namespace euromodal {

/// first_1V [1, V]: logits behind the prompt. `cache` holds the prompt. At most `budget` new
/// tokens. Writes tokens, finish, beams (those that ended, best first) and timings.steps of `out`.
void beam_search(const Llama& llama, Sequence prompt, const at::Tensor& first_1V, KvCache cache,
                 int64_t budget, const GenerateOptions& options, Generated& out);

}  // namespace euromodal
