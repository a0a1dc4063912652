// scoring.h — what a model makes of a given text: log-probabilities of its tokens, perplexity, and
// one vector for the whole of it. T tokens, D width.
#pragma once
#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/llama.h"

namespace euromodal {

/// How a text that is longer than the window is cut: each window but the first scores what the one
/// before has not seen and reads `window - stride` tokens before it.
struct ScoreOptions {
  int64_t window = 0;       // tokens of one pass; 0: max_position_embeddings
  int64_t stride = 0;       // 0: half of the window
  bool int8_cache = false;  // keys and values of the model (not of a reference) as int8; CPU only
};

struct TextScore {
  std::vector<float> logprobs;  // [T - 1]: of ids[1], ids[2], ...; natural logarithms
  double sum() const;
  double perplexity() const;  // exp(-mean)
};

/// ids [T], inside the vocabulary (DataError), T >= 2 (DataError). Sums in f32 over rows of the
/// head that are made a block at a time.
TextScore score_text(const Llama& llama, const std::vector<int64_t>& ids,
                     const ScoreOptions& options = {});

/// How far a model (a quantised one) is from another on the same text.
struct ModelDivergence {
  int64_t tokens = 0;           // rows compared
  double mean_kl = 0.0;         // of KL(reference || model), natural logarithms
  double top1_agreement = 0.0;  // share of rows whose most likely token is the same
  double perplexity = 0.0, reference_perplexity = 0.0;
};

/// Both of one vocabulary (DataError). ids and errors as score_text().
ModelDivergence compare_models(const Llama& reference, const Llama& model,
                               const std::vector<int64_t>& ids, const ScoreOptions& options = {});

/// Mean of the hidden rows behind the final norm, ids [T] with T from 1 to max_position_embeddings
/// -> [D] f32.
at::Tensor embed_text(const Llama& llama, const std::vector<int64_t>& ids);

}  // namespace euromodal
