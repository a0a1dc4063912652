// cross_entropy.cpp — see cross_entropy.h. R labelled rows, D width, V vocabulary. For a chunk of
// rows: logits Z = H Wᵀ, row loss = w · (lse(Z) - (1 - e) Z[label] - e mean(Z) + z lse(Z)²), and in
// place dZ = w · ((1 + 2 z lse(Z)) softmax(Z) - (1 - e) onehot - e / V); then dH = dZ W and dW +=
// dZᵀ H.
#include "backbone/kernels/cross_entropy/cross_entropy.h"

#include <cmath>
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
  at::Tensor loss;                    // scalar
  at::Tensor row_loss_R;              // [R]
  at::Tensor dhidden_RD, dweight_VD;  // undefined where not asked for
};

struct LossWanted {
  bool dhidden = false, dweight = false;
};

struct LossRun {
  const CrossEntropyArgs& args;
  LossWanted wanted;
  RowLosses rows;
  LossOut out;
  at::Tensor dweight;  // of the sample so far, wide

  // Rows [begin, begin + count) of one chunk; the weight gradient is added to dweight.
  void chunk(int64_t begin, int64_t count, bool aligned) {
    const at::Tensor h_CD = aligned ? aligned_rows(args.hidden_RD, begin, count)
                                    : args.hidden_RD.narrow(0, begin, count);
    const bool grads = wanted.dhidden || wanted.dweight;
    at::Tensor z_CV = at::mm(h_CD, args.weight_VD.t());
    if (z_CV.is_cuda()) {
      device_rows(z_CV, begin, grads);  // in the dtype of the product
    } else {
      z_CV = z_CV.to(rows.wide);
      host_rows(z_CV, begin, grads);
    }
    const at::Tensor dz_CV = z_CV.to(args.hidden_RD.scalar_type());
    if (wanted.dhidden) out.dhidden_RD.narrow(0, begin, count).copy_(at::mm(dz_CV, args.weight_VD));
    if (wanted.dweight) {
      if (!dweight.defined())
        dweight = at::mm(dz_CV.t(), h_CD).to(rows.wide);
      else if (dweight.scalar_type() == dz_CV.scalar_type())
        dweight.addmm_(dz_CV.t(), h_CD);
      else
        dweight.add_(at::mm(dz_CV.t(), h_CD));
    }
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

  // The weight gradient of a sample (or of all rows as one) is rounded to the weight's dtype.
  void sample_done() {
    if (!dweight.defined()) return;
    dweight = dweight.to(args.weight_VD.scalar_type());
    out.dweight_VD.defined() ? out.dweight_VD.add_(dweight) : out.dweight_VD = dweight;
    dweight.reset();
  }
};

LossOut loss_forward(const CrossEntropyArgs& args, const Segments& rows, LossWanted wanted) {
  LossRun run{args, wanted, {args.hidden_RD, args.row_weight_R}, {}, {}};
  run.out.row_loss_R = run.rows.loss_R;
  if (wanted.dhidden) run.out.dhidden_RD = at::empty_like(args.hidden_RD);
  for_row_chunks(
      rows, args.hidden_RD.size(0), args.chunk_rows,
      [&](int64_t begin, int64_t count, bool aligned) { run.chunk(begin, count, aligned); },
      [&] { run.sample_done(); });
  if (wanted.dweight && !run.out.dweight_VD.defined())
    run.out.dweight_VD = at::zeros_like(args.weight_VD);
  run.out.loss = sum_row_losses(run.out.row_loss_R, rows);
  return run.out;
}

struct LossFunction final : torch::autograd::Function<LossFunction> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& hidden_RD,
                               const at::Tensor& weight_VD, const CrossEntropyArgs& args,
                               const Segments& rows) {
    CrossEntropyArgs plain = args;
    plain.hidden_RD = hidden_RD.detach();
    plain.weight_VD = weight_VD.detach();
    const LossOut out =
        loss_forward(plain, rows, {hidden_RD.requires_grad(), weight_VD.requires_grad()});
    ctx->save_for_backward({out.dhidden_RD, out.dweight_VD});
    ctx->mark_non_differentiable({out.row_loss_R});
    return {out.loss, out.row_loss_R};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    const auto scaled = [&](size_t i) {
      return ctx->needs_input_grad(i) ? saved[i] * grads[0].to(saved[i].scalar_type())
                                      : at::Tensor();
    };
    return {scaled(0), scaled(1), at::Tensor(), at::Tensor()};
  }
};

void loss_check(const CrossEntropyArgs& args, const Segments& rows) {
  const char* op = "linear_cross_entropy";
  check_shape(args.hidden_RD, {-1, -1}, op, "hidden_RD");
  const int64_t count = args.hidden_RD.size(0);
  check_shape(args.weight_VD, {-1, args.hidden_RD.size(1)}, op, "weight_VD");
  check_same(args.weight_VD, args.hidden_RD, op, "weight_VD");
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
  if (!needs_graph(args.hidden_RD, args.weight_VD)) {
    const LossOut out = loss_forward(args, rows, {});
    if (args.row_loss_R != nullptr) *args.row_loss_R = out.row_loss_R;
    return out.loss;
  }
  const variable_list out = LossFunction::apply(args.hidden_RD, args.weight_VD, args, rows);
  if (args.row_loss_R != nullptr) *args.row_loss_R = out[1].detach();
  return out[0];
}

}  // namespace euromodal
