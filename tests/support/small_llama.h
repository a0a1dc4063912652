// small_llama.h — backbones that tests make up: a config of a few numbers, and a drawn model.
#pragma once
#include <memory>
#include <utility>
#include <vector>

#include "backbone/llama.h"
#include "tests/support/gradcheck.h"

namespace euromodal::testing_support {

struct LlamaShape {
  int64_t V, D, F, layers, H, K, N, positions;
};

inline LlamaConfig llama_config(const LlamaShape& shape) {
  LlamaConfig out;
  out.vocab_size = shape.V;
  out.hidden_size = shape.D;
  out.intermediate_size = shape.F;
  out.num_layers = shape.layers;
  out.num_heads = shape.H;
  out.num_kv_heads = shape.K;
  out.head_dim = out.rope.head_dim = shape.N;
  out.max_positions = out.rope.max_positions = shape.positions;
  return out;
}

struct DrawnLlama {
  uint64_t seed = 100;
  double scale = 0.3;  // of all values, norms too
};

/// f32, every tensor drawn: a model as it starts has projections of zeros.
inline TextModel small_llama(const LlamaShape& shape, DrawnLlama drawn = {}) {
  TextModel out = random_text_model(llama_config(shape), 3);
  for (const NamedTensor& p : out.parameters)
    p.tensor.copy_(randn(p.tensor.sizes(), ++drawn.seed, at::kFloat).mul_(drawn.scale));
  return out;
}

/// `config` in `dtype`, every tensor drawn too, in memory of its own as read from a folder.
inline TextModel drawn_model(const LlamaConfig& config, at::ScalarType dtype) {
  TextModel out = random_text_model(config, 1);
  std::vector<NamedTensor> tensors;
  uint64_t seed = 1;
  for (const NamedTensor& p : out.parameters)
    tensors.push_back({p.name, randn(p.tensor.sizes(), ++seed).mul_(0.2).to(dtype)});
  Weights weights = Weights::from_tensors(std::move(tensors), dtype);
  out.llama = std::make_unique<Llama>(out.config, weights.scope());
  out.parameters = weights.taken();
  return out;
}

}  // namespace euromodal::testing_support
