// packed_linear.cpp — see packed_linear.h: inputs made ready, blocks of all operands shared out
// among the threads in one go, sums rounded and biased tile by tile.
#include "backbone/kernels/packed_linear/packed_linear.h"

#include <array>
#include <atomic>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "backbone/kernels/checks.h"
#include "backbone/kernels/packed_linear/packed_kernels.h"
#include "backbone/kernels/packed_linear/quantize_inputs.h"
#include "backbone/kernels/simd.h"
#include "core/error.h"

namespace euromodal {

PackedKernels packed_kernels(CpuIsa isa) {
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

/// Where the sums of one operand go.
template <typename T>
struct PackedTarget {
  T* y;
  const T* bias;
  int64_t outputs;
};

template <typename T>
[[gnu::always_inline]] inline void store_rows(const PackedTarget<T>& to, const float* tile,
                                              int64_t row, int64_t rows, int64_t output,
                                              int64_t columns) {
  const int64_t count = std::min(columns, to.outputs - output);
  for (int64_t r = 0; r < rows; ++r) {
    T* y = to.y + (row + r) * to.outputs + output;
    const float* sums = tile + r * columns;
    if (to.bias == nullptr) {
#pragma omp simd
      for (int64_t o = 0; o < count; ++o) put_rounded(y, o, sums[o]);
    } else {
#pragma omp simd
      for (int64_t o = 0; o < count; ++o)
        put_rounded(y, o, sums[o] + static_cast<float>(to.bias[output + o]));
    }
  }
}

EM_CPU_CLONES void store_tile(const PackedTarget<float>& to, const float* tile, int64_t row,
                              int64_t rows, int64_t output, int64_t columns) {
  store_rows(to, tile, row, rows, output, columns);
}
EM_CPU_CLONES void store_tile(const PackedTarget<c10::BFloat16>& to, const float* tile, int64_t row,
                              int64_t rows, int64_t output, int64_t columns) {
  store_rows(to, tile, row, rows, output, columns);
}
EM_CPU_CLONES void store_tile(const PackedTarget<c10::Half>& to, const float* tile, int64_t row,
                              int64_t rows, int64_t output, int64_t columns) {
  store_rows(to, tile, row, rows, output, columns);
}

/// One operand's share of the work: `args` without the range of blocks.
struct PackedJob {
  PackedKernel kernel;
  PackedKernelArgs args;
  int64_t blocks, first;  // first: among the blocks of all operands
};

/// What the operands read, kept alive while they do.
struct PackedInputs {
  at::Tensor rows;  // bf16 or f32, padded to pairs
  QuantizedInputs codes;
  int64_t group = 0;
};

at::Tensor padded_pairs(const at::Tensor& x_TI) {
  return x_TI.size(1) % 2 == 0 ? x_TI : at::constant_pad_nd(x_TI, {0, 1});
}

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

void set_inputs(const at::Tensor& x_TI, const PackedWeight& weight, bool widened,
                PackedInputs& inputs, PackedKernelArgs& args) {
  if (weight.form.form == WeightForm::kBf16) {
    check(x_TI.scalar_type() == at::kBFloat16, "packed_linear: bf16 weights take bf16 rows, got {}",
          c10::toString(x_TI.scalar_type()));
    if (!inputs.rows.defined()) {
      inputs.rows = padded_pairs(x_TI);
      if (widened) inputs.rows = inputs.rows.to(at::kFloat);
    }
    args.x = static_cast<const uint8_t*>(inputs.rows.const_data_ptr());
    args.x_bytes = inputs.rows.size(1) * static_cast<int64_t>(inputs.rows.element_size());
    return;
  }
  if (inputs.group != weight.form.group) {
    check(inputs.group == 0,
          "packed_linear: operands of one pass have groups of {} and {}; pack them alike",
          inputs.group, weight.form.group);
    inputs.group = weight.form.group;
    inputs.codes = quantize_inputs(x_TI, args.layout.groups, inputs.group);
  }
  args.x = reinterpret_cast<const uint8_t*>(inputs.codes.codes_TI.const_data_ptr<int8_t>());
  args.x_bytes = inputs.codes.codes_TI.size(1);
  args.x_scale_MG = inputs.codes.scale_TG.const_data_ptr<float>();
  args.x_sum_MG = inputs.codes.sum_TG.const_data_ptr<int32_t>();
}

/// Blocks that a thread takes at a time: four shares a thread, in fours (the streams of one row).
int64_t packed_share(int64_t blocks, int64_t threads) {
  constexpr int64_t kStreams = 4, kShares = 4;
  if (threads == 1) return blocks;
  const int64_t parts = threads * kShares * kStreams;
  return std::max<int64_t>((blocks + parts - 1) / parts, 1) * kStreams;
}

template <typename T>
std::vector<at::Tensor> run_packed(const at::Tensor& x_TI, std::span<const PackedOperand> operands,
                                   const PackedKernels& kernels) {
  const int64_t M = x_TI.size(0);
  std::vector<at::Tensor> out;
  std::vector<PackedTarget<T>> targets;
  std::vector<PackedJob> jobs;
  PackedInputs inputs;
  targets.reserve(operands.size());
  int64_t blocks = 0;
  for (const PackedOperand& operand : operands) {
    check_operand(x_TI, operand);
    const PackedWeight& w = *operand.weight;
    out.push_back(at::empty({M, w.outputs}, x_TI.options()));
    targets.push_back(
        {out.back().template mutable_data_ptr<T>(),
         operand.bias_O.defined() ? operand.bias_O.template const_data_ptr<T>() : nullptr,
         w.outputs});
    PackedJob job{};
    job.kernel = w.form.form == WeightForm::kBf16   ? kernels.bf16
                 : w.form.form == WeightForm::kInt8 ? kernels.int8
                                                    : kernels.int4;
    job.args.layout = w.layout();
    job.args.group = w.form.group;
    job.args.asymmetric = w.form.asymmetric;
    job.args.weight = w.blocks.const_data_ptr<uint8_t>();
    job.args.M = M;
    set_inputs(x_TI, w, kernels.widened, inputs, job.args);
    job.args.to = &targets.back();
    job.args.store = [](void* to, const float* tile, int64_t row, int64_t rows, int64_t output,
                        int64_t columns) {
      store_tile(*static_cast<const PackedTarget<T>*>(to), tile, row, rows, output, columns);
    };
    job.first = blocks;
    job.blocks = w.blocks.size(0);
    blocks += job.blocks;
    jobs.push_back(job);
  }
  if (M == 0) return out;
  // Halves of the work rarely end together: who is through takes the next share.
  const int64_t threads = at::in_parallel_region() ? 1 : at::get_num_threads();
  const int64_t share = packed_share(blocks, threads);
  std::atomic<int64_t> next = 0;
  at::parallel_for(0, std::min(threads, (blocks + share - 1) / share), 1, [&](int64_t, int64_t) {
    for (;;) {
      const int64_t begin = next.fetch_add(share, std::memory_order_relaxed);
      if (begin >= blocks) return;
      const int64_t end = std::min(begin + share, blocks);
      for (const PackedJob& job : jobs) {
        PackedKernelArgs args = job.args;
        args.begin = std::max<int64_t>(begin - job.first, 0);
        args.end = std::min(end - job.first, job.blocks);
        if (args.begin < args.end) job.kernel(args);
      }
    }
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
