// embedding.cpp — rows of a table by id; gradient of the table. V ids, D width, T rows.
#include "backbone/kernels/embedding/embedding.h"

#include <unordered_map>
#include <vector>

#include <ATen/ATen.h>

#include "backbone/kernels/autograd.h"
#include "backbone/kernels/checks.h"
#include "backbone/kernels/simd.h"

namespace euromodal {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The rows of one sample that share an id are summed in fp32, in row order, and rounded; that is
// added to what the samples before gave (what accumulating into .grad does).
template <typename T>
void embedding_add_sample(const T* dy, const int64_t* ids, int64_t rows, int64_t width, T* grad) {
  using A = Acc<T>;
  std::unordered_map<int64_t, int64_t> slots;  // id -> row of sums
  std::vector<int64_t> order;
  for (int64_t t = 0; t < rows; ++t) {
    if (slots.try_emplace(ids[t], static_cast<int64_t>(order.size())).second)
      order.push_back(ids[t]);
  }
  std::vector<A> sums(order.size() * static_cast<size_t>(width), A(0));
  for (int64_t t = 0; t < rows; ++t) {
    A* sum = sums.data() + slots.at(ids[t]) * width;
#pragma omp simd
    for (int64_t d = 0; d < width; ++d) sum[d] += static_cast<A>(dy[t * width + d]);
  }
  for (size_t i = 0; i < order.size(); ++i) {
    const A* sum = sums.data() + static_cast<int64_t>(i) * width;
    T* row = grad + order[i] * width;
#pragma omp simd
    for (int64_t d = 0; d < width; ++d)
      row[d] = static_cast<T>(static_cast<A>(row[d]) + static_cast<A>(static_cast<T>(sum[d])));
  }
}

struct EmbeddingFunction final : torch::autograd::Function<EmbeddingFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& table_VD,
                            const at::Tensor& ids_T, const Segments& rows) {
    ctx->save_for_backward({ids_T});
    ctx->saved_data["vocab"] = table_VD.size(0);
    save_segments(ctx, rows);
    return table_VD.index_select(0, ids_T);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const at::Tensor ids_T = ctx->get_saved_variables()[0].contiguous();
    const at::Tensor dy_TD = grads[0].contiguous();
    const int64_t width = dy_TD.size(1);
    Segments rows = saved_segments(ctx);
    if (!rows.per_sample) rows = Segments::one(dy_TD.size(0));
    const at::Tensor grad_VD =
        at::zeros({ctx->saved_data["vocab"].toInt(), width}, dy_TD.options());
    for_float_dtype(dy_TD.scalar_type(), "embedding", [&](auto zero) {
      using T = decltype(zero);
      for (int64_t s = 0; s < rows.count(); ++s)
        embedding_add_sample<T>(dy_TD.const_data_ptr<T>() + rows.begin(s) * width,
                                ids_T.const_data_ptr<int64_t>() + rows.begin(s), rows.length(s),
                                width, grad_VD.mutable_data_ptr<T>());
    });
    return {grad_VD, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor embedding(const at::Tensor& table_VD, const at::Tensor& ids_T, const Segments& rows) {
  check_shape(table_VD, {-1, -1}, "embedding", "table_VD");
  check_shape(ids_T, {-1}, "embedding", "ids_T");
  check(ids_T.scalar_type() == at::kLong, "embedding: ids_T is {}, expected Long",
        c10::toString(ids_T.scalar_type()));
  if (rows.per_sample) check_segments(rows, ids_T.size(0), "embedding");
  if (table_VD.is_cuda() && needs_graph(table_VD)) return at::embedding(table_VD, ids_T);
  if (!needs_graph(table_VD)) return table_VD.index_select(0, ids_T);
  return EmbeddingFunction::apply(table_VD, ids_T, rows);
}

}  // namespace euromodal
