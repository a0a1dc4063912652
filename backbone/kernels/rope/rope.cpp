// rope.cpp — checks and autograd of the rotation (its loops: rope_rows.cpp); the gradient is the
// rotation by the negative angle.
#include "backbone/kernels/rope/rope.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "backbone/kernels/autograd.h"
#include "backbone/kernels/checks.h"
#include "backbone/kernels/cuda_ops.h"
#include "backbone/kernels/rope/mrope.h"
#include "backbone/kernels/rope/rope_rows.h"
#include "backbone/kernels/simd.h"

namespace euromodal {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kRopeRowsGrain = 32;

at::Tensor rope_rotate(const at::Tensor& x_in, const RopeTable& table,
                       const at::Tensor& positions_T, bool inverse) {
  const at::Tensor x_THN = x_in.stride(2) == 1 ? x_in : x_in.contiguous();
  at::Tensor y_THN = at::empty(x_THN.sizes(), x_THN.options());
  for_float_dtype(x_THN.scalar_type(), "rope", [&](auto zero) {
    using T = decltype(zero);
    const RopeRows<T> all{x_THN.const_data_ptr<T>(),
                          x_THN.stride(0),
                          x_THN.stride(1),
                          y_THN.mutable_data_ptr<T>(),
                          table.cos_PN.const_data_ptr<float>(),
                          table.sin_PN.const_data_ptr<float>(),
                          positions_T.const_data_ptr<int64_t>(),
                          0,
                          x_THN.size(0),
                          x_THN.size(1),
                          x_THN.size(2),
                          inverse};
    at::parallel_for(0, x_THN.size(0), kRopeRowsGrain, [&](int64_t begin, int64_t end) {
      RopeRows<T> part = all;
      part.begin = begin;
      part.end = end;
      rope_rows(part);
    });
  });
  return y_THN;
}

struct RopeFunction final : torch::autograd::Function<RopeFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_THN, const at::Tensor& cos_PN,
                            const at::Tensor& sin_PN, const at::Tensor& positions_T) {
    ctx->save_for_backward({cos_PN, sin_PN, positions_T});
    return rope_rotate(x_THN, {cos_PN, sin_PN}, positions_T, /*inverse=*/false);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    return {rope_rotate(grads[0], {saved[0], saved[1]}, saved[2], /*inverse=*/true), at::Tensor(),
            at::Tensor(), at::Tensor()};
  }
};

/// The same on a CUDA device; positions: [T], or [3, T] with sections.
struct RopeCudaFunction final : torch::autograd::Function<RopeCudaFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_THN, const at::Tensor& cos_PN,
                            const at::Tensor& sin_PN, const at::Tensor& positions,
                            const MropeSections& sections) {
    ctx->save_for_backward({cos_PN, sin_PN, positions});
    const auto& sizes = sections.sizes;
    ctx->saved_data["sections"] = std::vector<int64_t>(std::begin(sizes), std::end(sizes));
    ctx->saved_data["interleaved"] = sections.interleaved;
    return cuda_ops().rope_rotate({x_THN, cos_PN, sin_PN, positions, sections, /*inverse=*/false});
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const std::vector<int64_t> sizes = ctx->saved_data["sections"].toIntVector();
    const MropeSections sections{{sizes[0], sizes[1], sizes[2]},
                                 ctx->saved_data["interleaved"].toBool()};
    return {cuda_ops().rope_rotate(
                {grads[0], saved[0], saved[1], saved[2], sections, /*inverse=*/true}),
            at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

// Positions are not checked on a device, which would wait for it: outside the table they give NaN.
at::Tensor rope_cuda(const at::Tensor& x_THN, const RopeTable& table, const at::Tensor& positions,
                     const MropeSections& sections) {
  if (!needs_graph(x_THN))
    return cuda_ops().rope_rotate({x_THN, table.cos_PN, table.sin_PN, positions, sections, false});
  return RopeCudaFunction::apply(x_THN, table.cos_PN, table.sin_PN, positions, sections);
}

void check_rope(const at::Tensor& x_THN, const RopeTable& table, const at::Tensor& positions) {
  check_shape(x_THN, {-1, -1, -1}, "rope", "x_THN");
  const int64_t width = x_THN.size(2);
  check(width % 2 == 0, "rope: the head width is {}, expected an even number", width);
  check_shape(table.cos_PN, {-1, width}, "rope", "cos_PN");
  check_shape(table.sin_PN, {table.cos_PN.size(0), width}, "rope", "sin_PN");
  check(table.cos_PN.scalar_type() == at::kFloat && table.sin_PN.scalar_type() == at::kFloat,
        "rope: the tables must be f32");
  check(positions.scalar_type() == at::kLong && positions.device() == x_THN.device(),
        "rope: the positions must be Long on {}", x_THN.device().str());
}

// On the CPU: every position lies in the table.
void check_positions(const at::Tensor& positions, int64_t end) {
  const at::Tensor dense = positions.contiguous();
  const int64_t* p = dense.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < dense.numel(); ++i)
    check(p[i] >= 0 && p[i] < end, "rope: position {} lies outside the table of {}", p[i], end);
}

}  // namespace

at::Tensor rope(const at::Tensor& x_THN, const RopeTable& table, const at::Tensor& positions_T) {
  check_rope(x_THN, table, positions_T);
  check_shape(positions_T, {x_THN.size(0)}, "rope", "positions_T");
  if (x_THN.is_cuda()) return rope_cuda(x_THN, table, positions_T, {});
  check_positions(positions_T, table.cos_PN.size(0));
  const RopeTable rows{table.cos_PN.contiguous(), table.sin_PN.contiguous()};
  const at::Tensor wanted_T = positions_T.contiguous();
  if (!needs_graph(x_THN)) return rope_rotate(x_THN, rows, wanted_T, /*inverse=*/false);
  return RopeFunction::apply(x_THN, rows.cos_PN, rows.sin_PN, wanted_T);
}

at::Tensor mrope(const at::Tensor& x_THN, const RopeTable& table, const at::Tensor& positions_3T,
                 const MropeSections& sections) {
  check_rope(x_THN, table, positions_3T);
  check_shape(positions_3T, {3, x_THN.size(0)}, "mrope", "positions_3T");
  const int64_t rows = x_THN.size(0), half = x_THN.size(2) / 2;
  const auto& [time, height, width] = sections.sizes;
  check(time >= 0 && height >= 0 && width >= 0 && time + height + width == half,
        "mrope: sections of {}, {} and {} frequencies, expected {} in all", time, height, width,
        half);
  if (x_THN.is_cuda()) return rope_cuda(x_THN, table, positions_3T, sections);
  check_positions(positions_3T, table.cos_PN.size(0));
  // A table of T rows, made of the rows that each frequency takes.
  std::vector<int64_t> axis_F;
  for (int64_t i = 0; i < half; ++i) axis_F.push_back(mrope_axis(sections, i));
  const at::Tensor rows_TF = positions_3T.index_select(0, at::tensor(axis_F, at::kLong)).t();
  const auto chosen = [&](const at::Tensor& table_PN) {
    const at::Tensor part_TF = table_PN.narrow(1, 0, half).gather(0, rows_TF);
    return at::cat({part_TF, part_TF}, 1);
  };
  return rope(x_THN, {chosen(table.cos_PN), chosen(table.sin_PN)}, at::arange(rows, at::kLong));
}

}  // namespace euromodal
