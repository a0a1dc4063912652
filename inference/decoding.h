// decoding.h — one sequence that is being decoded, and what every decoder does with it: the rules
// applied to its logits, the token added, the question whether it has ended. V vocabulary.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "backbone/llama.h"
#include "inference/generator.h"

namespace euromodal {

struct Sequence {
  std::vector<int64_t> ids;  // prompt and new tokens
  int64_t prompt_tokens = 0;
  TokenGrammar::State constraint = 0;  // where options.grammar stands

  static Sequence of_prompt(std::vector<int64_t> ids, const GenerateOptions& options);
  std::span<const int64_t> new_ids() const {
    return std::span(ids).subspan(static_cast<size_t>(prompt_tokens));
  }
  void append(int64_t id, const GenerateOptions& options);
};

/// In this order: bias, repetition penalty, banned n-grams, presence and frequency penalty, the
/// grammar.
void apply_rules(std::span<float> scores_V, const Sequence& sequence,
                 const GenerateOptions& options);

/// The next token of a row that apply_rules() has been through. `step` counts new tokens: draw
/// number `step` of the seed.
int64_t choose_token(std::span<float> logits_V, const GenerateOptions& options, int64_t step);

/// Why the text ends behind the last of the new tokens; nothing: it goes on.
std::optional<FinishReason> finish_reason(const Sequence& sequence, int64_t budget,
                                          const GenerateOptions& options);

/// max_new_tokens, cut where the model's positions end: the last token chosen takes none.
int64_t token_budget(int64_t prompt_tokens, const LlamaConfig& config,
                     const GenerateOptions& options);

/// What the row says of `id` before any rule, and its `top` most likely tokens.
TokenLogprob token_logprob(std::span<const float> logits_V, int64_t id, int64_t top);

}  // namespace euromodal
