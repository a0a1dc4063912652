// norm_rows.cpp — see norm_rows.h. With xhat = (x - mean) · rstd and g = dy · w:
//   dx = rstd · (g - mean(g) - xhat · mean(g · xhat))   (RMS norm: without mean(g))
//   dw = sum over rows of dy · xhat,  db = sum over rows of dy
#include "backbone/kernels/norm_rows.h"

#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "backbone/kernels/simd.h"

namespace euromodal {

namespace {

constexpr int64_t kNormRowsGrain = 64;

template <typename T>
struct NormForwardArgs {
  const T *x, *weight, *bias;  // bias: null for RMS norm
  T* y;
  Acc<T>* stats;  // null: not wanted
  int64_t begin, end, width;
  double eps;
  bool centre;
};

template <typename T>
[[gnu::always_inline]] inline void norm_forward_rows(const NormForwardArgs<T>& a) {
  using A = Acc<T>;
  for (int64_t t = a.begin; t < a.end; ++t) {
    const T* x = a.x + t * a.width;
    T* y = a.y + t * a.width;
    A mean = 0;
    if (a.centre) {
      A sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t d = 0; d < a.width; ++d) sum += static_cast<A>(x[d]);
      mean = sum / static_cast<A>(a.width);
    }
    A squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t d = 0; d < a.width; ++d) {
      const A c = static_cast<A>(x[d]) - mean;
      squares += c * c;
    }
    const A rstd = A(1) / std::sqrt(squares / static_cast<A>(a.width) + static_cast<A>(a.eps));
    if (a.stats != nullptr) {
      a.stats[2 * t] = mean;
      a.stats[2 * t + 1] = rstd;
    }
    if (a.centre) {
#pragma omp simd
      for (int64_t d = 0; d < a.width; ++d)
        put_rounded(y, d,
                    (static_cast<A>(x[d]) - mean) * rstd * static_cast<A>(a.weight[d]) +
                        static_cast<A>(a.bias[d]));
    } else {
#pragma omp simd
      for (int64_t d = 0; d < a.width; ++d) {
        const A rounded = rounded_to<T>(static_cast<A>(x[d]) * rstd);
        put_rounded(y, d, static_cast<A>(a.weight[d]) * rounded);
      }
    }
  }
}

template <typename T>
struct NormBackwardArgs {
  const T *dy, *x, *weight;
  const Acc<T>* stats;
  T* dx;  // null: not wanted
  int64_t begin, end, width;
  bool centre;
};

template <typename T>
[[gnu::always_inline]] inline void norm_backward_rows(const NormBackwardArgs<T>& a) {
  using A = Acc<T>;
  for (int64_t t = a.begin; t < a.end; ++t) {
    const T* x = a.x + t * a.width;
    const T* dy = a.dy + t * a.width;
    T* dx = a.dx + t * a.width;
    const A mean = a.stats[2 * t], rstd = a.stats[2 * t + 1];
    A sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
    for (int64_t d = 0; d < a.width; ++d) {
      const A g = static_cast<A>(dy[d]) * static_cast<A>(a.weight[d]);
      sum += g;
      dot += g * ((static_cast<A>(x[d]) - mean) * rstd);
    }
    const A mean_g = a.centre ? sum / static_cast<A>(a.width) : A(0);
    const A mean_dot = dot / static_cast<A>(a.width);
#pragma omp simd
    for (int64_t d = 0; d < a.width; ++d) {
      const A g = static_cast<A>(dy[d]) * static_cast<A>(a.weight[d]);
      const A xhat = (static_cast<A>(x[d]) - mean) * rstd;
      put_rounded(dx, d, rstd * (g - mean_g - xhat * mean_dot));
    }
  }
}

template <typename T>
struct NormSumArgs {
  const T *dy, *x;
  const Acc<T>* stats;
  Acc<T>*dweight, *dbias;  // added to
  int64_t begin, end, width;
};

template <typename T>
[[gnu::always_inline]] inline void norm_sum_rows(const NormSumArgs<T>& a) {
  using A = Acc<T>;
  for (int64_t t = a.begin; t < a.end; ++t) {
    const T* x = a.x + t * a.width;
    const T* dy = a.dy + t * a.width;
    const A mean = a.stats[2 * t], rstd = a.stats[2 * t + 1];
#pragma omp simd
    for (int64_t d = 0; d < a.width; ++d) {
      const A g = static_cast<A>(dy[d]);
      a.dweight[d] += g * ((static_cast<A>(x[d]) - mean) * rstd);
      a.dbias[d] += g;
    }
  }
}

// The clones: a template cannot be one, so each dtype that matters has its own function.
EM_CPU_CLONES void norm_run(const NormForwardArgs<float>& a) { norm_forward_rows(a); }
EM_CPU_CLONES void norm_run(const NormForwardArgs<c10::BFloat16>& a) { norm_forward_rows(a); }
void norm_run(const NormForwardArgs<c10::Half>& a) { norm_forward_rows(a); }
void norm_run(const NormForwardArgs<double>& a) { norm_forward_rows(a); }
EM_CPU_CLONES void norm_run(const NormBackwardArgs<float>& a) { norm_backward_rows(a); }
EM_CPU_CLONES void norm_run(const NormBackwardArgs<c10::BFloat16>& a) { norm_backward_rows(a); }
void norm_run(const NormBackwardArgs<c10::Half>& a) { norm_backward_rows(a); }
void norm_run(const NormBackwardArgs<double>& a) { norm_backward_rows(a); }
EM_CPU_CLONES void norm_run(const NormSumArgs<float>& a) { norm_sum_rows(a); }
EM_CPU_CLONES void norm_run(const NormSumArgs<c10::BFloat16>& a) { norm_sum_rows(a); }
void norm_run(const NormSumArgs<c10::Half>& a) { norm_sum_rows(a); }
void norm_run(const NormSumArgs<double>& a) { norm_sum_rows(a); }

