// greedy.cpp — see greedy.h.
#include "backbone/greedy.h"

#include <algorithm>
#include <cmath>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "core/error.h"

namespace euromodal {

std::vector<float> last_logits(const Llama& llama, const at::Tensor& hidden_TD) {
  const at::Tensor logits_V =
      llama.logits(hidden_TD.narrow(0, hidden_TD.size(0) - 1, 1)).cpu().view({-1}).contiguous();
  const float* data = logits_V.const_data_ptr<float>();
  std::vector<float> out(data, data + logits_V.numel());
  for (float logit : out)
    check(std::isfinite(logit),
          "the model's logits are not finite; its weights may be damaged, or --dtype may be too "
          "narrow for them");
  return out;
}

std::vector<float> decode_step(const Llama& llama, int64_t id, KvCache& cache) {
  const at::Tensor ids_1 = at::full({1}, id, at::kLong).to(llama.embedding_VD().device());
  return last_logits(llama, llama.forward_cached(llama.embed(ids_1, Segments::one(1)), cache));
}

std::vector<int64_t> greedy_decode(const Llama& llama, const at::Tensor& prompt_emb_TD,
                                   int64_t max_new_tokens, const std::vector<int64_t>& stop_ids) {
  const c10::NoGradGuard no_grad;
  const int64_t prompt = prompt_emb_TD.size(0), room = llama.config().max_positions - prompt + 1;
  std::vector<int64_t> tokens;
  if (max_new_tokens < 1 || room < 1) return tokens;
  KvCache cache = llama.make_cache();
  std::vector<float> logits_V = last_logits(llama, llama.forward_cached(prompt_emb_TD, cache));
  while (true) {
    tokens.push_back(std::max_element(logits_V.begin(), logits_V.end()) - logits_V.begin());
    if (static_cast<int64_t>(tokens.size()) == std::min(max_new_tokens, room) ||
        std::find(stop_ids.begin(), stop_ids.end(), tokens.back()) != stop_ids.end())
      return tokens;
    logits_V = decode_step(llama, tokens.back(), cache);
  }
}

}  // namespace euromodal
