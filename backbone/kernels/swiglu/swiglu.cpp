// swiglu.cpp — silu(gate) · up in one pass. Rounding as Hugging Face's LlamaMLP: silu is rounded to
// the dtype before the product. With s = sigmoid(g): dg = dy · u · s · (1 + g · (1 - s)), du = dy ·
// g · s.
#include "backbone/kernels/swiglu/swiglu.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "backbone/kernels/autograd.h"
#include "backbone/kernels/checks.h"
#include "backbone/kernels/cuda_ops.h"
#include "backbone/kernels/simd.h"
#include "backbone/kernels/swiglu/swiglu_rows.h"

namespace euromodal {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kSwigluGrain = 16384;

template <typename T>
struct SwigluGrads {
  const T *gate, *up, *dy;
  T *dgate, *dup;
  int64_t begin, end;
};

template <typename T>
[[gnu::always_inline]] inline void swiglu_forward_range(const SwigluRows<T>& a) {
  using A = Acc<T>;
#pragma omp simd
  for (int64_t i = a.begin; i < a.end; ++i) {
    const A g = static_cast<A>(a.gate[i]);
    const A silu = rounded_to<T>(g / (A(1) + fast_exp(-g)));
    put_rounded(a.y, i, silu * static_cast<A>(a.up[i]));
  }
}

template <typename T>
[[gnu::always_inline]] inline void swiglu_backward_range(const SwigluGrads<T>& a) {
  using A = Acc<T>;
#pragma omp simd
  for (int64_t i = a.begin; i < a.end; ++i) {
    const A g = static_cast<A>(a.gate[i]), dy = static_cast<A>(a.dy[i]);
    const A sigmoid = A(1) / (A(1) + fast_exp(-g));
    put_rounded(a.dgate, i, dy * static_cast<A>(a.up[i]) * sigmoid * (A(1) + g * (A(1) - sigmoid)));
    put_rounded(a.dup, i, dy * (g * sigmoid));
  }
}

EM_CPU_CLONES void swiglu_run_backward(const SwigluGrads<float>& a) { swiglu_backward_range(a); }
EM_CPU_CLONES void swiglu_run_backward(const SwigluGrads<c10::BFloat16>& a) {
  swiglu_backward_range(a);
}
void swiglu_run_backward(const SwigluGrads<c10::Half>& a) { swiglu_backward_range(a); }
void swiglu_run_backward(const SwigluGrads<double>& a) { swiglu_backward_range(a); }

at::Tensor swiglu_forward(const at::Tensor& gate_TF, const at::Tensor& up_TF) {
  const at::Tensor gate = gate_TF.contiguous(), up = up_TF.contiguous();
  at::Tensor y_TF = at::empty(gate.sizes(), gate.options());
  for_float_dtype(gate.scalar_type(), "swiglu", [&](auto zero) {
    using T = decltype(zero);
    at::parallel_for(0, gate.numel(), kSwigluGrain, [&](int64_t begin, int64_t end) {
      swiglu_rows(SwigluRows<T>{gate.const_data_ptr<T>(), up.const_data_ptr<T>(),
                                y_TF.mutable_data_ptr<T>(), begin, end});
    });
  });
  return y_TF;
}

struct SwigluFunction final : torch::autograd::Function<SwigluFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate_TF,
                            const at::Tensor& up_TF) {
    ctx->save_for_backward({gate_TF, up_TF});
    return swiglu_forward(gate_TF, up_TF);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor gate = saved[0].contiguous(), up = saved[1].contiguous();
    const at::Tensor dy = grads[0].contiguous();
    const at::Tensor dgate = at::empty_like(gate), dup = at::empty_like(up);
    for_float_dtype(gate.scalar_type(), "swiglu", [&](auto zero) {
      using T = decltype(zero);
      at::parallel_for(0, gate.numel(), kSwigluGrain, [&](int64_t begin, int64_t end) {
        swiglu_run_backward(SwigluGrads<T>{gate.const_data_ptr<T>(), up.const_data_ptr<T>(),
                                           dy.const_data_ptr<T>(), dgate.mutable_data_ptr<T>(),
                                           dup.mutable_data_ptr<T>(), begin, end});
      });
    });
    return {dgate, dup};
  }
};

