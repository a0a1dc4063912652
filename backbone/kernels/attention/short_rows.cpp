// short_rows.cpp — see short_rows.h. L rows of one sample, M = P + L keys (P of its prefix), N head
// width, padded to whole vectors. Gradients of keys and values: of the L own ones only.
//   S = scale · Q Kᵀ, P = softmax(S), O = P V
//   dP = dO Vᵀ, dS = P · (dP - rowsum(dO · O)), dQ = scale · dS K, dK = scale · dSᵀ Q, dV = Pᵀ dO
#include "backbone/kernels/attention/short_rows.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "backbone/kernels/attention/small_gemm.h"
#include "backbone/kernels/simd.h"

namespace euromodal {

namespace {

using small::Causal;
using small::Gemm;
using small::padded;

// One head's rows inside a packed tensor [T, heads, N].
template <typename T>
struct HeadRows {
  T* data;
  int64_t row;  // stride in elements
};

template <typename T>
struct ShortItem {
  HeadRows<const T> k, v, prefix_k, prefix_v;
  std::vector<HeadRows<const T>> q, out_in, dout;  // one per query head of the group
  std::vector<HeadRows<T>> out, dq;
  HeadRows<T> dk, dv;
  Acc<T>* lse;  // [L, H] from the group's first head
  int64_t lse_row;
  int64_t length, before, width;  // L, P, N
  Acc<T> scale;
  bool causal;
  Acc<T>* scratch;
};

// [L, N] -> [L, Np], zero padded, times factor.
template <typename T>
[[gnu::always_inline]] inline void short_pack(HeadRows<const T> x, int64_t length, int64_t width,
                                              Acc<T> factor, Acc<T>* out) {
  const int64_t ld = padded<Acc<T>>(width);
  for (int64_t i = 0; i < length; ++i) {
#pragma omp simd
    for (int64_t n = 0; n < width; ++n)
      out[i * ld + n] = static_cast<Acc<T>>(x.data[i * x.row + n]) * factor;
    for (int64_t n = width; n < ld; ++n) out[i * ld + n] = 0;
  }
}

// [P, N] and [L, N] -> [N, Mp], zero padded.
template <typename T>
[[gnu::always_inline]] inline void short_pack_transposed(HeadRows<const T> prefix, int64_t before,
                                                         HeadRows<const T> x, int64_t length,
                                                         int64_t width, Acc<T>* out) {
  const int64_t ld = padded<Acc<T>>(before + length);
  for (int64_t n = 0; n < width; ++n) {
    Acc<T>* row = out + n * ld;
    for (int64_t i = 0; i < before; ++i)
      row[i] = static_cast<Acc<T>>(prefix.data[i * prefix.row + n]);
    for (int64_t i = 0; i < length; ++i)
      row[before + i] = static_cast<Acc<T>>(x.data[i * x.row + n]);
    for (int64_t i = before + length; i < ld; ++i) row[i] = 0;
  }
}

template <typename T>
[[gnu::always_inline]] inline void short_store(const Acc<T>* x, int64_t length, int64_t width,
                                               Acc<T> factor, HeadRows<T> out) {
  const int64_t ld = padded<Acc<T>>(width);
  for (int64_t i = 0; i < length; ++i) {
#pragma omp simd
    for (int64_t n = 0; n < width; ++n)
      out.data[i * out.row + n] = static_cast<T>(x[i * ld + n] * factor);
  }
}

// Rows of scores -> probabilities in place (zero above the diagonal and in the padding).
template <typename A>
[[gnu::always_inline]] inline void short_softmax(A* s, int64_t before, int64_t length, bool causal,
                                                 A* lse, int64_t lse_row) {
  const int64_t keys = before + length, ld = padded<A>(keys);
  for (int64_t i = 0; i < length; ++i) {
    A* row = s + i * ld;
    const int64_t n = causal ? before + i + 1 : keys;
    A highest = row[0];
#pragma omp simd reduction(max : highest)
    for (int64_t j = 0; j < n; ++j) highest = row[j] > highest ? row[j] : highest;
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < n; ++j) {
      row[j] = fast_exp(row[j] - highest);
      sum += row[j];
    }
    const A inverse = A(1) / sum;
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) row[j] *= inverse;
    for (int64_t j = n; j < ld; ++j) row[j] = 0;
    lse[i * lse_row] = highest + std::log(sum);
  }
}

template <typename A>
int64_t short_scratch(int64_t before, int64_t length, int64_t width) {  // elements
  const int64_t keys = before + length;
  return (7 * length + keys) * padded<A>(width) + 2 * width * padded<A>(keys) +
         2 * length * padded<A>(keys);
}

