// generator.cpp — prefill, then one token at a time. Only rows that are needed pass the head.
#include "inference/generator.h"

#include <algorithm>
#include <chrono>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "backbone/greedy.h"
#include "core/error.h"
#include "inference/beam_search.h"
#include "inference/decoding.h"
#include "inference/device_decode.h"
#include "inference/kept_sequences.h"

namespace euromodal {

namespace {

// Rows of prompt logits computed at once: 256 rows of a vocabulary of 128,000 are 131 MB.
constexpr int64_t kLogitRows = 256;

constexpr size_t kLongestMatch = 3;  // tokens that a guess goes on from

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Logits of hidden_CD into logits_CV, f32 on the CPU.
void write_logits(const Llama& llama, const at::Tensor& hidden_CD, const at::Tensor& logits_CV) {
  const int64_t rows = hidden_CD.size(0);
  for (int64_t begin = 0; begin < rows; begin += kLogitRows) {
    const int64_t count = std::min(kLogitRows, rows - begin);
    logits_CV.narrow(0, begin, count).copy_(llama.logits(hidden_CD.narrow(0, begin, count)));
  }
}

/// Runs the prompt, also into out.prompt_logits_TV -> the hidden row of its last token [1, D];
/// undefined when interrupted.
at::Tensor prefill_prompt(const Llama& llama, const Prompt& prompt, KvCache& cache,
                          const GenerateOptions& options, bool want_logits, Generated& out) {
  Prefill prefill = prompt.emb_TD.defined()
                        ? Prefill(llama, prompt.emb_TD, cache, options.prefill_rows)
                        : Prefill(llama, prompt.ids, cache, options.prefill_rows);
  const int64_t first = prefill.begin();
  if (want_logits)
    out.prompt_logits_TV =
        at::empty({static_cast<int64_t>(prompt.ids.size()), llama.config().vocab_size}, at::kFloat);
  at::Tensor hidden_CD;
  while (!prefill.done()) {
    const int64_t begin = prefill.begin();
    if (begin > first && options.interrupted && options.interrupted()) return {};
    hidden_CD = prefill.step();
    if (want_logits)
      write_logits(llama, hidden_CD, out.prompt_logits_TV.narrow(0, begin, hidden_CD.size(0)));
  }
  return hidden_CD.narrow(0, hidden_CD.size(0) - 1, 1);
}

std::vector<float> row_of(const at::Tensor& logits_RV, int64_t row) {
  const float* data = logits_RV.const_data_ptr<float>() + row * logits_RV.size(1);
  return {data, data + logits_RV.size(1)};
}

std::vector<int64_t> ids_of(const std::vector<std::pair<int64_t, double>>& bias) {
  std::vector<int64_t> ids;
  for (const auto& [id, value] : bias) ids.push_back(id);
  return ids;
}

/// At most `most` tokens that followed the last place where the text's last tokens stood before
/// (three of them, else two, else one). Reference: Saxena 2023, prompt lookup decoding.
std::vector<int64_t> guess_from_text(std::span<const int64_t> ids, int64_t most) {
  if (most <= 0) return {};
  for (size_t n = std::min(kLongestMatch, ids.size() - 1); n > 0; --n) {
    const auto last = ids.last(n);
    for (size_t begin = ids.size() - n; begin-- > 0;) {
      if (!std::equal(last.begin(), last.end(), ids.begin() + static_cast<int64_t>(begin)))
        continue;
      const auto after = ids.subspan(begin + n);
      const size_t count = std::min(after.size(), static_cast<size_t>(most));
      return {after.begin(), after.begin() + static_cast<int64_t>(count)};
    }
  }
  return {};
}

/// Decodes one sequence over its cache. With options.lookup the tokens that followed the same words
/// before are guessed and checked in one pass: as long as the guess is what would have been chosen,
/// each row of the pass gives a token. `sequence` ends as the text does.
void decode(const Llama& llama, Sequence& sequence, at::Tensor logits_RV, KvCache& cache,
            int64_t budget, const GenerateOptions& options,
            const std::function<void(int64_t)>& on_token, Generated& out) {
  std::vector<int64_t> guess;  // logits_RV: row 0 follows the last token, row i the i-th guess
  for (int64_t step = 0; step < budget;) {
    for (size_t row = 0;; ++row) {
      if (options.interrupted && options.interrupted()) {
        out.finish = FinishReason::kInterrupted;
        break;
      }
      std::vector<float> logits_V = row_of(logits_RV, static_cast<int64_t>(row));
      const std::vector<float> plain_V =
          options.logprobs >= 0 ? logits_V : std::vector<float>();  // before any rule
      apply_rules(logits_V, sequence, options);
      const int64_t id = choose_token(logits_V, options, step++);
      sequence.append(id, options);
      if (options.logprobs >= 0)
        out.logprobs.push_back(token_logprob(plain_V, id, options.logprobs));
      if (on_token) on_token(id);
      if (const auto reason = finish_reason(sequence, budget, options)) {
        out.finish = *reason;
        step = budget;
        break;
      }
      if (row < guess.size() && guess[row] == id) continue;  // its row is there already
      cache.truncate(cache.length() - static_cast<int64_t>(guess.size() - row));
      break;
    }
    if (out.finish == FinishReason::kInterrupted || step == budget) break;
    guess = guess_from_text(sequence.ids, std::min(options.lookup, budget - step - 1));
    std::vector<int64_t> rows = {sequence.ids.back()};
    rows.insert(rows.end(), guess.begin(), guess.end());
    logits_RV = decode_rows(llama, rows, cache);
    ++out.timings.steps;
  }
  const std::span<const int64_t> tokens = sequence.new_ids();
  out.tokens.assign(tokens.begin(), tokens.end());
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

namespace {

/// A cache that holds what is known of the prompt's beginning: all but its last row at most, which
/// says what comes next.
KvCache begin_cache(const Llama& llama, std::span<const int64_t> keys, const Prompt& prompt,
                    const GenerateOptions& options, KeptSequences* kept, bool on_decoder) {
  if (kept) {
    const size_t most = std::min(keys.size(), prompt.ids.size() - 1);
    if (auto known = kept->take(keys.first(most))) return std::move(*known);
  }
  return on_decoder ? options.decoder->make_cache() : llama.make_cache(options.int8_cache);
}

/// Keeps the cache of a prompt with `keys` and new tokens for those that come. The last token's row
/// may not be there, and rows of guesses that were wrong may be.
void keep_sequence(KeptSequences& kept, std::vector<int64_t> keys, int64_t prompt_tokens,
                   std::span<const int64_t> tokens, KvCache cache) {
  if (static_cast<int64_t>(keys.size()) == prompt_tokens && !tokens.empty())
    keys.insert(keys.end(), tokens.begin(), tokens.end() - 1);
  kept.keep(std::move(keys), std::move(cache));
}

}  // namespace

Generated generate(const Llama& llama, const Prompt& prompt, const GenerateOptions& options,
                   bool want_logits, const std::function<void(int64_t)>& on_token) {
  const c10::NoGradGuard no_grad;
  const auto prompt_tokens = static_cast<int64_t>(prompt.ids.size());
  check_prompt_length(prompt_tokens, llama.config());
  check(!prompt.emb_TD.defined() || prompt.emb_TD.size(0) == prompt_tokens,
        "generate: {} prompt ids but {} rows of embeddings", prompt_tokens,
        prompt.emb_TD.defined() ? prompt.emb_TD.size(0) : 0);
  check(static_cast<int64_t>(prompt.keys.size()) <= prompt_tokens, "generate: {} keys for {} rows",
        prompt.keys.size(), prompt_tokens);
  check(options.greedy || options.beams > 1 || options.temperature > 0.0,
        "generate: sampling needs a temperature above 0, got {}", options.temperature);

  check_token_ids(ids_of(options.logit_bias), llama.config());

  const auto prefill_start = std::chrono::steady_clock::now();
  const std::vector<int64_t>& keys = prompt.emb_TD.defined() ? prompt.keys : prompt.ids;
  const int64_t budget = token_budget(prompt_tokens, llama.config(), options);
  const bool on_decoder =
      options.decoder && options.beams == 1 && options.lookup == 0 && !want_logits && budget > 0;
  // What a decoder keeps lies in its own pages.
  KeptSequences* const kept = on_decoder || !options.decoder ? options.kept.get() : nullptr;
  Generated out;
  KvCache cache =
      begin_cache(llama, keys, prompt, options, want_logits ? nullptr : kept, on_decoder);
  if (on_decoder) {
    (void)options.decoder->release(0);  // an error may have ended the answer before this one
    reserve_pages(*options.decoder, kept, cache, prompt_tokens + budget - 1);
  }
  out.timings.reused_tokens = cache.length();
  const at::Tensor last_1D = prefill_prompt(llama, prompt, cache, options, want_logits, out);
  if (!last_1D.defined()) {
    out.finish = FinishReason::kInterrupted;
    out.timings.prefill_s = seconds_since(prefill_start);
  } else if (on_decoder) {
    out.timings.prefill_s = seconds_since(prefill_start);
    cache = decode_on_device(std::move(cache), last_1D, Sequence::of_prompt(prompt.ids, options),
                             budget, options, on_token, out);
    if (kept) keep_sequence(*kept, keys, prompt_tokens, out.tokens, std::move(cache));
  } else if (budget > 0) {
    const at::Tensor first_1V = checked_logits(llama, last_1D);
    out.timings.prefill_s = seconds_since(prefill_start);
    const auto decode_start = std::chrono::steady_clock::now();
    Sequence sequence = Sequence::of_prompt(prompt.ids, options);
    if (options.beams > 1) {
      if (kept) keep_sequence(*kept, keys, prompt_tokens, {}, cache.clone());
      beam_search(llama, std::move(sequence), first_1V, std::move(cache), budget, options, out);
    } else {
      decode(llama, sequence, first_1V, cache, budget, options, on_token, out);
      if (kept) keep_sequence(*kept, keys, prompt_tokens, out.tokens, std::move(cache));
    }
    out.timings.decode_s = seconds_since(decode_start);
  } else {
    out.timings.prefill_s = seconds_since(prefill_start);
  }
  out.timings.prompt_tokens = prompt_tokens;
  out.timings.new_tokens = static_cast<int64_t>(out.tokens.size());
  return out;
}

}  // namespace euromodal
