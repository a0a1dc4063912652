// cross_entropy.cpp — see cross_entropy.h. R labelled rows, D width, V vocabulary, K rank of an
// update. For a chunk of rows: logits Z = H Wᵀ + U Bᵀ, row loss = w · (lse(Z) - (1 - e) Z[label] -
// e mean(Z) + z lse(Z)²), and in place dZ = w · ((1 + 2 z lse(Z)) softmax(Z) - (1 - e) onehot - e /
// V); then dH = dZ W, dW += dZᵀ H, and dU and dB in the same way.
#include "backbone/kernels/cross_entropy/cross_entropy.h"

#include <cmath>
#include <optional>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "backbone/kernels/autograd.h"
#include "backbone/kernels/checks.h"
#include "backbone/kernels/cuda_ops.h"
#include "backbone/kernels/matmul.h"
#include "backbone/kernels/row_losses.h"
#include "backbone/kernels/simd.h"

namespace euromodal {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

template <typename A>
struct LossRowsArgs {
  A* logits;  // [rows, vocab]; becomes its own gradient where `grads`
  const int64_t* labels;
  const A* row_weight;  // null: all 1
  A* loss;
  int64_t begin, end, vocab;
  A smoothing, z_loss;
  bool grads;
};

template <typename A>
[[gnu::always_inline]] inline void loss_rows(const LossRowsArgs<A>& a) {
  for (int64_t r = a.begin; r < a.end; ++r) {
    A* z = a.logits + r * a.vocab;
    const A weight = a.row_weight != nullptr ? a.row_weight[r] : A(1);
    A highest = z[0], total = 0;
#pragma omp simd reduction(max : highest) reduction(+ : total)
    for (int64_t v = 0; v < a.vocab; ++v) {
      highest = z[v] > highest ? z[v] : highest;
      total += z[v];
    }
    const A at_label = z[a.labels[r]];
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t v = 0; v < a.vocab; ++v) {
      const A e = fast_exp(z[v] - highest);
      sum += e;
      z[v] = e;
    }
    const A mean = total / static_cast<A>(a.vocab);
    const A lse = highest + std::log(sum);
    const A loss =
        lse - (A(1) - a.smoothing) * at_label - a.smoothing * mean + a.z_loss * lse * lse;
    a.loss[r] = weight * loss;
    if (!a.grads) continue;
    const A scale = weight * (A(1) + A(2) * a.z_loss * lse) / sum,
            flat = weight * a.smoothing / static_cast<A>(a.vocab);
#pragma omp simd
    for (int64_t v = 0; v < a.vocab; ++v) z[v] = z[v] * scale - flat;
    z[a.labels[r]] -= weight * (A(1) - a.smoothing);
  }
}

EM_CPU_CLONES void loss_run(const LossRowsArgs<float>& a) { loss_rows(a); }
void loss_run(const LossRowsArgs<double>& a) { loss_rows(a); }

struct LossOut {
  at::Tensor loss;                                      // scalar
  at::Tensor row_loss_R;                                // [R]
  at::Tensor dhidden_RD, dweight_VD, dlow_RK, dlow_VK;  // undefined where not asked for
};

struct LossWanted {
  bool dhidden = false, dweight = false, dlow_rows = false, dlow_table = false;
  bool any() const { return dhidden || dweight || dlow_rows || dlow_table; }
};

/// The gradient of a table over the vocabulary: the sum of a sample (or of all rows as one) is
/// rounded to the table's dtype.
struct LossTable {
  at::Tensor sample_VD, all_VD;

  void add(const at::Tensor& dz_CV, const at::Tensor& h_CD, at::ScalarType wide) {
    if (!sample_VD.defined())
      sample_VD = at::mm(dz_CV.t(), h_CD).to(wide);
    else if (sample_VD.scalar_type() == dz_CV.scalar_type())
      sample_VD.addmm_(dz_CV.t(), h_CD);
    else
      sample_VD.add_(at::mm(dz_CV.t(), h_CD));
  }
  void sample_done(at::ScalarType dtype) {
    if (!sample_VD.defined()) return;
    sample_VD = sample_VD.to(dtype);
    all_VD.defined() ? all_VD.add_(sample_VD) : all_VD = sample_VD;
    sample_VD.reset();
  }
  at::Tensor finish(const at::Tensor& table_VD) {
    return all_VD.defined() ? all_VD : at::zeros_like(table_VD);
  }
};

struct LossRun {
  const CrossEntropyArgs& args;
  LossWanted wanted;
  RowLosses rows;
  LossOut out;
  LossTable weight, low;