template <typename T>
[[gnu::always_inline]] inline void short_forward(const ShortItem<T>& item) {
  using A = Acc<T>;
  const int64_t length = item.length, before = item.before, width = item.width;
  const int64_t keys = before + length, ldn = padded<A>(width), ldm = padded<A>(keys);
  A* q = item.scratch;
  A* v = q + length * ldn;
  A* o = v + keys * ldn;
  A* kt = o + length * ldn;
  A* s = kt + width * ldm;
  short_pack_transposed<T>(item.prefix_k, before, item.k, length, width, kt);
  short_pack<T>(item.prefix_v, before, width, A(1), v);
  short_pack<T>(item.v, length, width, A(1), v + before * ldn);
  const Causal columns = item.causal ? Causal::kColumnsUpToRow : Causal::kNone;
  const Causal sums = item.causal ? Causal::kSumUpToRow : Causal::kNone;
  for (size_t g = 0; g < item.q.size(); ++g) {
    short_pack<T>(item.q[g], length, width, item.scale, q);
    small::run(Gemm<A>{q, ldn, 1, kt, ldm, s, ldm, length, keys, width, columns, before});
    short_softmax<A>(s, before, length, item.causal, item.lse + g, item.lse_row);
    small::run(Gemm<A>{s, ldm, 1, v, ldn, o, ldn, length, width, keys, sums, before});
    short_store<T>(o, length, width, A(1), item.out[g]);
  }
}

template <typename T>
[[gnu::always_inline]] inline void short_backward(const ShortItem<T>& item) {
  using A = Acc<T>;
  const int64_t length = item.length, before = item.before, width = item.width;
  const int64_t keys = before + length, ldn = padded<A>(width), ldm = padded<A>(keys);
  const int64_t block = length * ldn;
  A* q = item.scratch;
  A* dout = q + block;
  A* dq = dout + block;
  A* dk = dq + block;
  A* dv = dk + block;
  A* part = dv + block;
  A* k = part + 2 * block;
  A* kt = k + keys * ldn;
  A* vt = kt + width * ldm;
  A* p = vt + width * ldm;
  A* ds = p + length * ldm;
  short_pack_transposed<T>(item.prefix_k, before, item.k, length, width, kt);
  short_pack_transposed<T>(item.prefix_v, before, item.v, length, width, vt);
  short_pack<T>(item.prefix_k, before, width, A(1), k);
  short_pack<T>(item.k, length, width, A(1), k + before * ldn);
  const Causal columns = item.causal ? Causal::kColumnsUpToRow : Causal::kNone;
  const Causal sums = item.causal ? Causal::kSumUpToRow : Causal::kNone;
  const Causal from = item.causal ? Causal::kSumFromRow : Causal::kNone;
  for (size_t g = 0; g < item.q.size(); ++g) {
    short_pack<T>(item.q[g], length, width, item.scale, q);
    short_pack<T>(item.dout[g], length, width, A(1), dout);
    small::run(Gemm<A>{q, ldn, 1, kt, ldm, p, ldm, length, keys, width, columns, before});
    small::run(Gemm<A>{dout, ldn, 1, vt, ldm, ds, ldm, length, keys, width, columns, before});
    for (int64_t i = 0; i < length; ++i) {
      const T* out = item.out_in[g].data + i * item.out_in[g].row;
      A delta = 0;
#pragma omp simd reduction(+ : delta)
      for (int64_t n = 0; n < width; ++n) delta += dout[i * ldn + n] * static_cast<A>(out[n]);
      A *p_row = p + i * ldm, *ds_row = ds + i * ldm;
      const A lse = item.lse[i * item.lse_row + static_cast<int64_t>(g)];
      const int64_t n = item.causal ? before + i + 1 : keys;
#pragma omp simd
      for (int64_t j = 0; j < n; ++j) {
        p_row[j] = fast_exp(p_row[j] - lse);
        ds_row[j] = p_row[j] * (ds_row[j] - delta);
      }
      for (int64_t j = n; j < ldm; ++j) p_row[j] = ds_row[j] = 0;
    }
    small::run(Gemm<A>{ds, ldm, 1, k, ldn, dq, ldn, length, width, keys, sums, before});
    short_store<T>(dq, length, width, item.scale, item.dq[g]);
    // the first head of the group writes, the others add
    A* dk_g = g == 0 ? dk : part;
    A* dv_g = g == 0 ? dv : part + block;
    small::run(Gemm<A>{ds + before, 1, ldm, q, ldn, dk_g, ldn, length, width, length, from});
    small::run(Gemm<A>{p + before, 1, ldm, dout, ldn, dv_g, ldn, length, width, length, from});
    if (g > 0) {
#pragma omp simd
      for (int64_t i = 0; i < block; ++i) {
        dk[i] += dk_g[i];
        dv[i] += dv_g[i];
      }
    }
  }
  short_store<T>(dk, length, width, A(1), item.dk);
  short_store<T>(dv, length, width, A(1), item.dv);
}

