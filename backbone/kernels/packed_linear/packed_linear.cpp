// packed_linear.cpp — see packed_linear.h: inputs made ready, blocks of all operands shared out
// among the threads in one go (packed_product.h).
#include "backbone/kernels/packed_linear/packed_linear.h"

#include <array>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "backbone/kernels/checks.h"
#include "backbone/kernels/packed_linear/packed_kernels.h"
#include "backbone/kernels/packed_linear/packed_product.h"
#include "core/error.h"

namespace euromodal {

PackedKernels packed_kernels([[maybe_unused]] CpuIsa isa) {
  PackedKernels out = packed::portable();
#if defined(__x86_64__)
  if (isa >= CpuIsa::kAvx2) out = packed::avx2();
  if (isa >= CpuIsa::kAvx512) out.bf16 = packed::avx512_bf16_widened();
  if (isa >= CpuIsa::kAvx512Vnni) {
    out.int8 = packed::avx512_vnni().int8;
    out.int4 = packed::avx512_vnni().int4;
  }
  if (isa >= CpuIsa::kAvx512Bf16) {
    out.bf16 = packed::avx512_bf16_pairs();
    out.widened = false;
  }
  if (isa >= CpuIsa::kAmx) out = packed::amx();
#endif
  return out;
}

namespace {

void check_operand(const at::Tensor& x_TI, const PackedOperand& operand) {
  const PackedWeight& w = *operand.weight;
  check(w.defined() && w.inputs == x_TI.size(1),
        "packed_linear: rows of {} for a weight of {} inputs", x_TI.size(1), w.inputs);
  const PackedLayout layout = w.layout();
  check(w.blocks.is_cpu() && w.blocks.is_contiguous() && w.blocks.scalar_type() == at::kByte &&
            w.blocks.dim() == 2 && w.blocks.size(1) == layout.block &&
            w.blocks.size(0) == (w.outputs + kPackedOutputs - 1) / kPackedOutputs,
        "packed_linear: blocks of [{}] for {} outputs and {} inputs as {}, expected blocks of {}",
        fmt::join(w.blocks.sizes(), ", "), w.outputs, w.inputs, packed_form_name(w.form),
        layout.block);
  if (operand.bias_O.defined()) {
    check_shape(operand.bias_O, {w.outputs}, "packed_linear", "bias_O");
    check_same(operand.bias_O, x_TI, "packed_linear", "bias_O");
  }
}

/// Pieces of inputs that are worth a thread.
constexpr int64_t kPiecesGrain = 256;

template <typename E>
std::vector<at::Tensor> run_packed(const at::Tensor& x_TI, std::span<const PackedOperand> operands,
                                   const PackedKernels& kernels) {
  using Product = PackedProduct<E>;
  const int64_t T = x_TI.size(0);
  std::vector<at::Tensor> out;
  std::vector<typename Product::Output> outputs;
  for (const PackedOperand& operand : operands) {
    check_operand(x_TI, operand);
    const PackedForm& form = operand.weight->form;
    const PackedForm& first = operands[0].weight->form;
    check((form.form == WeightForm::kBf16) == (first.form == WeightForm::kBf16) &&
              (form.form == WeightForm::kBf16 || form.group == first.group),
          "packed_linear: {} and {} in one pass; pack them alike", packed_form_name(first),
          packed_form_name(form));
    out.push_back(at::empty({T, operand.weight->outputs}, x_TI.options()));
    outputs.push_back(
        {operand.weight,
         operand.bias_O.defined() ? operand.bias_O.template const_data_ptr<E>() : nullptr,
         out.back().template mutable_data_ptr<E>()});
  }
  if (operands.empty()) return out;
  PackedInputs<E> inputs(x_TI.const_data_ptr<E>(), T, *operands[0].weight, kernels.widened);
  const at::Tensor memory = at::empty({inputs.bytes()}, at::kByte);
  inputs.use(memory.mutable_data_ptr<uint8_t>());
  const Product product(inputs.rows(), T, outputs, kernels);
  if (T == 0) return out;
  if (inputs.bytes() > 0)
    at::parallel_for(0, T * inputs.row_pieces(), kPiecesGrain,
                     [&](int64_t begin, int64_t end) { inputs.prepare(begin, end); });
  const int64_t threads = at::in_parallel_region() ? 1 : at::get_num_threads();
  std::vector<PackedShare> shares(static_cast<size_t>(threads));
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t rank = begin; rank < end; ++rank) product.work(shares, rank);
  });
  return out;
}

}  // namespace

std::vector<at::Tensor> packed_linears(const at::Tensor& x_TI,
                                       std::span<const PackedOperand> operands, CpuIsa isa) {
  return packed_linears(x_TI, operands, packed_kernels(isa));
}

std::vector<at::Tensor> packed_linears(const at::Tensor& x_TI,
                                       std::span<const PackedOperand> operands,
                                       const PackedKernels& kernels) {
  check_shape(x_TI, {-1, -1}, "packed_linear", "x_TI");
  check(x_TI.is_cpu(), "packed_linear: rows on {}, expected the CPU", x_TI.device().str());
  const at::Tensor rows_TI = x_TI.contiguous();
  switch (x_TI.scalar_type()) {
    case at::kFloat:
      return run_packed<float>(rows_TI, operands, kernels);
    case at::kBFloat16:
      return run_packed<c10::BFloat16>(rows_TI, operands, kernels);
    case at::kHalf:
      return run_packed<c10::Half>(rows_TI, operands, kernels);
    default:
      throw Error("packed_linear: rows of {}, expected float32, bfloat16 or float16",
                  c10::toString(x_TI.scalar_type()));
  }
}

at::Tensor packed_linear(const at::Tensor& x_TI, const PackedWeight& weight,
                         const at::Tensor& bias_O, CpuIsa isa) {
  const std::array<PackedOperand, 1> one = {PackedOperand{&weight, bias_O}};
  return packed_linears(x_TI, one, isa)[0];
}

}  // namespace euromodal
