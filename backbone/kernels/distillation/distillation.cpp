// distillation.cpp — see distillation.h. R rows, D width, V vocabulary, T temperature. For a chunk
// of rows: student logits Z = H Wᵀ, teacher logits Y = G Wᵀ; row loss = w · sum p (log p - log q),
// and in place dZ = w / T · (q - p); then dH = dZ W.
#include "backbone/kernels/distillation/distillation.h"

#include <cmath>

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
struct DistillRowsArgs {
  A* student;           // [rows, vocab] logits; becomes its own gradient where `grads`
  A* teacher;           // [rows, vocab] logits; overwritten
  const A* row_weight;  // null: all 1
  A* loss;
  int64_t begin, end, vocab;
  A inverse_temperature;
  bool grads;
};

template <typename A>
[[gnu::always_inline]] inline void distill_rows(const DistillRowsArgs<A>& a) {
  for (int64_t r = a.begin; r < a.end; ++r) {
    A* z = a.student + r * a.vocab;
    A* y = a.teacher + r * a.vocab;
    const A weight = a.row_weight != nullptr ? a.row_weight[r] : A(1);
    A highest_z = z[0], highest_y = y[0];
#pragma omp simd reduction(max : highest_z) reduction(max : highest_y)
    for (int64_t v = 0; v < a.vocab; ++v) {
      highest_z = z[v] > highest_z ? z[v] : highest_z;
      highest_y = y[v] > highest_y ? y[v] : highest_y;
    }
    A sum_z = 0, sum_y = 0, cross = 0;
#pragma omp simd reduction(+ : sum_z) reduction(+ : sum_y) reduction(+ : cross)
    for (int64_t v = 0; v < a.vocab; ++v) {
      const A low_z = (z[v] - highest_z) * a.inverse_temperature;
      const A low_y = (y[v] - highest_y) * a.inverse_temperature;
      const A q = fast_exp(low_z), p = fast_exp(low_y);
      sum_z += q;
      sum_y += p;
      cross += p * (low_y - low_z);
      z[v] = q;
      y[v] = p;
    }
    a.loss[r] = weight * (cross / sum_y - std::log(sum_y) + std::log(sum_z));
    if (!a.grads) continue;
    const A scale = weight * a.inverse_temperature;
    const A scale_z = scale / sum_z, scale_y = scale / sum_y;
#pragma omp simd
    for (int64_t v = 0; v < a.vocab; ++v) z[v] = z[v] * scale_z - y[v] * scale_y;
  }
}

EM_CPU_CLONES void distill_run(const DistillRowsArgs<float>& a) { distill_rows(a); }
void distill_run(const DistillRowsArgs<double>& a) { distill_rows(a); }

struct DistillOut {
  at::Tensor loss;         // scalar
  at::Tensor row_loss_R;   // [R]
  at::Tensor dstudent_RD;  // undefined where not asked for
};

struct DistillRun {
  const DistillationArgs& args;
  RowLosses rows;
  at::Tensor dstudent_RD;

  void chunk(int64_t begin, int64_t count, bool aligned) {
    const auto logits = [&](const at::Tensor& hidden_RD) {
      const at::Tensor h_CD =
          aligned ? aligned_rows(hidden_RD, begin, count) : hidden_RD.narrow(0, begin, count);
      const at::Tensor product_CV = at::mm(h_CD, args.weight_VD.t());
      return product_CV.is_cuda() ? product_CV : product_CV.to(rows.wide);
    };
    const at::Tensor z_CV = logits(args.student_RD), y_CV = logits(args.teacher_RD);
    z_CV.is_cuda() ? device_rows(z_CV, y_CV, begin) : host_rows(z_CV, y_CV, begin);
    if (dstudent_RD.defined())
      dstudent_RD.narrow(0, begin, count)
          .copy_(at::mm(z_CV.to(args.student_RD.scalar_type()), args.weight_VD));
  }

  // Losses of the chunk's rows; z_CV becomes its own gradient where one is wanted.
  void device_rows(const at::Tensor& z_CV, const at::Tensor& y_CV, int64_t begin) {
    const int64_t count = z_CV.size(0);
    cuda_ops().distillation_rows({.student_CV = z_CV,
                                  .teacher_CV = y_CV,
                                  .row_weight_C = rows.weights(begin, count),
                                  .loss_C = rows.loss_R.narrow(0, begin, count),
                                  .temperature = args.temperature,
                                  .gradient = dstudent_RD.defined()});
  }

