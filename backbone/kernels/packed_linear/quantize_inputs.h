// quantize_inputs.h — rows rounded to int8 for integer products: one scale per row and group, codes
// in -127..127. T rows, I inputs padded to G groups.
#pragma once
#include <cstdint>

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

namespace euromodal {

template <typename T>
struct InputGroups {
  const T* x_TI;  // contiguous
  int64_t inputs, groups, group;
  int8_t* codes_TI;    // [T, G · group]; zeros behind the last input
  float* scale_TG;     // NaN where an input is not finite
  int32_t* sum_TG;     // sums of codes
  int64_t begin, end;  // groups of all rows, row by row
};

/// scale = largest size / 127, code = nearest.
void quantize_inputs(const InputGroups<float>& groups);
void quantize_inputs(const InputGroups<c10::BFloat16>& groups);
void quantize_inputs(const InputGroups<c10::Half>& groups);

}  // namespace euromodal
