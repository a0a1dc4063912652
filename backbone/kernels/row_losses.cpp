// row_losses.cpp — see row_losses.h.
#include "backbone/kernels/row_losses.h"

#include <ATen/ATen.h>

namespace euromodal {

namespace {

template <typename A>
double row_losses_sum(const A* loss, int64_t count) {
  double sum = 0.0;
  for (int64_t r = 0; r < count; ++r) sum += static_cast<double>(loss[r]);
  return sum;
}

}  // namespace

at::Tensor sum_row_losses(const at::Tensor& row_loss_R, const Segments& rows) {
  const bool wide = row_loss_R.scalar_type() == at::kDouble;
  if (row_loss_R.is_cuda()) return row_loss_R.sum(at::kDouble).to(row_loss_R.scalar_type());
  const auto sum = [&](int64_t begin, int64_t count) {
    return wide ? row_losses_sum(row_loss_R.const_data_ptr<double>() + begin, count)
                : row_losses_sum(row_loss_R.const_data_ptr<float>() + begin, count);
  };
  double total = 0.0;
  if (!rows.per_sample) {
    total = sum(0, row_loss_R.size(0));
  } else {
    for (int64_t s = 0; s < rows.count(); ++s) {
      const double one = sum(rows.begin(s), rows.length(s));
      total = wide ? total + one
                   : static_cast<double>(static_cast<float>(total) + static_cast<float>(one));
    }
  }
  return at::full({}, total, row_loss_R.options());
}

RowLosses::RowLosses(const at::Tensor& hidden_RD, const at::Tensor& row_weight_R)
    : wide(hidden_RD.scalar_type() == at::kDouble ? at::kDouble : at::kFloat),
      loss_R(at::empty({hidden_RD.size(0)}, hidden_RD.options().dtype(wide))) {
  if (row_weight_R.defined()) weight_R = row_weight_R.to(hidden_RD.device(), wide).contiguous();
}

at::Tensor RowLosses::weights(int64_t begin, int64_t count) const {
  return weight_R.defined() ? weight_R.narrow(0, begin, count) : at::Tensor();
}

}  // namespace euromodal
