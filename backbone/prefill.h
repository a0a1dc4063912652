// prefill.h — a prompt on its way through the model, a piece at a time over its cache, so that what
// a pass makes is as large as a piece and not as the prompt. T prompt rows, C rows of a piece, D
// width.
#pragma once
#include <cstdint>
#include <span>

#include <ATen/core/Tensor.h>

#include "backbone/kv_cache.h"
#include "backbone/llama.h"

namespace euromodal {

/// Rows of one pass over a prompt where nobody says otherwise: enough that products are at full
/// speed, few enough that activations of wide models stay in tens of megabytes.
inline constexpr int64_t kPrefillRows = 512;

/// Attention over pieces and over the whole prompt sums in different orders, and so do products of
/// plain (not packed) weights with other numbers of rows: results agree to rounding, not in bits.
/// No gradient.
class Prefill {
 public:
  /// The rows of `ids` behind those that `cache` holds already (the first cache.length() ids are
  /// what it holds); both outlive this. Ids as Llama::embed().
  Prefill(const Llama& llama, std::span<const int64_t> ids, KvCache& cache,
          int64_t piece = kPrefillRows);
  /// The same of rows that are there: emb_TD [T, D], spliced media for instance.
  Prefill(const Llama& llama, const at::Tensor& emb_TD, KvCache& cache,
          int64_t piece = kPrefillRows);

  bool done() const { return next_ == rows_; }
  /// The first row of the next piece.
  int64_t begin() const { return next_; }
  /// Runs a piece -> its hidden rows behind the final norm [C, D]. Not when done.
  at::Tensor step();
  /// Runs what is left -> the hidden row of the last [1, D]. Not when done.
  at::Tensor last_row();

 private:
  const Llama& llama_;
  std::span<const int64_t> ids_;
  at::Tensor emb_TD_;  // undefined: embed(ids_)
  KvCache& cache_;
  int64_t piece_, rows_, next_;
};

}  // namespace euromodal
