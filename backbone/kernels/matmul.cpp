// matmul.cpp — see matmul.h.
#include "backbone/kernels/matmul.h"

#include <ATen/ATen.h>

namespace euromodal {

at::Tensor aligned_rows(const at::Tensor& x_TI, int64_t begin, int64_t count) {
  at::Tensor rows = x_TI.narrow(0, begin, count).contiguous();
  if (reinterpret_cast<uintptr_t>(rows.const_data_ptr()) % 64 != 0)
    rows = rows.clone(at::MemoryFormat::Contiguous);
  return rows;
}

at::Tensor rows_matmul(const at::Tensor& x_TI, const at::Tensor& w_IO, const at::Tensor& bias_O,
                       const Segments& rows) {
  if (!rows.per_sample) {
    return bias_O.defined() ? at::addmm(bias_O, x_TI, w_IO) : at::mm(x_TI, w_IO);
  }
  at::Tensor y_TO = at::empty({x_TI.size(0), w_IO.size(1)}, x_TI.options());
  for (int64_t s = 0; s < rows.count(); ++s) {
    if (rows.length(s) == 0) continue;
    const at::Tensor x_LI = aligned_rows(x_TI, rows.begin(s), rows.length(s));
    y_TO.narrow(0, rows.begin(s), rows.length(s))
        .copy_(bias_O.defined() ? at::addmm(bias_O, x_LI, w_IO) : at::mm(x_LI, w_IO));
  }
  return y_TO;
}

at::Tensor rows_outer(const at::Tensor& dy_TO, const at::Tensor& x_TI, const Segments& rows) {
  if (!rows.per_sample) return at::mm(dy_TO.t(), x_TI);
  at::Tensor sum_OI;
  for (int64_t s = 0; s < rows.count(); ++s) {
    if (rows.length(s) == 0) continue;
    const at::Tensor g_OI = at::mm(aligned_rows(dy_TO, rows.begin(s), rows.length(s)).t(),
                                   aligned_rows(x_TI, rows.begin(s), rows.length(s)));
    sum_OI.defined() ? sum_OI.add_(g_OI) : sum_OI = g_OI;
  }
  return sum_OI.defined() ? sum_OI : at::zeros({dy_TO.size(1), x_TI.size(1)}, x_TI.options());
}

at::Tensor rows_sum(const at::Tensor& dy_TO, const Segments& rows) {
  if (!rows.per_sample) return dy_TO.sum(0);
  at::Tensor sum_O;
  for (int64_t s = 0; s < rows.count(); ++s) {
    if (rows.length(s) == 0) continue;
    const at::Tensor g_O = aligned_rows(dy_TO, rows.begin(s), rows.length(s)).sum(0);
    sum_O.defined() ? sum_O.add_(g_O) : sum_O = g_O;
  }
  return sum_O.defined() ? sum_O : at::zeros({dy_TO.size(1)}, dy_TO.options());
}

}  // namespace euromodal
