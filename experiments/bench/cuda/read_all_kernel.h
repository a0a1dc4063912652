// read_all_kernel.h — launcher of a kernel that only reads.
#pragma once
#include <cstdint>

#include <cuda_runtime_api.h>

namespace euromodal::bench {

/// Reads `bytes` (a multiple of 16, 16-byte aligned) once. `sink`: 4 bytes that make the loads
/// count; practically never written.
cudaError_t read_all(const void* data, int64_t bytes, uint32_t* sink, int blocks,
                     cudaStream_t stream) noexcept;

}  // namespace euromodal::bench
