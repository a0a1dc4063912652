// launch.h — what every .cu file includes: a launch that two compilers understand. nvcc makes
// device code of it; a host compiler runs the same kernel bodies thread by thread (emulation.h), so
// that their logic is tested where there is no GPU.
//
//   EM_LAUNCH((scale_kernel<T, 4>), grid, block, shared_bytes, stream, x, y, count);
//
// The kernel stands in parentheses when its name has a comma.
#pragma once
#include <cstdint>
#include <cstring>

#include <cuda_runtime_api.h>

#if defined(__CUDACC__)

#include <utility>

#include <cuda_runtime.h>

#define EM_HOST_DEVICE __host__ __device__ __forceinline__
#define EM_DEVICE __device__ __forceinline__
#define EM_LAUNCH(kernel, grid, block, shared, stream, ...) \
  (kernel)<<<(grid), (block), (shared), (stream)>>>(__VA_ARGS__)

/// Shared memory whose size the launch gives, as T* name; once per kernel.
#define EM_DYNAMIC_SHARED(T, name)                                  \
  extern __shared__ __align__(128) unsigned char em_shared_bytes[]; \
  T* name = reinterpret_cast<T*>(em_shared_bytes)

namespace euromodal {

/// As EM_LAUNCH, but the kernel may begin before its predecessor on the stream has ended: it calls
/// wait_for_predecessor() before it touches what the predecessor writes (programmatic dependent
/// launch).
template <typename... Parameters, typename... Arguments>
cudaError_t launch_dependent(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared,
                             cudaStream_t stream, Arguments&&... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, Parameters(std::forward<Arguments>(arguments))...);
}

/// Bytes of shared memory that a block can have on the current device, static ones included.
inline size_t shared_memory_limit() {
  int device = 0, bytes = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  if (cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) !=
      cudaSuccess)
    return 0;
  return static_cast<size_t>(bytes);
}

/// All writes of the kernels before this one are visible from here on. Free in a plain launch.
EM_DEVICE void wait_for_predecessor() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/// The next kernel may start now (it still waits for this one's end before it reads).
EM_DEVICE void release_successor() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

}  // namespace euromodal

#else

#include "backbone/kernels/cuda/emulation.h"

#endif