// Sums over the rows of one sample, rounded to the dtype, are added to what the samples before
// gave.
template <typename T>
void norm_parameter_grads(const NormSumArgs<T>& all, const Segments& rows, T* dweight, T* dbias) {
  using A = Acc<T>;
  std::vector<A> sums(static_cast<size_t>(2 * all.width));
  for (int64_t s = 0; s < rows.count(); ++s) {
    if (rows.length(s) == 0) continue;
    std::fill(sums.begin(), sums.end(), A(0));
    NormSumArgs<T> a = all;
    a.begin = rows.begin(s);
    a.end = rows.begin(s) + rows.length(s);
    a.dweight = sums.data();
    a.dbias = sums.data() + all.width;
    norm_run(a);
    for (int64_t d = 0; d < all.width; ++d) {
      const T w = static_cast<T>(a.dweight[d]), b = static_cast<T>(a.dbias[d]);
      dweight[d] = static_cast<T>(static_cast<A>(dweight[d]) + static_cast<A>(w));
      if (dbias != nullptr) dbias[d] = static_cast<T>(static_cast<A>(dbias[d]) + static_cast<A>(b));
    }
  }
}

}  // namespace

NormForward norm_forward(const at::Tensor& x_TD, const at::Tensor& weight_D,
                         const at::Tensor& bias_D, double eps, bool centre) {
  const int64_t rows = x_TD.size(0), width = x_TD.size(1);
  const at::ScalarType wide = x_TD.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor x = x_TD.contiguous(), weight = weight_D.contiguous();
  const at::Tensor bias = bias_D.defined() ? bias_D.contiguous() : at::Tensor();
  NormForward out{at::empty({rows, width}, x.options()),
                  at::empty({rows, 2}, x.options().dtype(wide))};
  for_float_dtype(x.scalar_type(), "norm", [&](auto zero) {
    using T = decltype(zero);
    const NormForwardArgs<T> all{x.const_data_ptr<T>(),
                                 weight.const_data_ptr<T>(),
                                 bias.defined() ? bias.const_data_ptr<T>() : nullptr,
                                 out.y_TD.mutable_data_ptr<T>(),
                                 out.stats_T2.mutable_data_ptr<Acc<T>>(),
                                 0,
                                 rows,
                                 width,
                                 eps,
                                 centre};
    at::parallel_for(0, rows, kNormRowsGrain, [&](int64_t begin, int64_t end) {
      NormForwardArgs<T> part = all;
      part.begin = begin;
      part.end = end;
      norm_run(part);
    });
  });
  return out;
}

namespace {

template <typename T>
void rms_norm_any(const RmsNormRows<T>& rows) {
  norm_run(NormForwardArgs<T>{rows.x_TD, rows.weight_D, nullptr, rows.y_TD, nullptr, rows.begin,
                              rows.end, rows.width, rows.eps, /*centre=*/false});
}

}  // namespace

void rms_norm_rows(const RmsNormRows<float>& rows) { rms_norm_any(rows); }
void rms_norm_rows(const RmsNormRows<c10::BFloat16>& rows) { rms_norm_any(rows); }
void rms_norm_rows(const RmsNormRows<c10::Half>& rows) { rms_norm_any(rows); }

NormGrads norm_backward(const at::Tensor& dy_TD, const at::Tensor& x_TD, const at::Tensor& weight_D,
                        const at::Tensor& stats_T2, bool centre, const Segments& rows,
                        NormWanted wanted) {
  const int64_t width = x_TD.size(1);
  const at::Tensor x = x_TD.contiguous(), weight = weight_D.contiguous();
  const at::Tensor dy = dy_TD.contiguous();
  NormGrads out;
  for_float_dtype(x.scalar_type(), "norm", [&](auto zero) {
    using T = decltype(zero);
    const auto* stats = stats_T2.const_data_ptr<Acc<T>>();
    if (wanted.dx) {
      out.dx_TD = at::empty_like(x);
      const NormBackwardArgs<T> all{dy.const_data_ptr<T>(),
                                    x.const_data_ptr<T>(),
                                    weight.const_data_ptr<T>(),
                                    stats,
                                    out.dx_TD.mutable_data_ptr<T>(),
                                    0,
                                    x.size(0),
                                    width,
                                    centre};
      at::parallel_for(0, x.size(0), kNormRowsGrain, [&](int64_t begin, int64_t end) {
        NormBackwardArgs<T> part = all;
        part.begin = begin;
        part.end = end;
        norm_run(part);
      });
    }
    if (wanted.dweight || wanted.dbias) {
      out.dweight_D = at::zeros_like(weight);
      if (wanted.dbias) out.dbias_D = at::zeros_like(weight);
      const NormSumArgs<T> all{
          dy.const_data_ptr<T>(), x.const_data_ptr<T>(), stats, nullptr, nullptr, 0, 0, width};
      norm_parameter_grads(all, rows.per_sample ? rows : Segments::one(x.size(0)),
                           out.dweight_D.mutable_data_ptr<T>(),
                           wanted.dbias ? out.dbias_D.mutable_data_ptr<T>() : nullptr);
      if (!wanted.dweight) out.dweight_D = at::Tensor();
    }
  });
  return out;
}

}  // namespace euromodal
