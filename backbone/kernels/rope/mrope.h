// mrope.h — rotary position embedding with three positions a row (Qwen2-VL, arXiv:2409.12191).
#pragma once
#include "backbone/kernels/rope/mrope_axis.h"
#include "backbone/kernels/rope/rope.h"

namespace euromodal {

/// As rope(), but positions_3T [3, T] i64 (time, height, width), of which each frequency takes one.
/// Where all three are alike it is rope().
at::Tensor mrope(const at::Tensor& x_THN, const RopeTable& table, const at::Tensor& positions_3T,
                 const MropeSections& sections);

}  // namespace euromodal
