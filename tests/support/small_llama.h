// small_llama.h — the config of a backbone that tests make up.
#pragma once
#include "backbone/llama_config.h"

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

}  // namespace euromodal::testing_support
