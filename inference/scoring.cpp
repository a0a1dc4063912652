// scoring.cpp — see scoring.h.
#include "inference/scoring.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "backbone/greedy.h"
#include "core/error.h"
#include "inference/generator.h"

namespace euromodal {

namespace {

constexpr int64_t kHeadRows = 256;   // 256 rows of a vocabulary of 128,000 are 131 MB
constexpr int64_t kChunkRows = 512;  // of one pass through the blocks

/// Final hidden rows of one window, in chunks over a cache of its own.
at::Tensor window_rows(const Llama& llama, const std::vector<int64_t>& ids) {
  KvCache cache = llama.make_cache();
  std::vector<at::Tensor> out;
  for (size_t begin = 0; begin < ids.size(); begin += kChunkRows) {
    const size_t end = std::min(ids.size(), begin + kChunkRows);
    const std::vector<int64_t> part(ids.begin() + static_cast<int64_t>(begin),
                                    ids.begin() + static_cast<int64_t>(end));
    const at::Tensor ids_C = at::tensor(part, at::kLong).to(llama.embedding_VD().device());
    const auto rows = Segments::one(static_cast<int64_t>(part.size()));
    out.push_back(llama.forward_cached(llama.embed(ids_C, rows), cache));
  }
  return out.size() == 1 ? out[0] : at::cat(out, 0);
}

}  // namespace

double TextScore::sum() const { return std::accumulate(logprobs.begin(), logprobs.end(), 0.0); }

double TextScore::perplexity() const {
  return std::exp(-sum() / static_cast<double>(logprobs.size()));
}

TextScore score_text(const Llama& llama, const std::vector<int64_t>& ids,
                     const ScoreOptions& options) {
  const c10::NoGradGuard no_grad;
  check_token_ids(ids, llama.config());
  const auto total = static_cast<int64_t>(ids.size());
  check<DataError>(total >= 2, "a text of {} tokens has nothing to score; at least 2 are needed",
                   total);
  const int64_t longest = llama.config().max_positions,
                window = options.window > 0 ? options.window : longest;
  check<ConfigError>(window >= 2 && window <= longest,
                     "a scoring window of {} tokens: expected 2 to {} (max_position_embeddings)",
                     window, longest);
  const int64_t stride = options.stride > 0 ? options.stride : std::max<int64_t>(1, window / 2);
  check<ConfigError>(stride < window,
                     "a scoring stride of {} tokens must be below the window of {}", stride,
                     window);
  TextScore out;
  int64_t scored = 1;  // tokens that have their score; the first has none
  for (int64_t begin = 0; scored < total; begin += stride) {
    const int64_t end = std::min(total, begin + window);
    const at::Tensor hidden_WD = window_rows(llama, {ids.begin() + begin, ids.begin() + end});
    for (int64_t first = scored; first < end; first += kHeadRows) {  // row t - 1 says of token t
      const int64_t count = std::min(kHeadRows, end - first);
      const at::Tensor log_p_RV =
          at::log_softmax(checked_logits(llama, hidden_WD.narrow(0, first - 1 - begin, count)), 1);
      for (int64_t r = 0; r < count; ++r)
        out.logprobs.push_back(log_p_RV[r][ids[static_cast<size_t>(first + r)]].item<float>());
    }
    scored = end;
  }
  return out;
}

at::Tensor embed_text(const Llama& llama, const std::vector<int64_t>& ids) {
  const c10::NoGradGuard no_grad;
  check_token_ids(ids, llama.config());
  check_prompt_length(static_cast<int64_t>(ids.size()), llama.config());
  return window_rows(llama, ids).to(at::kFloat).mean(0).cpu();
}

}  // namespace euromodal
