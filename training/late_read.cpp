// late_read.cpp — see late_read.h. Through pinned memory: a copy to pageable memory would make the
// host wait for everything before it.
#include "training/late_read.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "core/error.h"

namespace euromodal {

LateRead::LateRead(const at::Tensor& numbers_N) : host_N_(numbers_N) {
  check(numbers_N.scalar_type() == at::kDouble && numbers_N.is_contiguous(),
        "LateRead: expected dense float64, got {}", c10::toString(numbers_N.scalar_type()));
  if (numbers_N.is_cpu()) return;
  const at::NoGradGuard no_grad;
  host_N_ = at::empty_like(numbers_N, numbers_N.options().device(at::kCPU)).pin_memory();
  host_N_.copy_(numbers_N, /*non_blocking=*/true);
  const at::Device device = numbers_N.device();
  copied_ = std::make_shared<c10::Event>(device.type());
  copied_->record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
}

std::vector<double> LateRead::read() const {
  if (copied_) copied_->synchronize();
  const double* numbers = host_N_.const_data_ptr<double>();
  return {numbers, numbers + host_N_.numel()};
}

}  // namespace euromodal
