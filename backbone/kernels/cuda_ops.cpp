// cuda_ops.cpp — see cuda_ops.h.
#include "backbone/kernels/cuda_ops.h"

#include <atomic>

#include "core/error.h"

namespace euromodal {
namespace {
std::atomic<const CudaOps*> loaded_ops{nullptr};
}  // namespace

const CudaOps& cuda_ops() {
  const CudaOps* ops = loaded_ops.load();
  check(ops != nullptr,
        "a CUDA tensor reached an operator, but the CUDA library is not loaded; open the device "
        "with open_device(\"cuda\") first");
  return *ops;
}

void set_cuda_ops(const CudaOps* ops) { loaded_ops = ops; }

}  // namespace euromodal