  void host_rows(const at::Tensor& z_CV, const at::Tensor& y_CV, int64_t begin) {
    const int64_t count = z_CV.size(0);
    const auto run = [&](auto zero) {
      using A = decltype(zero);
      const DistillRowsArgs<A> all{
          z_CV.mutable_data_ptr<A>(),
          y_CV.mutable_data_ptr<A>(),
          rows.weight_R.defined() ? rows.weight_R.const_data_ptr<A>() + begin : nullptr,
          rows.loss_R.mutable_data_ptr<A>() + begin,
          0,
          count,
          z_CV.size(1),
          static_cast<A>(1.0 / args.temperature),
          dstudent_RD.defined()};
      at::parallel_for(0, count, /*grain_size=*/8, [&](int64_t first, int64_t last) {
        DistillRowsArgs<A> part = all;
        part.begin = first;
        part.end = last;
        distill_run(part);
      });
    };
    rows.wide == at::kDouble ? run(double{}) : run(float{});
  }
};

DistillOut distill_forward(const DistillationArgs& args, const Segments& rows, bool gradient) {
  DistillRun run{args, {args.student_RD, args.row_weight_R}, {}};
  if (gradient) run.dstudent_RD = at::empty_like(args.student_RD);
  for_row_chunks(
      rows, args.student_RD.size(0), args.chunk_rows,
      [&](int64_t begin, int64_t count, bool aligned) { run.chunk(begin, count, aligned); }, [] {});
  return {sum_row_losses(run.rows.loss_R, rows), run.rows.loss_R, run.dstudent_RD};
}

struct DistillFunction final : torch::autograd::Function<DistillFunction> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& student_RD,
                               const DistillationArgs& args, const Segments& rows) {
    DistillationArgs plain = args;
    plain.student_RD = student_RD.detach();
    const DistillOut out = distill_forward(plain, rows, /*gradient=*/true);
    ctx->save_for_backward({out.dstudent_RD});
    ctx->mark_non_differentiable({out.row_loss_R});
    return {out.loss, out.row_loss_R};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const at::Tensor saved_RD = ctx->get_saved_variables()[0];
    return {saved_RD * grads[0].to(saved_RD.scalar_type()), at::Tensor(), at::Tensor()};
  }
};

void distill_check(const DistillationArgs& args, const Segments& rows) {
  const char* op = "linear_distillation";
  check_shape(args.student_RD, {-1, -1}, op, "student_RD");
  const int64_t count = args.student_RD.size(0), width = args.student_RD.size(1);
  check_shape(args.teacher_RD, {count, width}, op, "teacher_RD");
  check_same(args.teacher_RD, args.student_RD, op, "teacher_RD");
  check_shape(args.weight_VD, {-1, width}, op, "weight_VD");
  check_same(args.weight_VD, args.student_RD, op, "weight_VD");
  check(!args.weight_VD.requires_grad() && !args.teacher_RD.requires_grad(),
        "{}: only the student has a gradient; teacher and head must be frozen", op);
  if (args.row_weight_R.defined()) check_shape(args.row_weight_R, {count}, op, "row_weight_R");
  check(args.temperature > 0.0, "{}: temperature is {}, expected above 0", op, args.temperature);
  check(args.chunk_rows > 0, "{}: chunk_rows is {}, expected 1 or more", op, args.chunk_rows);
  if (rows.per_sample) check_segments(rows, count, op);
  check(args.student_RD.is_cpu() || !rows.per_sample,
        "{}: sums sample by sample have a CPU implementation only", op);
}

}  // namespace

at::Tensor linear_distillation(const DistillationArgs& given, const Segments& rows) {
  distill_check(given, rows);
  DistillationArgs args = given;
  args.student_RD = args.student_RD.contiguous();
  args.teacher_RD = args.teacher_RD.contiguous();
  at::Tensor loss, row_loss_R;
  if (needs_graph(args.student_RD)) {
    const variable_list out = DistillFunction::apply(args.student_RD, args, rows);
    loss = out[0];
    row_loss_R = out[1].detach();
  } else {
    const DistillOut out = distill_forward(args, rows, /*gradient=*/false);
    loss = out.loss;
    row_loss_R = out.row_loss_R;
  }
  if (args.row_loss_R != nullptr) *args.row_loss_R = row_loss_R;
  return loss;
}

}  // namespace euromodal
