// checks.h — checks at the public boundary of an operator: shapes, dtypes, devices, and that packed
// samples cover the rows.
#pragma once
#include <ATen/core/Tensor.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "backbone/kernels/segments.h"
#include "core/error.h"

namespace euromodal {

/// "rms_norm: weight_D has shape [3], expected [4]"; -1 in `shape` is any size.
inline void check_shape(const at::Tensor& tensor, at::IntArrayRef shape, const char* op,
                        const char* name) {
  check(tensor.defined(), "{}: {} is undefined", op, name);
  bool same = tensor.dim() == static_cast<int64_t>(shape.size());
  for (size_t d = 0; same && d < shape.size(); ++d)
    same = shape[d] < 0 || tensor.size(static_cast<int64_t>(d)) == shape[d];
  check(same, "{}: {} has shape [{}], expected [{}] (-1 is any)", op, name,
        fmt::join(tensor.sizes(), ", "), fmt::join(shape, ", "));
}

/// The same dtype and device as `like`: for operators with a CUDA path.
inline void check_same(const at::Tensor& tensor, const at::Tensor& like, const char* op,
                       const char* name) {
  check(tensor.scalar_type() == like.scalar_type(), "{}: {} is {}, expected {}", op, name,
        c10::toString(tensor.scalar_type()), c10::toString(like.scalar_type()));
  check(tensor.device() == like.device(), "{}: {} is on {}, expected {}", op, name,
        tensor.device().str(), like.device().str());
}

/// check_same, and on the CPU.
inline void check_like(const at::Tensor& tensor, const at::Tensor& like, const char* op,
                       const char* name) {
  check_same(tensor, like, op, name);
  check(tensor.device().is_cpu(), "{}: {} is on {}; this operator has a CPU implementation only",
        op, name, tensor.device().str());
}

/// The samples must cover exactly `rows` rows, in ascending order.
inline void check_segments(const Segments& segments, int64_t rows, const char* op) {
  check(!segments.cu.empty() && segments.cu.front() == 0, "{}: cu must start with 0", op);
  for (size_t s = 1; s < segments.cu.size(); ++s)
    check(segments.cu[s] >= segments.cu[s - 1], "{}: cu[{}] = {} lies before cu[{}] = {}", op, s,
          segments.cu[s], s - 1, segments.cu[s - 1]);
  check(segments.rows() == rows, "{}: the samples cover {} rows, expected {}", op, segments.rows(),
        rows);
}

}  // namespace euromodal
