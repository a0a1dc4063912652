// rope.h — rotary position embedding (Su et al. 2021) in the half-split layout of Hugging Face's
// Llama, with its scalings.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace euromodal {

/// What config.json says of RoPE; every `type` other than those named is refused when the config is
/// read.
struct RopeConfig {
  std::string type = "default";  // default, linear, dynamic, llama3, yarn, longrope
  double theta = 10000.0;
  double factor = 1.0;        // all but default
  int64_t head_dim = 0;       // N
  int64_t max_positions = 0;  // max_position_embeddings
  int64_t original_max_positions =
      0;  // dynamic, llama3, yarn: original_max_position_embeddings (else max_positions)
  double low_freq_factor = 1.0, high_freq_factor = 4.0;  // llama3
  double beta_fast = 32.0, beta_slow = 1.0,
         attention_factor =
             -1.0;  // yarn; attention_factor < 0: from factor, mscale, mscale_all_dim
  double mscale = 0.0, mscale_all_dim = 0.0;
  bool truncate = true;
  std::vector<double> divisors{};  // longrope: what each of the N / 2 frequencies is divided by
};

struct RopeTable {
  at::Tensor
      cos_PN;  // [P, N] f32, one row a position (both halves alike), times the attention factor
  at::Tensor sin_PN;  // [P, N] f32
};

/// Rows 0 .. positions-1. `dynamic` depends on the length of the whole sequence: sequence_length is
/// what transformers would use (max(length, original)).
RopeTable rope_table(const RopeConfig& config, int64_t positions, int64_t sequence_length);

/// Rotates x_THN [T, H, N] by the rows positions_T [T] i64 of the table; computed in fp32 tables
/// cast to x's dtype as transformers does. Differentiable in x.
at::Tensor rope(const at::Tensor& x_THN, const RopeTable& table, const at::Tensor& positions_T);

}  // namespace euromodal
