// decode_attention.cpp — see decode_attention.h: checks, and a plan (decode_plan.h) run at once.
#include "backbone/kernels/decode_attention/decode_attention.h"

#include <atomic>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "backbone/kernels/checks.h"
#include "backbone/kernels/decode_attention/decode_plan.h"
#include "backbone/kernels/team.h"

namespace euromodal {

namespace {

void decode_check(const at::Tensor& q_THN, const KvLayout& layout, int64_t layer,
                  std::span<const DecodeSequence> sequences, const at::Tensor& out_THN) {
  check_shape(q_THN, {-1, -1, layout.head_dim}, "decode_attention", "q_THN");
  check_shape(out_THN, q_THN.sizes(), "decode_attention", "out_THN");
  check_like(out_THN, q_THN, "decode_attention", "out_THN");
  check(out_THN.is_contiguous(), "decode_attention: out_THN is not contiguous");
  check(layer >= 0 && layer < layout.layers, "decode_attention: layer {} of {}", layer,
        layout.layers);
  for (const DecodeSequence& s : sequences)
    check(s.row >= 0 && s.rows >= 0 && s.row + s.rows <= q_THN.size(0),
          "decode_attention: rows {} to {} of {}", s.row, s.row + s.rows, q_THN.size(0));
}

template <typename T>
void run_plan(const DecodePlan& plan, int64_t threads, const at::Tensor& q_THN, int64_t layer,
              const at::Tensor& out_THN) {
  const at::Tensor space = at::empty({plan.floats()}, at::kFloat);
  auto* const workspace = space.mutable_data_ptr<float>();
  const T* const q = q_THN.const_data_ptr<T>();
  T* const out = out_THN.mutable_data_ptr<T>();
  std::atomic<int64_t> taken = 0;
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t rank = begin; rank < end; ++rank)
      plan.work(taken, rank, layer, q, q_THN.stride(0), workspace);
  });
  const int64_t grain = std::max<int64_t>(1, 65536 * plan.joins() / plan.floats());
  at::parallel_for(0, plan.joins(), grain, [&](int64_t first, int64_t last) {
    plan.join(first, last, workspace, out, out_THN.stride(0));
  });
}

}  // namespace

void decode_attention(const at::Tensor& q_any, const KvLayout& layout, int64_t layer,
                      std::span<const DecodeSequence> sequences, double scale,
                      const at::Tensor& out_THN, CpuIsa isa) {
  decode_check(q_any, layout, layer, sequences, out_THN);
  const at::Tensor q_THN = q_any.contiguous();
  const int64_t threads = team_size();
  const DecodePlan plan(layout, sequences, q_THN.size(1), q_THN.scalar_type() == at::kBFloat16,
                        scale, threads, isa);
  if (plan.parts() == 0) return;
  switch (q_THN.scalar_type()) {
    case at::kFloat:
      return run_plan<float>(plan, threads, q_THN, layer, out_THN);
    case at::kBFloat16:
      return run_plan<c10::BFloat16>(plan, threads, q_THN, layer, out_THN);
    case at::kHalf:
      return run_plan<c10::Half>(plan, threads, q_THN, layer, out_THN);
    default:
      throw Error("decode_attention: dtype is {}, expected float32, bfloat16 or float16",
                  c10::toString(q_THN.scalar_type()));
  }
}

}  // namespace euromodal
