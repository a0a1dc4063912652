// generator.h — prompt rows in, tokens out: greedy, sampling, beams, penalties, constraints, stop
// rules. Meaning of every option: as transformers' generate, where it has it.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/decoder.h"
#include "backbone/llama.h"
#include "backbone/prefill.h"
#include "inference/grammar/token_grammar.h"

namespace euromodal {

class KeptSequences;

struct GenerateOptions {
  int64_t max_new_tokens = 128;
  bool greedy = true;        // false: sample
  double temperature = 1.0;  // divides the logits first
  int64_t top_k = 0;         // 0: off
  double top_p = 1.0;        // smallest set whose sum reaches p
  double min_p = 0.0;        // least likelihood, as a share of the most likely token's
  double typical_p = 1.0;    // tokens of typical surprise whose sum reaches p
  uint64_t seed = 0;
  int64_t beams = 1;
  double length_penalty = 1.0;
  double repetition_penalty = 1.0;
  double presence_penalty = 0.0,
         frequency_penalty = 0.0;  // over new tokens, as OpenAI defines them
  int64_t no_repeat_ngram = 0;
  std::vector<std::pair<int64_t, double>> logit_bias;  // ids inside the vocabulary
  std::shared_ptr<TokenGrammar> grammar;               // null: any text
  std::vector<int64_t> stop_ids;
  std::function<bool(std::span<const int64_t>)> ends_text;  // do these new tokens end the text?
  int64_t logprobs = -1;  // log-probabilities of the tokens and of the N best beside each; -1: none
  int64_t lookup = 0;     // tokens to guess from earlier text and check at once (0: one by one)
  int64_t prefill_rows = kPrefillRows;  // prompt rows of one pass
  bool int8_cache = false;              // keys and values as int8 codes (CPU only)
  std::shared_ptr<KeptSequences> kept;  // of this model and form of cache (with a decoder: the
                                        // decoder's); null: every prompt is read whole
  std::shared_ptr<Decoder> decoder;     // of this model; null: the model's own passes
  std::function<bool()> interrupted;    // asked before every token: true ends the text there
};

/// What an answer goes on from.
struct Prompt {
  std::vector<int64_t> ids;  // [T]; count as seen for the repetition rules
  at::Tensor emb_TD = {};    // [T, D]: its rows (spliced media); undefined: the embedding of ids
  /// With emb_TD: keys of its first rows, as kept_sequences.h has them (else they are the ids).
  std::vector<int64_t> keys = {};
};

struct GenerateTimings {
  double prefill_s = 0.0, decode_s = 0.0;
  int64_t prompt_tokens = 0, new_tokens = 0;
  int64_t reused_tokens = 0;  // of the prompt, whose keys and values were there already
  int64_t steps = 0;  // passes through the model behind the prompt; fewer than tokens with lookup
};

enum class FinishReason { kStop, kLength, kInterrupted };
const char* finish_reason_name(FinishReason reason);  // "stop", "length", "interrupted"

/// Of the model's own distribution, before any rule.
struct TokenLogprob {
  int64_t id = 0;
  float logprob = 0.0F;
  std::vector<std::pair<int64_t, float>> top;  // most likely first
};

/// A finished hypothesis of beam search.
struct ScoredTokens {
  std::vector<int64_t> tokens;
  double score = 0.0;  // sum of log-probabilities / length ^ length_penalty
};

struct Generated {
  std::vector<int64_t> tokens;  // new ids only; may end with a stop id
  FinishReason finish = FinishReason::kLength;
  std::vector<TokenLogprob> logprobs;  // of `tokens`, when asked for (not with beams)
  std::vector<ScoredTokens> beams;     // best first, with beams; the first is `tokens`
  at::Tensor prompt_logits_TV;         // [T, V] f32 when asked for
  GenerateTimings timings;
};

/// Can these ids be a prompt? DataError: none at all, more than max_positions (names both numbers).
void check_prompt_length(int64_t tokens, const LlamaConfig& config);
/// DataError naming the first id that is not below the vocabulary's size.
void check_token_ids(const std::vector<int64_t>& ids, const LlamaConfig& config);

/// on_token is called as each token is chosen (not with beams). Errors as check_prompt_length and
/// Llama::embed(); the last token is one that follows max_positions positions.
Generated generate(const Llama& llama, const Prompt& prompt, const GenerateOptions& options,
                   bool want_logits = false, const std::function<void(int64_t)>& on_token = {});

}  // namespace euromodal
