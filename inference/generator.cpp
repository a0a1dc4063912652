// generator.cpp — prefill, then one token at a time. Only rows that are needed pass the head.
#include "inference/generator.h"

#include <chrono>
#include <cmath>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "core/error.h"
#include "core/rng.h"
#include "inference/beam_search.h"
#include "inference/decoding.h"
#include "inference/sampling.h"

namespace euromodal {

namespace {

// Rows of prompt logits computed at once: 256 rows of a vocabulary of 128,000 are 131 MB.
constexpr int64_t kLogitRows = 256;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// hidden_TD -> logits [T, V] f32 on the CPU.
at::Tensor all_logits(const Llama& llama, const at::Tensor& hidden_TD) {
  const int64_t rows = hidden_TD.size(0);
  at::Tensor logits_TV = at::empty({rows, llama.config().vocab_size}, at::kFloat);
  for (int64_t begin = 0; begin < rows; begin += kLogitRows) {
    const int64_t count = std::min(kLogitRows, rows - begin);
    logits_TV.narrow(0, begin, count).copy_(llama.logits(hidden_TD.narrow(0, begin, count)));
  }
  return logits_TV;
}

int64_t choose_token(std::span<float> logits_V, const GenerateOptions& options, int64_t step) {
  if (options.greedy) return most_likely(logits_V);
  apply_temperature(logits_V, options.temperature);
  keep_top_k(logits_V, options.top_k);
  keep_top_p(logits_V, options.top_p);
  Rng rng = Rng(options.seed).fork("sample", static_cast<uint64_t>(step));
  return draw_token(logits_V, rng);
}

std::vector<int64_t> decode(const Llama& llama, std::vector<int64_t> seen,
                            std::vector<float> logits_V, KvCache& cache, int64_t budget,
                            const GenerateOptions& options,
                            const std::function<void(int64_t)>& on_token) {
  std::vector<int64_t> tokens;
  for (int64_t step = 0; step < budget; ++step) {
    if (options.interrupted && options.interrupted()) break;
    if (step > 0) logits_V = decode_step(llama, tokens.back(), cache);
    apply_penalties(logits_V, seen, options);
    const int64_t id = choose_token(logits_V, options, step);
    tokens.push_back(id);
    seen.push_back(id);
    if (on_token) on_token(id);
    if (is_stop(id, options)) break;
  }
  return tokens;
}

}  // namespace

void check_prompt_length(int64_t tokens, const LlamaConfig& config) {
  check<DataError>(tokens > 0, "the prompt has no tokens; give at least one");
  check<DataError>(tokens <= config.max_positions,
                   "the prompt has {} tokens, the model takes at most {} "
                   "(max_position_embeddings)",
                   tokens, config.max_positions);
}

void check_token_ids(const std::vector<int64_t>& ids, const LlamaConfig& config) {
  for (int64_t id : ids)
    check<DataError>(id >= 0 && id < config.vocab_size,
                     "token id {} is outside the model's vocabulary of {} tokens", id,
                     config.vocab_size);
}

void apply_penalties(std::span<float> scores_V, std::span<const int64_t> seen,
                     const GenerateOptions& options) {
  penalize_repetition(scores_V, seen, options.repetition_penalty);
  ban_repeated_ngrams(scores_V, seen, options.no_repeat_ngram);
}

bool is_stop(int64_t id, const GenerateOptions& options) {
  return std::find(options.stop_ids.begin(), options.stop_ids.end(), id) != options.stop_ids.end();
}

int64_t token_budget(int64_t prompt_tokens, const LlamaConfig& config,
                     const GenerateOptions& options) {
  return std::min(options.max_new_tokens, config.max_positions - prompt_tokens + 1);
}

Generated generate(const Llama& llama, const std::vector<int64_t>& prompt_ids,
                   const at::Tensor& prompt_emb_TD, const GenerateOptions& options,
                   bool want_logits, const std::function<void(int64_t)>& on_token) {
  const c10::NoGradGuard no_grad;
  const int64_t prompt_tokens = prompt_emb_TD.size(0);
  check_prompt_length(prompt_tokens, llama.config());
  check(static_cast<int64_t>(prompt_ids.size()) == prompt_tokens,
        "generate: {} prompt ids but {} rows of embeddings", prompt_ids.size(), prompt_tokens);
  check(options.greedy || options.beams > 1 || options.temperature > 0.0,
        "generate: sampling needs a temperature above 0, got {}", options.temperature);

  Generated out;
  out.timings.prompt_tokens = prompt_tokens;
  const auto prefill_start = std::chrono::steady_clock::now();
  KvCache cache = llama.make_cache();
  const at::Tensor hidden_TD = llama.forward_cached(prompt_emb_TD, cache);
  if (want_logits) out.prompt_logits_TV = all_logits(llama, hidden_TD);
  const int64_t budget = token_budget(prompt_tokens, llama.config(), options);
  if (budget > 0) {
    std::vector<float> first_V = last_logits(llama, hidden_TD);
    out.timings.prefill_s = seconds_since(prefill_start);
    const auto decode_start = std::chrono::steady_clock::now();
    out.tokens =
        options.beams > 1
            ? beam_search(llama, prompt_ids, std::move(first_V), std::move(cache), budget, options)
            : decode(llama, prompt_ids, std::move(first_V), cache, budget, options, on_token);
    out.timings.decode_s = seconds_since(decode_start);
  } else {
    out.timings.prefill_s = seconds_since(prefill_start);
  }
  out.timings.new_tokens = static_cast<int64_t>(out.tokens.size());
  return out;
}

}  // namespace euromodal