  // Rows [begin, begin + count) of one chunk; gradients of tables are added up.
  void chunk(int64_t begin, int64_t count, bool aligned) {
    const auto cut = [&](const at::Tensor& rows_RD) {
      return aligned ? aligned_rows(rows_RD, begin, count) : rows_RD.narrow(0, begin, count);
    };
    const at::Tensor h_CD = cut(args.hidden_RD);
    at::Tensor z_CV = at::mm(h_CD, args.weight_VD.t()), u_CK;
    if (args.low_RK.defined()) {
      u_CK = cut(args.low_RK);
      z_CV.addmm_(u_CK, args.low_VK.t());
    }
    if (z_CV.is_cuda()) {
      device_rows(z_CV, begin, wanted.any());  // in the dtype of the product
    } else {
      z_CV = z_CV.to(rows.wide);
      host_rows(z_CV, begin, wanted.any());
    }
    const at::Tensor dz_CV = z_CV.to(args.hidden_RD.scalar_type());
    if (wanted.dhidden) out.dhidden_RD.narrow(0, begin, count).copy_(at::mm(dz_CV, args.weight_VD));
    if (wanted.dlow_rows) out.dlow_RK.narrow(0, begin, count).copy_(at::mm(dz_CV, args.low_VK));
    if (wanted.dweight) weight.add(dz_CV, h_CD, rows.wide);
    if (wanted.dlow_table) low.add(dz_CV, u_CK, rows.wide);
  }

  // Losses of the chunk's rows; z_CV becomes its own gradient where `grads`.
  void host_rows(const at::Tensor& z_CV, int64_t begin, bool grads) {
    const int64_t count = z_CV.size(0);
    const auto run = [&](auto zero) {
      using A = decltype(zero);
      const LossRowsArgs<A> all{
          z_CV.mutable_data_ptr<A>(),
          args.labels_R.const_data_ptr<int64_t>() + begin,
          rows.weight_R.defined() ? rows.weight_R.const_data_ptr<A>() + begin : nullptr,
          rows.loss_R.mutable_data_ptr<A>() + begin,
          0,
          count,
          z_CV.size(1),
          static_cast<A>(args.label_smoothing),
          static_cast<A>(args.z_loss),
          grads};
      at::parallel_for(0, count, /*grain_size=*/8, [&](int64_t first, int64_t last) {
        LossRowsArgs<A> part = all;
        part.begin = first;
        part.end = last;
        loss_run(part);
      });
    };
    rows.wide == at::kDouble ? run(double{}) : run(float{});
  }

  void device_rows(const at::Tensor& z_CV, int64_t begin, bool grads) {
    const int64_t count = z_CV.size(0);
    cuda_ops().cross_entropy_rows({.logits_CV = z_CV,
                                   .labels_C = args.labels_R.narrow(0, begin, count),
                                   .row_weight_C = rows.weights(begin, count),
                                   .loss_C = rows.loss_R.narrow(0, begin, count),
                                   .smoothing = args.label_smoothing,
                                   .z_loss = args.z_loss,
                                   .gradient = grads});
  }

  void sample_done() {
    weight.sample_done(args.weight_VD.scalar_type());
    low.sample_done(args.weight_VD.scalar_type());
  }
};

LossOut loss_forward(const CrossEntropyArgs& args, const Segments& rows, LossWanted wanted) {
  LossRun run{args, wanted, {args.hidden_RD, args.row_weight_R}, {}, {}, {}};
  LossOut& out = run.out;
  out.row_loss_R = run.rows.loss_R;
  if (wanted.dhidden) out.dhidden_RD = at::empty_like(args.hidden_RD);
  if (wanted.dlow_rows) out.dlow_RK = at::empty_like(args.low_RK);
  for_row_chunks(
      rows, args.hidden_RD.size(0), args.chunk_rows,
      [&](int64_t begin, int64_t count, bool aligned) { run.chunk(begin, count, aligned); },
      [&] { run.sample_done(); });
  if (wanted.dweight) out.dweight_VD = run.weight.finish(args.weight_VD);
  if (wanted.dlow_table) out.dlow_VK = run.low.finish(args.low_VK);
  out.loss = sum_row_losses(out.row_loss_R, rows);
  return out;
}

