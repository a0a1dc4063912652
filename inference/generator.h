// generator.h — prompt rows in, tokens out: greedy, sampling, beams, penalties, stop ids. Meaning
// of every option: as transformers' generate.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/llama.h"

namespace euromodal {

struct GenerateOptions {
  int64_t max_new_tokens = 128;
  bool greedy = true;        // false: sample
  double temperature = 1.0;  // divides the logits first
  int64_t top_k = 0;         // 0: off
  double top_p = 1.0;        // smallest set whose sum reaches p
  uint64_t seed = 0;
  int64_t beams = 1;
  double length_penalty = 1.0;
  double repetition_penalty = 1.0;
  int64_t no_repeat_ngram = 0;
  std::vector<int64_t> stop_ids;
  std::function<bool()> interrupted;  // asked before every token: true ends the text there
};

struct GenerateTimings {
  double prefill_s = 0.0, decode_s = 0.0;
  int64_t prompt_tokens = 0, new_tokens = 0;
};

struct Generated {
  std::vector<int64_t> tokens;  // new ids only; may end with a stop id
  at::Tensor prompt_logits_TV;  // [T, V] f32 when asked for
  GenerateTimings timings;
};

/// Can these ids be a prompt? DataError: none at all, more than max_positions (names both numbers).
void check_prompt_length(int64_t tokens, const LlamaConfig& config);
/// DataError naming the first id that is not below the vocabulary's size.
void check_token_ids(const std::vector<int64_t>& ids, const LlamaConfig& config);

/// prompt_ids [T]: count as seen for the repetition rules; prompt_emb_TD [T, D]: what is prefilled
/// (spliced media or llama.embed(ids)). on_token is called as each token is chosen (not with
/// beams). Errors as check_prompt_length; the last token is one that follows max_positions
/// positions.
Generated generate(const Llama& llama, const std::vector<int64_t>& prompt_ids,
                   const at::Tensor& prompt_emb_TD, const GenerateOptions& options,
                   bool want_logits = false, const std::function<void(int64_t)>& on_token = {});

}  // namespace euromodal
