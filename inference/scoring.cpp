// scoring.cpp — see scoring.h.
#include "inference/scoring.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "backbone/greedy.h"
#include "backbone/prefill.h"
#include "core/error.h"
#include "inference/generator.h"

namespace euromodal {

namespace {

constexpr int64_t kHeadRows = 256;  // 256 rows of a vocabulary of 128,000 are 131 MB

/// What score_text() and compare_models() walk over: windows, and blocks of head rows in them.
struct Walk {
  const std::vector<int64_t>& ids;
  int64_t window, stride;
  bool int8_cache;

  Walk(const Llama& llama, const std::vector<int64_t>& text, const ScoreOptions& options)
      : ids(text), int8_cache(options.int8_cache) {
    check_token_ids(ids, llama.config());
    const auto total = static_cast<int64_t>(ids.size()), longest = llama.config().max_positions;
    check<DataError>(total >= 2, "a text of {} tokens has nothing to score; at least 2 are needed",
                     total);
    window = options.window > 0 ? options.window : longest;
    check<ConfigError>(window >= 2 && window <= longest,
                       "a scoring window of {} tokens: expected 2 to {} (max_position_embeddings)",
                       window, longest);
    stride = options.stride > 0 ? options.stride : std::max<int64_t>(1, window / 2);
    check<ConfigError>(stride < window,
                       "a scoring stride of {} tokens must be below the window of {}", stride,
                       window);
  }

  /// Calls rows(log_p_RV of each model, the tokens that follow these rows).
  template <typename F>
  void run(const std::vector<const Llama*>& models, F&& rows) const {
    const auto total = static_cast<int64_t>(ids.size());
    int64_t scored = 1;  // tokens that have their score; the first has none
    for (int64_t begin = 0; scored < total; begin += stride) {
      const int64_t end = std::min(total, begin + window);
      const auto text =
          std::span(ids).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
      std::vector<KvCache> caches;
      for (size_t m = 0; m < models.size(); ++m)  // the last is the model in question
        caches.push_back(models[m]->make_cache(int8_cache && m + 1 == models.size()));
      std::vector<Prefill> passes;
      for (size_t m = 0; m < models.size(); ++m) passes.emplace_back(*models[m], text, caches[m]);
      while (!passes[0].done()) {
        const int64_t piece = begin + passes[0].begin();
        std::vector<at::Tensor> hidden_CD;
        for (Prefill& pass : passes) hidden_CD.push_back(pass.step());
        // Row t - 1 says of token t.
        const int64_t last = std::min(end, piece + hidden_CD[0].size(0) + 1);
        for (int64_t first = std::max(scored, piece + 1); first < last; first += kHeadRows) {
          const int64_t count = std::min(kHeadRows, last - first);
          std::vector<at::Tensor> log_p_RV;
          for (size_t m = 0; m < models.size(); ++m)
            log_p_RV.push_back(at::log_softmax(
                checked_logits(*models[m], hidden_CD[m].narrow(0, first - 1 - piece, count)), 1));
          rows(log_p_RV,
               std::span(ids).subspan(static_cast<size_t>(first), static_cast<size_t>(count)));
        }
      }
      scored = end;
    }
  }
};

/// Log-probability of the r-th token in the r-th row.
float log_p_of(const at::Tensor& log_p_RV, std::span<const int64_t> tokens, size_t r) {
  return log_p_RV.const_data_ptr<float>()[static_cast<int64_t>(r) * log_p_RV.size(1) + tokens[r]];
}

}  // namespace

double TextScore::sum() const { return std::accumulate(logprobs.begin(), logprobs.end(), 0.0); }

double TextScore::perplexity() const {
  return std::exp(-sum() / static_cast<double>(logprobs.size()));
}

TextScore score_text(const Llama& llama, const std::vector<int64_t>& ids,
                     const ScoreOptions& options) {
  const c10::NoGradGuard no_grad;
  TextScore out;
  Walk(llama, ids, options)
      .run({&llama}, [&](const std::vector<at::Tensor>& log_p_RV, std::span<const int64_t> tokens) {
        for (size_t r = 0; r < tokens.size(); ++r)
          out.logprobs.push_back(log_p_of(log_p_RV[0], tokens, r));
      });
  return out;
}

ModelDivergence compare_models(const Llama& reference, const Llama& model,
                               const std::vector<int64_t>& ids, const ScoreOptions& options) {
  const c10::NoGradGuard no_grad;
  check<DataError>(reference.config().vocab_size == model.config().vocab_size,
                   "the models have vocabularies of {} and {} tokens; only equal ones compare",
                   reference.config().vocab_size, model.config().vocab_size);
  ModelDivergence out;
  double kl = 0.0, agreed = 0.0, sum = 0.0, reference_sum = 0.0;
  Walk(model, ids, options)
      .run({&reference, &model},
           [&](const std::vector<at::Tensor>& log_p_RV, std::span<const int64_t> tokens) {
             const at::Tensor &p = log_p_RV[0], &q = log_p_RV[1];
             kl += p.exp().mul_(p - q).sum(at::kDouble).item<double>();
             agreed += p.argmax(1).eq(q.argmax(1)).sum().item<double>();
             for (size_t r = 0; r < tokens.size(); ++r) {
               reference_sum += log_p_of(p, tokens, r);
               sum += log_p_of(q, tokens, r);
             }
             out.tokens += static_cast<int64_t>(tokens.size());
           });
  const auto n = static_cast<double>(out.tokens);
  out.mean_kl = kl / n;
  out.top1_agreement = agreed / n;
  out.perplexity = std::exp(-sum / n);
  out.reference_perplexity = std::exp(-reference_sum / n);
  return out;
}

at::Tensor embed_text(const Llama& llama, const std::vector<int64_t>& ids) {
  const c10::NoGradGuard no_grad;
  check_token_ids(ids, llama.config());
  check_prompt_length(static_cast<int64_t>(ids.size()), llama.config());
  KvCache cache = llama.make_cache();
  at::Tensor sum_D = at::zeros({llama.config().hidden_size}, at::kDouble);
  for (Prefill prefill(llama, ids, cache); !prefill.done();)
    sum_D += prefill.step().sum(0, /*keepdim=*/false, at::kDouble).cpu();
  return (sum_D / static_cast<double>(ids.size())).to(at::kFloat);
}

}  // namespace euromodal
