// decoding.h — what the greedy, the sampling and the beam decoder share: the
// penalties, the number of tokens that may come.
#pragma once
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/greedy.h"
#include "backbone/kv_cache.h"
#include "backbone/llama.h"
#include "inference/generator.h"

namespace euromodal {

/// Repetition penalty, then banned n-grams, over everything seen so far.
void apply_penalties(std::span<float> scores_V, std::span<const int64_t> seen,
                     const GenerateOptions& options);

bool is_stop(int64_t id, const GenerateOptions& options);

/// max_new_tokens, cut where the model's positions end: the last token chosen takes none.
int64_t token_budget(int64_t prompt_tokens, const LlamaConfig& config,
                     const GenerateOptions& options);

}  // namespace euromodal
