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

/// Kernels that shall overlap divide a multiprocessor's memory alike, all of it shared: it is
/// divided anew only when nothing runs there.
template <typename... Parameters>
cudaError_t divide_alike(void (*kernel)(Parameters...)) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                              cudaSharedmemCarveoutMaxShared);
}

/// As EM_LAUNCH, but the kernel may begin before its predecessor on the stream has ended: it calls
/// wait_for_predecessor() before it touches what the predecessor writes (programmatic dependent
/// launch).
template <typename... Parameters, typename... Arguments>
cudaError_t launch_dependent(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared,
                             cudaStream_t stream, Arguments&&... arguments) {
  const cudaError_t error = divide_alike(kernel);
  if (error != cudaSuccess) return error;
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

/// Blocks of a cluster of `size` (at most 8, along x) run at the same time and reach each other's
/// shared memory. Needs has_clusters() unless size is 1. `dependent`: as launch_dependent.
template <typename... Parameters, typename... Arguments>
cudaError_t launch_cluster(void (*kernel)(Parameters...), dim3 grid, dim3 block, unsigned size,
                           size_t shared, bool dependent, cudaStream_t stream,
                           Arguments&&... arguments) {
  cudaLaunchAttribute attributes[2]{};
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = attributes;
  if (size > 1) {
    cudaLaunchAttribute& cluster = attributes[config.numAttrs++];
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = size;
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  }
  if (dependent) {
    const cudaError_t error = divide_alike(kernel);
    if (error != cudaSuccess) return error;
    cudaLaunchAttribute& early = attributes[config.numAttrs++];
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
  }
  return cudaLaunchKernelEx(&config, kernel, Parameters(std::forward<Arguments>(arguments))...);
}

/// Does the current device have clusters (Hopper and later)?
inline bool has_clusters() {
  int device = 0, major = 0;
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
         major >= 9;
}

/// Number of this block in its cluster, and of all blocks there; a launch without clusters: 0 of 1.
EM_DEVICE unsigned cluster_rank() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  unsigned rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
#else
  return 0;
#endif
}
EM_DEVICE unsigned cluster_size() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  unsigned size;
  asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return size;
#else
  return 1;
#endif
}
/// Barrier of all threads of the cluster; orders their accesses to shared memory, own and peers'.
EM_DEVICE void cluster_sync() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  __syncthreads();
#endif
}
/// The same place in the shared memory of block `rank` of the cluster.
template <typename T>
EM_DEVICE T* cluster_peer(T* shared, unsigned rank) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  uint64_t address;
  asm volatile("mapa.u64 %0, %1, %2;"
               : "=l"(address)
               : "l"(reinterpret_cast<uint64_t>(shared)), "r"(rank));
  return reinterpret_cast<T*>(address);
#else
  static_cast<void>(rank);
  return shared;
#endif
}

/// Barrier of `threads` threads (whole warps) of the block, the same in all of them; `number` 1 to
/// 15 tells apart those that meet at the same time.
EM_DEVICE void part_barrier(unsigned number, unsigned threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
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
/// For the race check of emulated kernels (race_check.h): other threads may read these bytes of
/// global memory while they are stored, as they do not use what they get.
EM_DEVICE void read_in_vain(const void* /*p*/, size_t /*bytes*/) {}
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