struct LossFunction final : torch::autograd::Function<LossFunction> {
  // the update's tensors behind the others: those that are not there have no number in
  // needs_input_grad()
  static variable_list forward(AutogradContext* ctx, const at::Tensor& hidden_RD,
                               const at::Tensor& weight_VD, const std::optional<at::Tensor>& low_RK,
                               const std::optional<at::Tensor>& low_VK,
                               const CrossEntropyArgs& args, const Segments& rows) {
    CrossEntropyArgs plain = args;
    plain.hidden_RD = hidden_RD.detach();
    plain.weight_VD = weight_VD.detach();
    LossWanted wanted{hidden_RD.requires_grad(), weight_VD.requires_grad(), false, false};
    if (low_RK) {
      plain.low_RK = low_RK->detach();
      plain.low_VK = low_VK->detach();
      wanted.dlow_rows = low_RK->requires_grad();
      wanted.dlow_table = low_VK->requires_grad();
    }
    const LossOut out = loss_forward(plain, rows, wanted);
    ctx->save_for_backward({out.dhidden_RD, out.dweight_VD, out.dlow_RK, out.dlow_VK});
    ctx->mark_non_differentiable({out.row_loss_R});
    return {out.loss, out.row_loss_R};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const auto scaled = [&](size_t i) {
      return saved[i].defined() ? saved[i] * grads[0].to(saved[i].scalar_type()) : at::Tensor();
    };
    return {scaled(0), scaled(1), scaled(2), scaled(3), at::Tensor(), at::Tensor()};
  }
};

void loss_check(const CrossEntropyArgs& args, const Segments& rows) {
  const char* op = "linear_cross_entropy";
  check_shape(args.hidden_RD, {-1, -1}, op, "hidden_RD");
  const int64_t count = args.hidden_RD.size(0);
  check_shape(args.weight_VD, {-1, args.hidden_RD.size(1)}, op, "weight_VD");
  check_same(args.weight_VD, args.hidden_RD, op, "weight_VD");
  check(args.low_RK.defined() == args.low_VK.defined(), "{}: low_RK and low_VK go together", op);
  if (args.low_RK.defined()) {
    check_shape(args.low_RK, {count, -1}, op, "low_RK");
    check_same(args.low_RK, args.hidden_RD, op, "low_RK");
    check_shape(args.low_VK, {args.weight_VD.size(0), args.low_RK.size(1)}, op, "low_VK");
    check_same(args.low_VK, args.hidden_RD, op, "low_VK");
  }
  check_shape(args.labels_R, {count}, op, "labels_R");
  check(
      args.labels_R.scalar_type() == at::kLong && args.labels_R.device() == args.hidden_RD.device(),
      "{}: labels_R must be Long on {}", op, args.hidden_RD.device().str());
  if (args.row_weight_R.defined()) check_shape(args.row_weight_R, {count}, op, "row_weight_R");
  check(args.label_smoothing >= 0.0 && args.label_smoothing < 1.0,
        "{}: label_smoothing is {}, expected [0, 1)", op, args.label_smoothing);
  check(args.z_loss >= 0.0, "{}: z_loss is {}, expected 0 or more", op, args.z_loss);
  check(args.chunk_rows > 0, "{}: chunk_rows is {}, expected 1 or more", op, args.chunk_rows);
  if (rows.per_sample) check_segments(rows, count, op);
  check(args.hidden_RD.is_cpu() || !rows.per_sample,
        "{}: sums sample by sample have a CPU implementation only", op);
  if (!args.labels_R.is_cpu()) return;  // looked at by the kernel: no wait for the device here
  const int64_t* labels = args.labels_R.const_data_ptr<int64_t>();
  for (int64_t r = 0; r < count; ++r)
    check<DataError>(labels[r] >= 0 && labels[r] < args.weight_VD.size(0),
                     "{}: label {} of row {} lies outside the vocabulary of {}", op, labels[r], r,
                     args.weight_VD.size(0));
}

}  // namespace

at::Tensor linear_cross_entropy(const CrossEntropyArgs& given, const Segments& rows) {
  CrossEntropyArgs args = given;
  check(args.labels_R.defined(), "linear_cross_entropy: labels_R is undefined");
  args.labels_R = args.labels_R.contiguous();
  loss_check(args, rows);
  args.hidden_RD = args.hidden_RD.contiguous();
  const bool low = args.low_RK.defined();
  if (low) args.low_RK = args.low_RK.contiguous();
  if (!needs_graph(args.hidden_RD, args.weight_VD) &&
      !(low && needs_graph(args.low_RK, args.low_VK))) {
    const LossOut out = loss_forward(args, rows, {});
    if (args.row_loss_R != nullptr) *args.row_loss_R = out.row_loss_R;
    return out.loss;
  }
  const auto optional = [&](const at::Tensor& tensor) {
    return low ? std::optional(tensor) : std::nullopt;
  };
  const variable_list out = LossFunction::apply(
      args.hidden_RD, args.weight_VD, optional(args.low_RK), optional(args.low_VK), args, rows);
  if (args.row_loss_R != nullptr) *args.row_loss_R = out[1].detach();
  return out[0];
}

}  // namespace euromodal
