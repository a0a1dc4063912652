// rope_ref.cpp — rotary position embedding with ATen's operators, rounding as transformers'
// apply_rotary_pos_emb.
#include "backbone/kernels/rope/rope_ref.h"

#include <ATen/ATen.h>

namespace euromodal {

namespace {

// cos_TN, sin_TN: the row of the table that each row of x turns by.
at::Tensor rope_turn(const at::Tensor& x_THN, const at::Tensor& cos_TN, const at::Tensor& sin_TN) {
  const int64_t half = x_THN.size(2) / 2;
  const auto rows = [&](const at::Tensor& table_TN) {
    return table_TN.to(x_THN.scalar_type()).unsqueeze(1);
  };
  const at::Tensor rotated_THN =
      at::cat({-x_THN.narrow(2, half, half), x_THN.narrow(2, 0, half)}, 2);
  return x_THN * rows(cos_TN) + rotated_THN * rows(sin_TN);
}

}  // namespace

at::Tensor rope_ref(const at::Tensor& x_THN, const RopeTable& table,
                    const at::Tensor& positions_T) {
  return rope_turn(x_THN, table.cos_PN.index_select(0, positions_T),
                   table.sin_PN.index_select(0, positions_T));
}

at::Tensor mrope_ref(const at::Tensor& x_THN, const RopeTable& table,
                     const at::Tensor& positions_3T, const MropeSections& sections) {
  const int64_t half = x_THN.size(2) / 2;
  const auto chosen = [&](const at::Tensor& table_PN) {
    std::vector<at::Tensor> of;  // by position, the first half of each row [T, N/2]
    for (int64_t axis = 0; axis < 3; ++axis)
      of.push_back(table_PN.index_select(0, positions_3T.select(0, axis)).narrow(1, 0, half));
    at::Tensor out_TF;
    if (sections.interleaved) {  // apply_interleaved_mrope
      out_TF = of[0].clone();
      for (int64_t axis = 1; axis < 3; ++axis) {
        const int64_t end = 3 * sections.sizes[axis];
        out_TF.slice(1, axis, end, 3).copy_(of[static_cast<size_t>(axis)].slice(1, axis, end, 3));
      }
    } else {  // apply_multimodal_rotary_pos_emb
      std::vector<at::Tensor> parts;
      int64_t from = 0;
      for (int64_t axis = 0; axis < 3; ++axis) {
        parts.push_back(of[static_cast<size_t>(axis)].narrow(1, from, sections.sizes[axis]));
        from += sections.sizes[axis];
      }
      out_TF = at::cat(parts, 1);
    }
    return at::cat({out_TF, out_TF}, 1);
  };
  return rope_turn(x_THN, chosen(table.cos_PN), chosen(table.sin_PN));
}

}  // namespace euromodal
