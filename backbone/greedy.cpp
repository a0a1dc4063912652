// greedy.cpp — see greedy.h.
#include "backbone/greedy.h"

#include <algorithm>
#include <cmath>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "backbone/prefill.h"
#include "core/error.h"

namespace euromodal {

at::Tensor checked_logits(const Llama& llama, const at::Tensor& hidden_RD) {
  at::Tensor logits_RV = llama.logits(hidden_RD).cpu().contiguous();
  const float* data = logits_RV.const_data_ptr<float>();
  const bool finite =
      std::all_of(data, data + logits_RV.numel(), [](float x) { return std::isfinite(x); });
  check(finite,
        "the model's logits are not finite; its weights may be damaged, or --dtype may be too "
        "narrow for them");
  return logits_RV;
}

at::Tensor decode_rows(const Llama& llama, const std::vector<int64_t>& ids, KvCache& cache) {
  const auto rows = Segments::one(static_cast<int64_t>(ids.size()));
  const at::Tensor ids_R = at::tensor(ids, at::kLong).to(llama.embedding_VD().device());
  return checked_logits(llama, llama.forward_cached(llama.embed(ids_R, rows), cache));
}

at::Tensor decode_step(const Llama& llama, const std::vector<int64_t>& ids,
                       std::span<KvCache* const> caches) {
  const auto rows = Segments::from_lengths(std::vector<int64_t>(ids.size(), 1));
  const at::Tensor ids_S = at::tensor(ids, at::kLong).to(llama.embedding_VD().device());
  return checked_logits(llama, llama.forward_cached(llama.embed(ids_S, rows), rows, caches));
}

std::vector<int64_t> greedy_decode(const Llama& llama, const at::Tensor& prompt_emb_TD,
                                   int64_t max_new_tokens, const std::vector<int64_t>& stop_ids) {
  const c10::NoGradGuard no_grad;
  const int64_t room = llama.config().max_positions - prompt_emb_TD.size(0) + 1;
  std::vector<int64_t> tokens;
  if (max_new_tokens < 1 || room < 1) return tokens;
  KvCache cache = llama.make_cache();
  at::Tensor logits_1V = checked_logits(llama, Prefill(llama, prompt_emb_TD, cache).last_row());
  while (true) {
    const float* data = logits_1V.const_data_ptr<float>();
    tokens.push_back(std::max_element(data, data + logits_1V.numel()) - data);
    if (static_cast<int64_t>(tokens.size()) == std::min(max_new_tokens, room) ||
        std::find(stop_ids.begin(), stop_ids.end(), tokens.back()) != stop_ids.end())
      return tokens;
    logits_1V = decode_rows(llama, {tokens.back()}, cache);
  }
}

}  // namespace euromodal
