// rope.cpp — checks, row loops and autograd of the rotation. With halves a, b of a head:
//   y_a = a cos - b sin, y_b = b cos + a sin; the gradient is the rotation by the negative angle.
// Products are rounded to the dtype before they are added, as transformers' tensors are.
#include "backbone/kernels/rope/rope.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "backbone/kernels/autograd.h"
#include "backbone/kernels/checks.h"
#include "backbone/kernels/rope/rope_ref.h"
#include "backbone/kernels/simd.h"

namespace euromodal {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kRopeRowsGrain = 32;

template <typename T>
struct RopeArgs {
  const T* x;
  int64_t row, head;  // strides of x; a head is contiguous
  T* y;               // [T, heads, N] contiguous
  const float *cos, *sin;
  const int64_t* positions;
  int64_t begin, end, heads, width;
  bool inverse;
};

template <typename T>
[[gnu::always_inline]] inline void rope_rows(const RopeArgs<T>& a) {
  using A = Acc<T>;
  const int64_t half = a.width / 2;
  for (int64_t t = a.begin; t < a.end; ++t) {
    const float* cos = a.cos + a.positions[t] * a.width;
    const float* sin = a.sin + a.positions[t] * a.width;
    for (int64_t h = 0; h < a.heads; ++h) {
      const T* x = a.x + t * a.row + h * a.head;
      T* y = a.y + (t * a.heads + h) * a.width;
#pragma omp simd
      for (int64_t n = 0; n < half; ++n) {
        // the table rounded to x's dtype; both halves of a table row are alike
        const A c = static_cast<A>(static_cast<T>(cos[n]));
        const A s = static_cast<A>(static_cast<T>(a.inverse ? -sin[n] : sin[n]));
        const A first = static_cast<A>(x[n]), second = static_cast<A>(x[half + n]);
        y[n] = static_cast<T>(static_cast<A>(static_cast<T>(first * c)) -
                              static_cast<A>(static_cast<T>(second * s)));
        y[half + n] = static_cast<T>(static_cast<A>(static_cast<T>(second * c)) +
                                     static_cast<A>(static_cast<T>(first * s)));
      }
    }
  }
}

EM_CPU_CLONES void rope_run(const RopeArgs<float>& a) { rope_rows(a); }
EM_CPU_CLONES void rope_run(const RopeArgs<c10::BFloat16>& a) { rope_rows(a); }
void rope_run(const RopeArgs<c10::Half>& a) { rope_rows(a); }
void rope_run(const RopeArgs<double>& a) { rope_rows(a); }

at::Tensor rope_rotate(const at::Tensor& x_in, const RopeTable& table,
                       const at::Tensor& positions_T, bool inverse) {
  const at::Tensor x_THN = x_in.stride(2) == 1 ? x_in : x_in.contiguous();
  at::Tensor y_THN = at::empty(x_THN.sizes(), x_THN.options());
  for_float_dtype(x_THN.scalar_type(), "rope", [&](auto zero) {
    using T = decltype(zero);
    const RopeArgs<T> all{x_THN.const_data_ptr<T>(),
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
      RopeArgs<T> part = all;
      part.begin = begin;
      part.end = end;
      rope_run(part);
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

}  // namespace

at::Tensor rope(const at::Tensor& x_THN, const RopeTable& table, const at::Tensor& positions_T) {
  check_shape(x_THN, {-1, -1, -1}, "rope", "x_THN");
  const int64_t positions = table.cos_PN.size(0), width = x_THN.size(2);
  check(width % 2 == 0, "rope: the head width is {}, expected an even number", width);
  check_shape(table.cos_PN, {-1, width}, "rope", "cos_PN");
  check_shape(table.sin_PN, {positions, width}, "rope", "sin_PN");
  check(table.cos_PN.scalar_type() == at::kFloat && table.sin_PN.scalar_type() == at::kFloat,
        "rope: the tables must be f32");
  check_shape(positions_T, {x_THN.size(0)}, "rope", "positions_T");
  check(positions_T.scalar_type() == at::kLong && positions_T.device() == x_THN.device(),
        "rope: positions_T must be Long on {}", x_THN.device().str());
  if (x_THN.is_cuda())
    return rope_ref(x_THN, table, positions_T);  // positions are not checked: no wait
  const RopeTable rows{table.cos_PN.contiguous(), table.sin_PN.contiguous()};
  const at::Tensor wanted_T = positions_T.contiguous();
  const int64_t* p = wanted_T.const_data_ptr<int64_t>();
  for (int64_t t = 0; t < wanted_T.size(0); ++t)
    check(p[t] >= 0 && p[t] < positions, "rope: position {} lies outside the table of {}", p[t],
          positions);
  if (!needs_graph(x_THN)) return rope_rotate(x_THN, rows, wanted_T, /*inverse=*/false);
  return RopeFunction::apply(x_THN, rows.cos_PN, rows.sin_PN, wanted_T);
}

}  // namespace euromodal
