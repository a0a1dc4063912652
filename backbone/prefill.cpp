// prefill.cpp — see prefill.h.
#include "backbone/prefill.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "core/error.h"

namespace euromodal {

namespace {

void prefill_check(int64_t rows, int64_t held, int64_t piece) {
  check(piece > 0 && held < rows,
        "Prefill: {} prompt rows behind {} in the cache, in pieces of {}; expected rows that are "
        "not there yet and pieces of at least one",
        rows, held, piece);
}

}  // namespace

Prefill::Prefill(const Llama& llama, std::span<const int64_t> ids, KvCache& cache, int64_t piece)
    : llama_(llama),
      ids_(ids),
      cache_(cache),
      piece_(piece),
      rows_(static_cast<int64_t>(ids.size())),
      next_(cache.length()) {
  prefill_check(rows_, next_, piece_);
}

Prefill::Prefill(const Llama& llama, const at::Tensor& emb_TD, KvCache& cache, int64_t piece)
    : llama_(llama),
      emb_TD_(emb_TD),
      cache_(cache),
      piece_(piece),
      rows_(emb_TD.size(0)),
      next_(cache.length()) {
  prefill_check(rows_, next_, piece_);
}

at::Tensor Prefill::step() {
  const c10::NoGradGuard no_grad;
  const int64_t count = std::min(piece_, rows_ - next_);
  check(count > 0, "Prefill::step: all {} rows have been through", rows_);
  at::Tensor emb_CD;
  if (emb_TD_.defined()) {
    emb_CD = emb_TD_.narrow(0, next_, count);
  } else {
    const auto part = ids_.subspan(static_cast<size_t>(next_), static_cast<size_t>(count));
    const std::vector<int64_t> ids(part.begin(), part.end());
    emb_CD = llama_.embed(at::tensor(ids, at::kLong), Segments::one(count));
  }
  at::Tensor hidden_CD = llama_.forward_cached(emb_CD, cache_);
  next_ += count;
  return hidden_CD;
}

at::Tensor Prefill::last_row() {
  at::Tensor hidden_CD;
  do {
    hidden_CD = step();
  } while (!done());
  return hidden_CD.narrow(0, hidden_CD.size(0) - 1, 1);
}

}  // namespace euromodal
