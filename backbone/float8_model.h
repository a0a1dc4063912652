// float8_model.h — the frozen linears of a text model in float8 (backbone/kernels/linear/
// float8_weight.h): half the memory of bfloat16 for training adapters or a LoRA on top of them.
#pragma once
#include "backbone/llama.h"

namespace euromodal {

/// Names of scales among the parameters: "model.layers.0.self_attn.q_proj.weight_scale".
inline constexpr const char* kFloat8ScaleSuffix = "_scale";

/// Rounds the linears of all blocks, one after the other; embedding, norms, head and LoRA stay. The
/// scales join the parameters, each behind its weight. Error naming the linear: packed, or weights
/// that are not finite.
void round_blocks_to_float8(TextModel& model);

/// The parameters as a model folder has them: float8 weights widened to the model's dtype, no
/// scales. Others are the same handles.
std::vector<NamedTensor> plain_parameters(const TextModel& model);

}  // namespace euromodal
