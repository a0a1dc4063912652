// quantize_inputs.cpp — see quantize_inputs.h.
#include "backbone/kernels/packed_linear/quantize_inputs.h"

#include <algorithm>
#include <cmath>

#include "backbone/kernels/largest_size.h"
#include "backbone/kernels/simd.h"

namespace euromodal {

namespace {

/// `count` inputs, the last group of a row may be short.
template <typename T>
[[gnu::always_inline]] inline void quantize_group(const T* x, int64_t count, int8_t* codes,
                                                  float& scale, int32_t& sum) {
  const float largest = largest_size(x, count);
  if (std::isnan(largest)) {  // the scale spoils the row
    std::fill(codes, codes + count, int8_t{0});
    scale = largest;
    sum = 0;
    return;
  }
  const float inverse = largest > 0.0F ? 127.0F / largest : 0.0F;
  scale = largest / 127.0F;
  int32_t total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < count; ++i) {
    // (a trick with a large number added would be fused with the product, and round once)
    const float nearest = std::nearbyint(static_cast<float>(x[i]) * inverse);
    const int32_t code = static_cast<int32_t>(nearest);
    codes[i] = static_cast<int8_t>(code);
    total += code;
  }
  sum = total;
}

template <typename T>
[[gnu::always_inline]] inline void quantize_groups(const InputGroups<T>& a) {
  for (int64_t g = a.begin; g < a.end; ++g) {
    const int64_t from = g % a.groups * a.group, count = std::min(a.group, a.inputs - from);
    int8_t* codes = a.codes_TI + g * a.group;
    quantize_group(a.x_TI + g / a.groups * a.inputs + from, count, codes, a.scale_TG[g],
                   a.sum_TG[g]);
    std::fill(codes + count, codes + a.group, int8_t{0});
  }
}

}  // namespace

EM_CPU_CLONES void quantize_inputs(const InputGroups<float>& a) { quantize_groups(a); }
EM_CPU_CLONES void quantize_inputs(const InputGroups<c10::BFloat16>& a) { quantize_groups(a); }
EM_CPU_CLONES void quantize_inputs(const InputGroups<c10::Half>& a) { quantize_groups(a); }

}  // namespace euromodal
