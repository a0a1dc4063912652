// adamw.cpp — AdamW over flat buffers and the squares of their gradients: tensors to launch
// arguments.
#include <ATen/ATen.h>

#include "backbone/cuda/launch_check.h"
#include "backbone/cuda/operators.h"
#include "backbone/kernels/adamw/adamw_kernel.h"

namespace euromodal::cuda {

void adamw_update(const AdamWUpdate& u) {
  const c10::cuda::CUDAGuard guard(u.master.device());
  const int64_t count = u.master.numel();
  for (const at::Tensor* t : {&u.master, &u.gradient, &u.exp_avg, &u.exp_avg_sq})
    TORCH_CHECK(t->is_contiguous() && t->numel() == count && t->device() == u.master.device(),
                "adamw: an array of ", t->numel(), " numbers on ", t->device(), ", expected ",
                count, " neighbours on ", u.master.device());
  TORCH_CHECK(!u.values.defined() || (u.values.is_contiguous() && u.values.numel() == count),
              "adamw: ", u.values.numel(), " values, expected ", count, " neighbours");
  const AdamWArgs args{
      .master = u.master.mutable_data_ptr<float>(),
      .gradient = u.gradient.const_data_ptr(),
      .exp_avg = u.exp_avg.mutable_data_ptr<float>(),
      .exp_avg_sq = u.exp_avg_sq.mutable_data_ptr<float>(),
      .values = u.values.defined() ? u.values.mutable_data_ptr() : nullptr,
      .count = count,
      .scale = u.scale,
      .beta1 = u.beta1,
      .beta2 = u.beta2,
      .decay = u.decay,
      .step_size = u.step_size,
      .root_correction = u.root_correction,
      .eps = u.eps,
      .clip = u.clip.defined() ? u.clip.const_data_ptr<float>() : nullptr,
      .apply = u.apply.defined() ? u.apply.const_data_ptr<int32_t>() : nullptr,
      .gradient_type = kernel_dtype(u.gradient, "adamw"),
      .values_type = u.values.defined() ? kernel_dtype(u.values, "adamw") : DType::kF32};
  check_launch(euromodal::adamw_update(args, c10::cuda::getCurrentCUDAStream()), "adamw_update");
}

at::Tensor square_sums(const std::vector<at::Tensor>& gradients) {
  TORCH_CHECK(!gradients.empty(), "square_sums: no gradient");
  const c10::cuda::CUDAGuard guard(gradients.front().device());
  const auto options = gradients.front().options().requires_grad(false).dtype(at::kDouble);
  const auto arrays = static_cast<int64_t>(gradients.size());
  const at::Tensor partial_BP = at::empty({arrays, kSquareParts}, options),
                   square_B = at::empty({arrays}, options);
  const auto stream = c10::cuda::getCurrentCUDAStream();
  auto* partial = partial_BP.mutable_data_ptr<double>();
  for (int64_t b = 0; b < arrays; ++b) {
    const at::Tensor& gradient = gradients[static_cast<size_t>(b)];
    TORCH_CHECK(gradient.is_contiguous(), "square_sums: a gradient whose numbers lie apart");
    check_launch(euromodal::square_sums({.x = gradient.const_data_ptr(),
                                         .count = gradient.numel(),
                                         .partial = partial + b * kSquareParts,
                                         .type = kernel_dtype(gradient, "square_sums")},
                                        stream),
                 "square_sums");
  }
  check_launch(square_totals({.partial_BP = partial,
                              .arrays = arrays,
                              .square_B = square_B.mutable_data_ptr<double>()},
                             stream),
               "square_totals");
  return square_B;
}

}  // namespace euromodal::cuda
