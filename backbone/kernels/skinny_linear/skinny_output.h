// skinny_output.h — the end of a tile of skinny_linear: the sums of a team's warps are added in
// order, and scale, bias, SwiGLU and residual follow. A thread has one output: 16 of x's rows times
// 16 of the tile (kSwiglu: 8, from a row of the gate and its row of up).
#pragma once
#include "backbone/kernels/skinny_linear/skinny_stage.h"

namespace euromodal::skinny {

template <int NT, bool kSwiglu>
struct Output {
  static constexpr int kRows = kSwiglu ? 2 : 1;  // of the weight
  static constexpr int kOutputs = 16 / kRows;    // of a tile
  int r, m;                                      // in the tile; row of x
  int64_t row, y;                                // of the outputs; place in y
  bool there;
  float scale[kRows], bias[kRows], residual;

  /// What will meet the sums is asked for before they are there.
  EM_DEVICE void begin(const Plan& p, int tile, int thread) {
    const int64_t outputs = kSwiglu ? p.a.N / 2 : p.a.N;
    r = thread % kOutputs;
    m = thread / kOutputs;
    row = static_cast<int64_t>(tile) * kOutputs + r;
    there = m < p.a.M && row < outputs;
    y = m * outputs + row;
    if (!there) return;
#pragma unroll
    for (int half = 0; half < kRows; ++half) {
      const int64_t of_weight = row + half * outputs;
      if (p.a.group == 0 && p.a.scale != nullptr)
        scale[half] = static_cast<const float*>(p.a.scale)[of_weight];
      if (p.a.bias_N != nullptr)
        bias[half] = to_float(static_cast<const Bf16*>(p.a.bias_N)[of_weight]);
    }
    if (p.a.residual_MN != nullptr)
      residual = to_float(static_cast<const Bf16*>(p.a.residual_MN)[y]);
  }

  /// `sums` [4, NT, 4, 32] of the warps, in a lane's order of the product. Row of the weight
  /// `half`.
  EM_DEVICE float finished(const Plan& p, const float* sums, int half) const {
    const int upper = kSwiglu ? half : r / 8;
    const float* at = sums + m / 8 * 128 + (upper * 2 + m % 2) * 32 + r % 8 * 4 + m % 8 / 2;
    float v = 0.0F;
#pragma unroll
    for (int w = 0; w < kWarps / 2; ++w) v += at[w * NT * 128];
    if (p.a.group == 0 && p.a.scale != nullptr) v *= scale[half];
    if (p.a.bias_N != nullptr) v += bias[half];
    return to_float(from_float<Bf16>(v));
  }

  EM_DEVICE void write(const Plan& p, const float* sums) const {
    if (!there) return;
    float v = finished(p, sums, 0);
    if constexpr (kSwiglu) {
      const float up = finished(p, sums, 1);
      const float silu = to_float(from_float<Bf16>(v / (1.0F + __expf(-v))));
      v = to_float(from_float<Bf16>(silu * up));
    }
    if (p.a.residual_MN != nullptr) v = to_float(from_float<Bf16>(v + residual));
    if (p.a.y_type == DType::kF32) {
      static_cast<float*>(p.a.y_MN)[y] = v;
    } else {
      static_cast<Bf16*>(p.a.y_MN)[y] = from_float<Bf16>(v);
    }
  }
};

}  // namespace euromodal::skinny
