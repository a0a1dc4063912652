// packed_linear_ref.cpp — see packed_linear_ref.h. One output at a time, codes read one by one.
#include "backbone/kernels/packed_linear/packed_linear_ref.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include <ATen/ATen.h>

namespace euromodal {

namespace {

/// Code of output o and input i.
int code_at(const PackedWeight& w, const uint8_t* blocks, int64_t o, int64_t i) {
  const PackedLayout layout = w.layout();
  const bool four = w.form.form == WeightForm::kInt4;
  const uint8_t* block = blocks + o / kPackedOutputs * layout.block + layout.codes;
  const int64_t step = four ? i / 8 : i / 4;
  const int byte = block[(step * kPackedOutputs + o % kPackedOutputs) * 4 + i % 4];
  return !four ? byte : i % 8 < 4 ? byte & 15 : byte >> 4;
}

float dot(const PackedWeight& w, const uint8_t* blocks, int64_t o, const std::vector<float>& x) {
  const PackedLayout layout = w.layout();
  const uint8_t* block = blocks + o / kPackedOutputs * layout.block;
  const int64_t lane = o % kPackedOutputs, inputs = static_cast<int64_t>(x.size());
  float sum = 0.0F;
  for (int64_t g = 0; g < layout.groups; ++g) {
    const int64_t begin = g * w.form.group, end = std::min(begin + w.form.group, inputs);
    float largest = 0.0F;
    for (int64_t i = begin; i < end; ++i)
      largest = std::max(largest, std::fabs(x[static_cast<size_t>(i)]));
    const float inverse = largest > 0.0F ? 127.0F / largest : 0.0F;
    const int zero = w.form.asymmetric ? block[layout.zeros + g * kPackedOutputs + lane]
                     : w.form.form == WeightForm::kInt4 ? 8
                                                        : 128;
    int exact = 0;
    for (int64_t i = begin; i < end; ++i)
      exact += static_cast<int>(std::nearbyint(x[static_cast<size_t>(i)] * inverse)) *
               (code_at(w, blocks, o, i) - zero);
    c10::Half scale;
    std::memcpy(&scale.x, block + (g * kPackedOutputs + lane) * 2, 2);
    sum = std::fma(static_cast<float>(exact), static_cast<float>(scale) * (largest / 127.0F), sum);
  }
  return sum;
}

}  // namespace

at::Tensor packed_linear_ref(const at::Tensor& x_TI, const PackedWeight& weight,
                             const at::Tensor& bias_O) {
  at::Tensor y_TO;
  if (weight.form.form == WeightForm::kBf16) {
    y_TO = at::mm(x_TI.to(at::kDouble), unpack_weight(weight, at::kDouble).t());
  } else {
    const at::Tensor x = x_TI.to(at::kFloat).contiguous();
    const auto* blocks = weight.blocks.const_data_ptr<uint8_t>();
    y_TO = at::empty({x.size(0), weight.outputs}, at::kFloat);
    for (int64_t t = 0; t < x.size(0); ++t) {
      const float* row = x.const_data_ptr<float>() + t * weight.inputs;
      const std::vector<float> inputs(row, row + weight.inputs);
      for (int64_t o = 0; o < weight.outputs; ++o)
        y_TO.mutable_data_ptr<float>()[t * weight.outputs + o] = dot(weight, blocks, o, inputs);
    }
  }
  if (bias_O.defined()) y_TO = y_TO + bias_O.to(y_TO.scalar_type());
  return y_TO.to(x_TI.scalar_type());
}

}  // namespace euromodal
