// splice_rows.cpp — rows by spans: tensors to launch arguments.
#include <ATen/ATen.h>

#include "backbone/cuda/launch_check.h"
#include "backbone/cuda/operators.h"
#include "backbone/kernels/splice_rows/splice_rows_kernel.h"

namespace euromodal::cuda {

namespace {

int64_t row_bytes(const at::Tensor& x_TD) {
  return x_TD.size(1) * static_cast<int64_t>(x_TD.element_size());
}

RowSpans spans_of(const at::Tensor& table_3S) {
  return {table_3S.const_data_ptr<int64_t>(), table_3S.size(1)};
}

}  // namespace

at::Tensor splice_forward(const at::Tensor& emb_TD, const at::Tensor& rows_MD,
                          const at::Tensor& table_3S) {
  const c10::cuda::CUDAGuard guard(emb_TD.device());
  const at::Tensor emb = emb_TD.contiguous(), rows = rows_MD.contiguous();
  at::Tensor y_TD = at::empty(emb.sizes(), emb.options());
  const SpliceForwardArgs args{.emb_TD = emb.const_data_ptr(),
                               .rows_MD = rows.const_data_ptr(),
                               .y_TD = y_TD.mutable_data_ptr(),
                               .spans = spans_of(table_3S),
                               .rows = emb.size(0),
                               .row_bytes = row_bytes(emb)};
  check_launch(splice_rows_forward(args, c10::cuda::getCurrentCUDAStream()), "splice_rows_forward");
  return y_TD;
}

std::tuple<at::Tensor, at::Tensor> splice_backward(const at::Tensor& dy_TD,
                                                   const at::Tensor& table_3S, bool wants_demb,
                                                   int64_t rows) {
  const c10::cuda::CUDAGuard guard(dy_TD.device());
  const at::Tensor dy = dy_TD.contiguous();
  at::Tensor demb_TD, drows_MD;
  if (wants_demb) demb_TD = at::empty(dy.sizes(), dy.options());
  if (rows >= 0) drows_MD = at::empty({rows, dy.size(1)}, dy.options());
  const SpliceBackwardArgs args{.dy_TD = dy.const_data_ptr(),
                                .demb_TD = wants_demb ? demb_TD.mutable_data_ptr() : nullptr,
                                .drows_MD = rows >= 0 ? drows_MD.mutable_data_ptr() : nullptr,
                                .spans = spans_of(table_3S),
                                .rows = dy.size(0),
                                .row_bytes = row_bytes(dy)};
  check_launch(splice_rows_backward(args, c10::cuda::getCurrentCUDAStream()),
               "splice_rows_backward");
  return {demb_TD, drows_MD};
}

}  // namespace euromodal::cuda
