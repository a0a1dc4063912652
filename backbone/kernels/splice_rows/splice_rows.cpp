// splice_rows.cpp — checks and autograd of the splice: index_copy on the CPU, one pass over the
// rows on CUDA. Gradients: the replaced rows of dy go to rows_MD and are 0 for emb_TD.
#include "backbone/kernels/splice_rows/splice_rows.h"

#include <ATen/ATen.h>

#include "backbone/kernels/autograd.h"
#include "backbone/kernels/checks.h"
#include "backbone/kernels/cuda_ops.h"
#include "backbone/kernels/splice_rows/splice_rows_ref.h"
#include "backbone/kernels/to_device.h"

namespace euromodal {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The array of RowSpans (row_spans.h), on the host.
at::Tensor span_table(const std::vector<RowSpan>& spans) {
  const auto count = static_cast<int64_t>(spans.size());
  at::Tensor table_3S = at::empty({3, count}, at::kLong);
  int64_t* table = table_3S.mutable_data_ptr<int64_t>();
  int64_t before = 0;
  for (int64_t s = 0; s < count; ++s) {
    const RowSpan& span = spans[static_cast<size_t>(s)];
    table[s] = span.start;
    table[count + s] = span.start + span.rows;
    table[2 * count + s] = before;
    before += span.rows;
  }
  return table_3S;
}

struct SpliceCudaFunction final : torch::autograd::Function<SpliceCudaFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& emb_TD,
                            const at::Tensor& rows_MD, const at::Tensor& table_3S) {
    ctx->save_for_backward({table_3S});
    ctx->saved_data["rows"] = rows_MD.size(0);
    return cuda_ops().splice_forward(emb_TD, rows_MD, table_3S);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const int64_t rows = ctx->needs_input_grad(1) ? ctx->saved_data["rows"].toInt() : -1;
    const auto [demb_TD, drows_MD] = cuda_ops().splice_backward(
        grads[0], ctx->get_saved_variables()[0], ctx->needs_input_grad(0), rows);
    return {demb_TD, drows_MD, at::Tensor()};
  }
};

}  // namespace

at::Tensor splice_rows(const at::Tensor& emb_TD, const at::Tensor& rows_MD,
                       const std::vector<RowSpan>& spans) {
  check_shape(emb_TD, {-1, -1}, "splice_rows", "emb_TD");
  check_shape(rows_MD, {-1, emb_TD.size(1)}, "splice_rows", "rows_MD");
  check_same(rows_MD, emb_TD, "splice_rows", "rows_MD");
  int64_t end = 0, total = 0;
  for (const RowSpan& span : spans) {
    check(span.rows >= 0 && span.start >= end && span.start <= emb_TD.size(0) - span.rows,
          "splice_rows: {} rows from {} on overlap those before or leave the {} rows", span.rows,
          span.start, emb_TD.size(0));
    end = span.start + span.rows;
    total += span.rows;
  }
  check(total == rows_MD.size(0), "splice_rows: the spans have {} rows, rows_MD has {}", total,
        rows_MD.size(0));
  if (total == 0) return emb_TD;
  if (!emb_TD.is_cuda()) return splice_rows_ref(emb_TD, rows_MD, spans);
  const at::Tensor table_3S = to_device(span_table(spans), emb_TD.device());
  if (!needs_graph(emb_TD, rows_MD)) return cuda_ops().splice_forward(emb_TD, rows_MD, table_3S);
  return SpliceCudaFunction::apply(emb_TD, rows_MD, table_3S);
}

}  // namespace euromodal