/// The same on a CUDA device.
struct SwigluCudaFunction final : torch::autograd::Function<SwigluCudaFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate_TF,
                            const at::Tensor& up_TF) {
    ctx->save_for_backward({gate_TF, up_TF});
    return cuda_ops().swiglu_forward(gate_TF, up_TF);
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor dgate_TF = at::empty(saved[0].sizes(), saved[0].options()),
                     dup_TF = at::empty(saved[1].sizes(), saved[1].options());
    cuda_ops().swiglu_backward(grads[0], saved[0], saved[1], dgate_TF, dup_TF);
    return {dgate_TF, dup_TF};
  }
};

at::Tensor swiglu_half(const at::Tensor& rows_TG, int64_t which) {
  const int64_t width = rows_TG.size(1) / 2;
  return rows_TG.narrow(1, which * width, width);
}

/// Of a fused row; its gradient is one tensor, which no operator has to put together.
struct SwigluFusedCudaFunction final : torch::autograd::Function<SwigluFusedCudaFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate_up_TG) {
    ctx->save_for_backward({gate_up_TG});
    return cuda_ops().swiglu_forward(swiglu_half(gate_up_TG, 0), swiglu_half(gate_up_TG, 1));
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const at::Tensor x_TG = ctx->get_saved_variables()[0];
    const at::Tensor dx_TG = at::empty(x_TG.sizes(), x_TG.options());
    cuda_ops().swiglu_backward(grads[0], swiglu_half(x_TG, 0), swiglu_half(x_TG, 1),
                               swiglu_half(dx_TG, 0), swiglu_half(dx_TG, 1));
    return {dx_TG};
  }
};

}  // namespace

EM_CPU_CLONES void swiglu_rows(const SwigluRows<float>& a) { swiglu_forward_range(a); }
EM_CPU_CLONES void swiglu_rows(const SwigluRows<c10::BFloat16>& a) { swiglu_forward_range(a); }
void swiglu_rows(const SwigluRows<c10::Half>& a) { swiglu_forward_range(a); }
void swiglu_rows(const SwigluRows<double>& a) { swiglu_forward_range(a); }

at::Tensor swiglu(const at::Tensor& gate_TF, const at::Tensor& up_TF) {
  check_shape(gate_TF, {-1, -1}, "swiglu", "gate_TF");
  check_shape(up_TF, gate_TF.sizes(), "swiglu", "up_TF");
  check_same(up_TF, gate_TF, "swiglu", "up_TF");
  if (gate_TF.is_cuda() && !needs_graph(gate_TF, up_TF))
    return cuda_ops().swiglu_forward(gate_TF, up_TF);
  if (gate_TF.is_cuda()) return SwigluCudaFunction::apply(gate_TF, up_TF);
  if (!needs_graph(gate_TF, up_TF)) return swiglu_forward(gate_TF, up_TF);
  return SwigluFunction::apply(gate_TF, up_TF);
}

at::Tensor swiglu(const at::Tensor& gate_up_TG) {
  check_shape(gate_up_TG, {-1, -1}, "swiglu", "gate_up_TG");
  check(gate_up_TG.size(1) % 2 == 0, "swiglu: gate_up_TG has {} columns, expected an even number",
        gate_up_TG.size(1));
  if (gate_up_TG.is_cuda() && needs_graph(gate_up_TG))
    return SwigluFusedCudaFunction::apply(gate_up_TG);
  return swiglu(swiglu_half(gate_up_TG, 0), swiglu_half(gate_up_TG, 1));
}

}  // namespace euromodal
