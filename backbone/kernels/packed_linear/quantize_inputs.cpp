// quantize_inputs.cpp — see quantize_inputs.h.
#include "backbone/kernels/packed_linear/quantize_inputs.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "backbone/kernels/simd.h"

namespace euromodal {

namespace {

constexpr int64_t kInputRowsGrain = 16;

template <typename T>
struct InputRows {
  const T* x;
  int64_t inputs, groups, group;
  int8_t* codes;
  float* scale;
  int32_t* sum;
};

/// `count` inputs, the last group of a row may be short.
template <typename T>
[[gnu::always_inline]] inline void quantize_group(const T* x, int64_t count, int8_t* codes,
                                                  float& scale, int32_t& sum) {
  float largest = 0.0F;
  int32_t infinite = 0;
#pragma omp simd reduction(max : largest) reduction(| : infinite)
  for (int64_t i = 0; i < count; ++i) {
    const float size = std::fabs(static_cast<float>(x[i]));
    largest = size > largest ? size : largest;
    infinite |= size <= std::numeric_limits<float>::max() ? 0 : 1;  // also NaN
  }
  if (infinite != 0) {  // the scale spoils the row
    std::fill(codes, codes + count, int8_t{0});
    scale = std::numeric_limits<float>::quiet_NaN();
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
[[gnu::always_inline]] inline void quantize_row(const InputRows<T>& a, int64_t t) {
  for (int64_t g = 0; g < a.groups; ++g) {
    const int64_t begin = g * a.group, count = std::min(a.group, a.inputs - begin);
    int8_t* codes = a.codes + (t * a.groups + g) * a.group;
    quantize_group(a.x + t * a.inputs + begin, count, codes, a.scale[t * a.groups + g],
                   a.sum[t * a.groups + g]);
    std::fill(codes + count, codes + a.group, int8_t{0});
  }
}

EM_CPU_CLONES void quantize_rows(const InputRows<float>& a, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) quantize_row(a, t);
}
EM_CPU_CLONES void quantize_rows(const InputRows<c10::BFloat16>& a, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) quantize_row(a, t);
}
EM_CPU_CLONES void quantize_rows(const InputRows<c10::Half>& a, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) quantize_row(a, t);
}
EM_CPU_CLONES void quantize_rows(const InputRows<double>& a, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) quantize_row(a, t);
}

}  // namespace

QuantizedInputs quantize_inputs(const at::Tensor& x_TI, int64_t groups, int64_t group) {
  const int64_t T = x_TI.size(0);
  QuantizedInputs out{at::empty({T, groups * group}, at::kChar), at::empty({T, groups}, at::kFloat),
                      at::empty({T, groups}, at::kInt)};
  for_float_dtype(x_TI.scalar_type(), "quantize_inputs", [&](auto zero) {
    using E = decltype(zero);
    const InputRows<E> rows{x_TI.const_data_ptr<E>(),
                            x_TI.size(1),
                            groups,
                            group,
                            out.codes_TI.mutable_data_ptr<int8_t>(),
                            out.scale_TG.mutable_data_ptr<float>(),
                            out.sum_TG.mutable_data_ptr<int32_t>()};
    at::parallel_for(0, T, kInputRowsGrain,
                     [&](int64_t begin, int64_t end) { quantize_rows(rows, begin, end); });
  });
  return out;
}

}  // namespace euromodal
