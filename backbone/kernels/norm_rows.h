// norm_rows.h — the row loops of RMS norm and layer norm, forward and backward. T rows of width D;
// a row's bits depend on nothing but the row.
#pragma once
#include <cstdint>

#include <ATen/core/Tensor.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "backbone/kernels/segments.h"

namespace euromodal {

struct NormForward {
  at::Tensor y_TD;
  at::Tensor stats_T2;  // [T, 2] mean (0 for RMS norm) and 1 / deviation, f32 (f64 for f64)
};

struct NormGrads {
  at::Tensor dx_TD, dweight_D, dbias_D;  // undefined where not asked for
};

struct NormWanted {
  bool dx = false, dweight = false, dbias = false;
};

/// centre: layer norm (mean taken off, bias added, rounded once at the end). Otherwise RMS norm:
/// the normalised row is rounded to the dtype before it is multiplied by the weight.
NormForward norm_forward(const at::Tensor& x_TD, const at::Tensor& weight_D,
                         const at::Tensor& bias_D, double eps, bool centre);

/// RMS norm over memory of the caller: rows [begin, end) of `width`.
template <typename T>
struct RmsNormRows {
  const T *x_TD, *weight_D;
  T* y_TD;
  int64_t begin, end, width;
  double eps;
};
void rms_norm_rows(const RmsNormRows<float>& rows);
void rms_norm_rows(const RmsNormRows<c10::BFloat16>& rows);
void rms_norm_rows(const RmsNormRows<c10::Half>& rows);

/// Weight and bias gradients are summed in row order; with rows.per_sample sample by sample.
NormGrads norm_backward(const at::Tensor& dy_TD, const at::Tensor& x_TD, const at::Tensor& weight_D,
                        const at::Tensor& stats_T2, bool centre, const Segments& rows,
                        NormWanted wanted);

}  // namespace euromodal
