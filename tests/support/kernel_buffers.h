// kernel_buffers.h — what the tests of kernels with several dtypes and alignments share: the launch
// argument of a dtype, memory that starts some elements behind an aligned address, and how far one
// rounding to a dtype goes.
#pragma once
#include "backbone/kernels/cuda/dtype.h"
#include "tests/support/device_buffer.h"

namespace euromodal::testing_support {

inline DType kernel_type(at::ScalarType type) {
  return type == at::kFloat ? DType::kF32 : type == at::kHalf ? DType::kF16 : DType::kBf16;
}

constexpr at::ScalarType kKernelTypes[] = {at::kFloat, at::kBFloat16, at::kHalf};

/// Half the distance between neighbours of 1.
inline double rounding(at::ScalarType type) {
  return type == at::kFloat ? 6e-8 : type == at::kHalf ? 4.9e-4 : 3.91e-3;
}

/// A tensor `shift` elements behind an address that is a multiple of 256.
class ShiftedBuffer {
 public:
  ShiftedBuffer(const at::Tensor& cpu, int64_t shift)
      : sizes_(cpu.sizes().vec()),
        shift_(shift),
        buffer_(at::cat({at::zeros({shift}, cpu.options()), cpu.reshape({-1})})) {}
  static ShiftedBuffer poisoned(at::IntArrayRef sizes, at::ScalarType type, int64_t shift) {
    return {sizes.vec(), shift,
            DeviceBuffer::poisoned({shift + c10::multiply_integers(sizes)}, type)};
  }
  void* data() const {
    return buffer_.as<char>() + shift_ * static_cast<int64_t>(buffer_.element_size());
  }
  at::Tensor tensor() const { return buffer_.tensor().slice(0, shift_).reshape(sizes_); }

 private:
  ShiftedBuffer(std::vector<int64_t> sizes, int64_t shift, DeviceBuffer buffer)
      : sizes_(std::move(sizes)), shift_(shift), buffer_(std::move(buffer)) {}
  std::vector<int64_t> sizes_;
  int64_t shift_;
  DeviceBuffer buffer_;
};

}  // namespace euromodal::testing_support
