// decoding.cpp — see decoding.h.
#include "inference/decoding.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/rng.h"
#include "inference/sampling.h"

namespace euromodal {

Sequence Sequence::of_prompt(std::vector<int64_t> ids, const GenerateOptions& options) {
  Sequence out;
  out.prompt_tokens = static_cast<int64_t>(ids.size());
  out.ids = std::move(ids);
  if (options.grammar) out.constraint = options.grammar->start();
  return out;
}

void Sequence::append(int64_t id, const GenerateOptions& options) {
  ids.push_back(id);
  if (options.grammar) constraint = options.grammar->advance(constraint, id, options.stop_ids);
}

void apply_rules(std::span<float> scores_V, const Sequence& sequence,
                 const GenerateOptions& options) {
  for (const auto& [id, bias] : options.logit_bias)
    scores_V[static_cast<size_t>(id)] += static_cast<float>(bias);
  penalize_repetition(scores_V, sequence.ids, options.repetition_penalty);
  ban_repeated_ngrams(scores_V, sequence.ids, options.no_repeat_ngram);
  penalize_presence(scores_V, sequence.new_ids(), options.presence_penalty,
                    options.frequency_penalty);
  if (options.grammar) options.grammar->mask(scores_V, sequence.constraint, options.stop_ids);
}

int64_t choose_token(std::span<float> logits_V, const GenerateOptions& options, int64_t step) {
  if (options.greedy) return most_likely(logits_V);
  apply_temperature(logits_V, options.temperature);
  keep_top_k(logits_V, options.top_k);
  keep_top_p(logits_V, options.top_p);
  keep_min_p(logits_V, options.min_p);
  keep_typical(logits_V, options.typical_p);
  Rng rng = Rng(options.seed).fork("sample", static_cast<uint64_t>(step));
  return draw_token(logits_V, rng);
}

std::optional<FinishReason> finish_reason(const Sequence& sequence, int64_t budget,
                                          const GenerateOptions& options) {
  const std::span<const int64_t> tokens = sequence.new_ids();
  const auto& stops = options.stop_ids;
  if (std::find(stops.begin(), stops.end(), tokens.back()) != stops.end())
    return FinishReason::kStop;
  if (options.ends_text && options.ends_text(tokens)) return FinishReason::kStop;
  if (options.grammar && options.grammar->complete(sequence.constraint)) return FinishReason::kStop;
  if (static_cast<int64_t>(tokens.size()) >= budget) return FinishReason::kLength;
  return std::nullopt;
}

int64_t token_budget(int64_t prompt_tokens, const LlamaConfig& config,
                     const GenerateOptions& options) {
  return std::min(options.max_new_tokens, config.max_positions - prompt_tokens + 1);
}

TokenLogprob token_logprob(std::span<const float> logits_V, int64_t id, int64_t top) {
  std::vector<float> log_p(logits_V.begin(), logits_V.end());
  log_softmax(log_p);
  TokenLogprob out{id, log_p[static_cast<size_t>(id)], {}};
  std::vector<int64_t> order(log_p.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  const auto count = std::min<int64_t>(top, static_cast<int64_t>(order.size()));
  std::partial_sort(order.begin(), order.begin() + count, order.end(), [&](int64_t a, int64_t b) {
    const float pa = log_p[static_cast<size_t>(a)], pb = log_p[static_cast<size_t>(b)];
    return pa != pb ? pa > pb : a < b;
  });
  for (int64_t i = 0; i < count; ++i) {
    const int64_t v = order[static_cast<size_t>(i)];
    out.top.emplace_back(v, log_p[static_cast<size_t>(v)]);
  }
  return out;
}

const char* finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kInterrupted:
      return "interrupted";
  }
  return "";
}

}  // namespace euromodal
