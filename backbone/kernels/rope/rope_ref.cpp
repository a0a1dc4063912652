// rope_ref.cpp — rotary position embedding with ATen's operators, rounding as transformers'
// apply_rotary_pos_emb.
#include "backbone/kernels/rope/rope_ref.h"

#include <ATen/ATen.h>

namespace euromodal {

at::Tensor rope_ref(const at::Tensor& x_THN, const RopeTable& table,
                    const at::Tensor& positions_T) {
  const int64_t half = x_THN.size(2) / 2;
  const auto rows = [&](const at::Tensor& table_PN) {
    return table_PN.index_select(0, positions_T).to(x_THN.scalar_type()).unsqueeze(1);
  };
  const at::Tensor rotated_THN =
      at::cat({-x_THN.narrow(2, half, half), x_THN.narrow(2, 0, half)}, 2);
  return x_THN * rows(table.cos_PN) + rotated_THN * rows(table.sin_PN);
}

}  // namespace euromodal