EM_CPU_CLONES void short_run_forward(const ShortItem<float>& i) { short_forward(i); }
EM_CPU_CLONES void short_run_forward(const ShortItem<c10::BFloat16>& i) { short_forward(i); }
void short_run_forward(const ShortItem<c10::Half>& i) { short_forward(i); }
void short_run_forward(const ShortItem<double>& i) { short_forward(i); }
EM_CPU_CLONES void short_run_backward(const ShortItem<float>& i) { short_backward(i); }
EM_CPU_CLONES void short_run_backward(const ShortItem<c10::BFloat16>& i) { short_backward(i); }
void short_run_backward(const ShortItem<c10::Half>& i) { short_backward(i); }
void short_run_backward(const ShortItem<double>& i) { short_backward(i); }

template <typename T>
HeadRows<const T> short_head(const at::Tensor& x_TXN, int64_t row, int64_t head) {
  return {x_TXN.const_data_ptr<T>() + row * x_TXN.stride(0) + head * x_TXN.stride(1),
          x_TXN.stride(0)};
}
template <typename T>
HeadRows<T> short_head_out(const at::Tensor& x_TXN, int64_t row, int64_t head) {
  return {x_TXN.mutable_data_ptr<T>() + row * x_TXN.stride(0) + head * x_TXN.stride(1),
          x_TXN.stride(0)};
}

// Runs f(item, sample, kv head) for every key/value head of every listed sample.
template <typename T, typename F>
void short_for_each(const AttentionArgs& args, const Segments& rows,
                    const std::vector<int64_t>& samples, const at::Tensor& lse_TH, F&& f) {
  const int64_t kv_heads = args.k_TKN.size(1), group = args.q_THN.size(1) / kv_heads;
  const int64_t width = args.q_THN.size(2);
  int64_t elements = 0;
  for (const int64_t s : samples)
    elements = std::max(
        elements, short_scratch<Acc<T>>(attention_prefix(args, s).length(), rows.length(s), width));
  const int64_t items = static_cast<int64_t>(samples.size()) * kv_heads;
  at::parallel_for(0, items, /*grain_size=*/4, [&](int64_t begin, int64_t end) {
    const at::Tensor scratch = at::empty({elements}, lse_TH.options());
    ShortItem<T> item;
    item.width = width;
    item.scale = static_cast<Acc<T>>(args.scale);
    item.causal = args.causal;
    item.scratch = scratch.mutable_data_ptr<Acc<T>>();
    item.lse_row = lse_TH.stride(0);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t s = samples[static_cast<size_t>(i / kv_heads)], head = i % kv_heads;
      const int64_t row = rows.begin(s);
      item.length = rows.length(s);
      const AttentionPrefix& prefix = attention_prefix(args, s);
      item.before = prefix.length();
      if (item.before > 0) {
        item.prefix_k = short_head<T>(prefix.k_PKN, 0, head);
        item.prefix_v = short_head<T>(prefix.v_PKN, 0, head);
      }
      item.k = short_head<T>(args.k_TKN, row, head);
      item.v = short_head<T>(args.v_TKN, row, head);
      item.lse = lse_TH.mutable_data_ptr<Acc<T>>() + row * item.lse_row + head * group;
      item.q.clear();
      for (int64_t g = 0; g < group; ++g)
        item.q.push_back(short_head<T>(args.q_THN, row, head * group + g));
      f(item, row, head);
    }
  });
}

}  // namespace

void attention_short_forward(const AttentionArgs& args, const Segments& rows,
                             const std::vector<int64_t>& samples, const at::Tensor& out_THN,
                             const at::Tensor& lse_TH) {
  const int64_t group = args.q_THN.size(1) / args.k_TKN.size(1);
  for_float_dtype(args.q_THN.scalar_type(), "attention", [&](auto zero) {
    using T = decltype(zero);
    short_for_each<T>(args, rows, samples, lse_TH,
                      [&](ShortItem<T>& item, int64_t row, int64_t head) {
                        item.out.clear();
                        for (int64_t g = 0; g < group; ++g)
                          item.out.push_back(short_head_out<T>(out_THN, row, head * group + g));
                        short_run_forward(item);
                      });
  });
}

void attention_short_backward(const AttentionBackwardArgs& args, const Segments& rows,
                              const std::vector<int64_t>& samples) {
  const int64_t group = args.forward.q_THN.size(1) / args.forward.k_TKN.size(1);
  for_float_dtype(args.forward.q_THN.scalar_type(), "attention", [&](auto zero) {
    using T = decltype(zero);
    short_for_each<T>(args.forward, rows, samples, args.lse_TH,
                      [&](ShortItem<T>& item, int64_t row, int64_t head) {
                        item.out_in.clear();
                        item.dout.clear();
                        item.dq.clear();
                        for (int64_t g = 0; g < group; ++g) {
                          const int64_t h = head * group + g;
                          item.out_in.push_back(short_head<T>(args.out_THN, row, h));
                          item.dout.push_back(short_head<T>(args.dout_THN, row, h));
                          item.dq.push_back(short_head_out<T>(args.dq_THN, row, h));
                        }
                        item.dk = short_head_out<T>(args.dk_TKN, row, head);
                        item.dv = short_head_out<T>(args.dv_TKN, row, head);
                        short_run_backward(item);
                      });
  });
}

}  // namespace euromodal
