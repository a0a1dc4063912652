// CUDAStream.h — in place of LibTorch's, for glue over emulated kernels: there is one stream, and
// no runtime that could name an error.
#pragma once
#include <cuda_runtime_api.h>

namespace c10::cuda {
inline cudaStream_t getCurrentCUDAStream() { return nullptr; }
}  // namespace c10::cuda

#define cudaGetErrorString(error) static_cast<int>(error)
