// sampling.h — how the next token is chosen from one row of logits. Pure functions; each does what
// the logits processor of transformers named beside it does, ties included. V vocabulary.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "core/rng.h"

namespace euromodal {

/// RepetitionPenaltyLogitsProcessor: each id of `seen`, once: logits above 0 are divided by
/// `penalty`, those below multiplied. Ids outside the row (media placeholders) count for nothing.
void penalize_repetition(std::span<float> logits_V, std::span<const int64_t> seen, double penalty);

/// NoRepeatNGramLogitsProcessor: -inf for every token that would complete an n-gram which `seen`
/// already holds. n = 0: nothing.
void ban_repeated_ngrams(std::span<float> logits_V, std::span<const int64_t> seen, int64_t n);

/// OpenAI's presence and frequency penalties: every id of `seen` (the new tokens) loses `presence`
/// once and `frequency` for each time that it came.
void penalize_presence(std::span<float> logits_V, std::span<const int64_t> seen, double presence,
                       double frequency);

/// TemperatureLogitsWarper: logits / temperature (> 0).
void apply_temperature(std::span<float> logits_V, double temperature);

/// TopKLogitsWarper: -inf for every logit below the k-th largest (its equals stay). k = 0: nothing.
void keep_top_k(std::span<float> logits_V, int64_t k);

/// TopPLogitsWarper: keeps the smallest set of most likely tokens whose probabilities reach p, at
/// least one; of equal ones the higher ids. p = 1: nothing.
void keep_top_p(std::span<float> logits_V, double p);

/// MinPLogitsWarper: -inf for every token less likely than `p` times the most likely one; that one
/// stays. p = 0: nothing.
void keep_min_p(std::span<float> logits_V, double p);

/// TypicalLogitsWarper (Meister et al. 2022): keeps the tokens whose surprise is nearest to the
/// row's entropy until their probabilities reach p, at least one. p = 1: nothing.
void keep_typical(std::span<float> logits_V, double p);

/// Index of the largest logit, the first of equals.
int64_t most_likely(std::span<const float> logits_V);

/// Draws from softmax(logits) with one number of `rng`. Error when no token is left.
int64_t draw_token(std::span<const float> logits_V, Rng& rng);

/// log(softmax(logits)) in place.
void log_softmax(std::span<float> logits_V);

}  // namespace euromodal
