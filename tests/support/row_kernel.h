// row_kernel.h — what every launcher over [rows, vocab] must refuse, and that no rows are no work.
#pragma once
#include <gtest/gtest.h>

#include "backbone/kernels/cuda/dtype.h"
#include "tests/support/device_buffer.h"

namespace euromodal::testing_support {

template <typename Args>
void expect_row_kernel_refusals(cudaError_t (*launch)(const Args&, cudaStream_t)) {
  Args args{};
  args.vocab = 8;
  EXPECT_EQ(launch(args, nullptr), cudaSuccess);
  args.rows = 1;
  args.type = DType::kInt8;
  EXPECT_EQ(launch(args, nullptr), cudaErrorInvalidValue);
  args.type = DType::kF32;
  args.vocab = 0;
  EXPECT_EQ(launch(args, nullptr), cudaErrorInvalidValue);
}

}  // namespace euromodal::testing_support
