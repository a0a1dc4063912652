// emulation.h — CUDA's execution model on the host, for tests: a .cu file compiled by a host
// compiler runs its kernels here, block after block, every thread of a block a fiber that yields at
// barriers and warp exchanges. It finds wrong indices (under AddressSanitizer too), missing
// elements, divergent barriers (an abort that names them), asynchronous copies that are not waited
// for (their bytes come no sooner) and wrong arithmetic; races where race_check.h watches; not
// anything about speed.
//
// Included by launch.h where __CUDACC__ is not defined. One host thread at a time.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>
#include <utility>
#include <vector>

#include <cuda_runtime_api.h>
#include <vector_functions.h>
#include <vector_types.h>

#include "backbone/kernels/cuda/observer.h"

#undef __shared__
#undef __launch_bounds__
#undef __device__
#undef __global__
#undef __host__
#undef __constant__
#undef __forceinline__
#undef __grid_constant__
#define __device__
#define __global__
#define __host__
#define __constant__ static
#define __grid_constant__
#define __shared__ static  // one block at a time: what is static is shared by its threads
#define __launch_bounds__(...)
#define __forceinline__ inline

#define EM_HOST_DEVICE inline
#define EM_DEVICE inline
#define EM_LAUNCH(kernel, grid, block, shared, stream, ...) \
  (static_cast<void>(stream),                               \
   ::euromodal::emulation::run_grid((grid), (block), (shared), [&] { (kernel)(__VA_ARGS__); }))
#define EM_DYNAMIC_SHARED(T, name) \
  T* name = static_cast<T*>(::euromodal::emulation::shared_memory())

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace euromodal::emulation {

/// From now on a grid's last block runs first: for kernels whose blocks must not need each other.
void reverse_blocks(bool last_first);
void run_grid(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body,
              bool dependent = false);
/// Blocks of a cluster (along x) run together: each goes on to the cluster's barrier in turn.
/// Static shared memory is one for all of them: kernels of clusters use the dynamic kind.
void run_clusters(dim3 grid, dim3 block, unsigned size, size_t shared_bytes,
                  const std::function<void()>& body, bool dependent = false);
unsigned cluster_rank();
unsigned cluster_size();
void cluster_barrier();
void* shared_of(unsigned rank, const void* mine);  // the same place in a peer's shared memory
void* shared_memory();  // of the running block, 128-byte aligned, filled with a pattern at its
                        // start
void block_barrier();
void part_barrier(unsigned number, unsigned threads);
/// What a kernel asks to be fetched ahead: read at both ends, so that AddressSanitizer sees it, and
/// written down where `prefetches` says.
void prefetched(const void* global, uint32_t bytes);
inline std::vector<std::pair<const void*, uint32_t>>* prefetches = nullptr;
/// Every lane of `mask` (live ones) gives up to 64 bytes; returns when all have, with the address
/// of the warp's 32 slots of 64 bytes, valid until release().
const unsigned char* exchange(unsigned mask, const void* mine, size_t bytes);
void release(unsigned mask);
void warp_barrier(unsigned mask);
unsigned lane();
/// mma_bf16 and mma_f16 of device.h; `wide`: the float that a 16-bit number stands for.
void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], float (*wide)(uint32_t));
uint32_t transpose_8x8(uint32_t v);
/// NaN bytes until copies_wait of a later commit brings what is meant.
void copy_async_16(void* shared, const void* global);
void copies_commit();
void copies_wait(size_t pending);

template <typename T>
EM_UNOBSERVED T shuffle(unsigned mask, T value, unsigned source) {
  static_assert(sizeof(T) <= 64 && std::is_trivially_copyable_v<T>);
  T out;
  std::memcpy(&out, exchange(mask, &value, sizeof(T)) + 64U * (source & 31U), sizeof(T));
  release(mask);
  return out;
}

}  // namespace euromodal::emulation

namespace euromodal {

template <typename... Parameters, typename... Arguments>
cudaError_t launch_dependent(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared,
                             cudaStream_t /*stream*/, Arguments&&... arguments) {
  emulation::run_grid(
      grid, block, shared, [&] { kernel(Parameters(arguments)...); }, /*dependent=*/true);
  return cudaSuccess;
}
template <typename... Parameters, typename... Arguments>
cudaError_t launch_cluster(void (*kernel)(Parameters...), dim3 grid, dim3 block, unsigned size,
                           size_t shared, bool dependent, cudaStream_t /*stream*/,
                           Arguments&&... arguments) {
  emulation::run_clusters(
      grid, block, size, shared, [&] { kernel(Parameters(arguments)...); }, dependent);
  return cudaSuccess;
}
inline unsigned cluster_rank() { return emulation::cluster_rank(); }
inline unsigned cluster_size() { return emulation::cluster_size(); }
inline void cluster_sync() { emulation::cluster_barrier(); }
template <typename T>
T* cluster_peer(T* shared, unsigned rank) {
  return static_cast<T*>(emulation::shared_of(rank, shared));
}
inline void part_barrier(unsigned number, unsigned threads) {
  emulation::part_barrier(number, threads);
}
inline bool has_clusters() { return true; }
inline size_t shared_memory_limit() { return size_t{227} << 10; }
inline void wait_for_predecessor() {
  if (emulation::observer != nullptr) emulation::observer->predecessor_waited();
}
inline void release_successor() {}
inline void read_in_vain(const void* p, size_t bytes) {
  if (emulation::observer != nullptr) emulation::observer->read_in_vain(p, bytes);
}

}  // namespace euromodal

// ---- the device functions that kernels of this project use ----
inline void __syncthreads() { euromodal::emulation::block_barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffU) { euromodal::emulation::warp_barrier(mask); }
inline void __threadfence() {
  if (euromodal::emulation::observer != nullptr) euromodal::emulation::observer->fence();
}
inline void __threadfence_block() {}

template <typename T>
T __shfl_sync(unsigned mask, T v, int source, int width = 32) {
  const unsigned base = euromodal::emulation::lane() & ~static_cast<unsigned>(width - 1);
  return euromodal::emulation::shuffle(
      mask, v, base + (static_cast<unsigned>(source) & static_cast<unsigned>(width - 1)));
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T v, int lanes, int width = 32) {
  const unsigned me = euromodal::emulation::lane(), other = me ^ static_cast<unsigned>(lanes);
  const bool inside = (other & ~static_cast<unsigned>(width - 1)) <=
                      (me & ~static_cast<unsigned>(width - 1));  // a later segment: own value
  return euromodal::emulation::shuffle(mask, v, inside ? other : me);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32) {
  const unsigned me = euromodal::emulation::lane();
  const bool inside =
      (me & static_cast<unsigned>(width - 1)) + delta < static_cast<unsigned>(width);
  return euromodal::emulation::shuffle(mask, v, inside ? me + delta : me);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32) {
  const unsigned me = euromodal::emulation::lane();
  const bool inside = (me & static_cast<unsigned>(width - 1)) >= delta;
  return euromodal::emulation::shuffle(mask, v, inside ? me - delta : me);
}
unsigned __ballot_sync(unsigned mask, int predicate);
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0U; }
int __all_sync(unsigned mask, int predicate);
int __syncthreads_count(int predicate);
int __syncthreads_or(int predicate);
int __syncthreads_and(int predicate);

template <typename T>
T __ldg(const T* p) {
  return *p;
}
template <typename T>
T __ldcs(const T* p) {
  return *p;
}
template <typename T>
T __ldcg(const T* p) {
  return *p;
}
template <typename T>
void __stcs(T* p, T v) {
  *p = v;
}
template <typename T>
void __stcg(T* p, T v) {
  *p = v;
}

// One thread at a time runs: what follows is atomic. It orders nothing but with `acq_rel` or a
// fence.
template <typename T, typename F>
EM_UNOBSERVED T em_update(T* p, F&& next, bool acq_rel = false) {
  if (euromodal::emulation::observer != nullptr)
    euromodal::emulation::observer->atomic(p, sizeof(T), acq_rel, __builtin_return_address(0));
  const T old = *p;
  *p = next(old);
  return old;
}
template <typename T>
T atomicAdd(T* p, T v) {
  return em_update(p, [&](T old) { return static_cast<T>(old + v); });
}
template <typename T>
T atomicMax(T* p, T v) {
  return em_update(p, [&](T old) { return old < v ? v : old; });
}
template <typename T>
T atomicMin(T* p, T v) {
  return em_update(p, [&](T old) { return v < old ? v : old; });
}
template <typename T>
T atomicExch(T* p, T v) {
  return em_update(p, [&](T) { return v; });
}
template <typename T>
T atomicCAS(T* p, T compare, T v) {
  return em_update(p, [&](T old) { return old == compare ? v : old; });
}
inline unsigned atomicInc(unsigned* p, unsigned limit, bool acq_rel = false) {
  return em_update(
      p, [&](unsigned old) { return old >= limit ? 0U : old + 1U; }, acq_rel);
}

template <typename To, typename From>
To em_bits(From v) {
  static_assert(sizeof(To) == sizeof(From));
  To out;
  std::memcpy(&out, &v, sizeof(To));
  return out;
}
inline float __int_as_float(int v) { return em_bits<float>(v); }
inline float __uint_as_float(unsigned v) { return em_bits<float>(v); }
inline int __float_as_int(float v) { return em_bits<int>(v); }
inline unsigned __float_as_uint(float v) { return em_bits<unsigned>(v); }
inline float rsqrtf(float v) { return 1.0F / std::sqrt(v); }
inline float __expf(float v) { return std::exp(v); }
inline float __logf(float v) { return std::log(v); }
inline float __sinf(float v) { return std::sin(v); }
inline float __cosf(float v) { return std::cos(v); }
inline float __powf(float a, float b) { return std::pow(a, b); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.0F / a; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline int __float2int_rn(float v) { return static_cast<int>(std::nearbyint(v)); }
inline int __float2int_rd(float v) { return static_cast<int>(std::floor(v)); }
inline int __float2int_rz(float v) { return static_cast<int>(v); }
inline float __int2float_rn(int v) { return static_cast<float>(v); }
inline float __uint2float_rn(unsigned v) { return static_cast<float>(v); }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __clz(int v) { return v == 0 ? 32 : __builtin_clz(static_cast<unsigned>(v)); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<uint64_t>(a) * b) >> 32);
}
inline uint64_t __umul64hi(uint64_t a, uint64_t b) {
  return static_cast<uint64_t>((static_cast<unsigned __int128>(a) * b) >> 64);
}
unsigned __byte_perm(unsigned x, unsigned y, unsigned selector);
template <typename T>
inline const T& min(const T& a, const T& b) {
  return b < a ? b : a;
}
template <typename T>
inline const T& max(const T& a, const T& b) {
  return a < b ? b : a;
}

// ---- the runtime calls that launchers make; macros, because a real libcudart may be in the
// program ----
inline cudaError_t em_memset(void* p, int value, size_t bytes) {
  std::memset(p, value, bytes);
  return cudaSuccess;
}
inline cudaError_t em_memcpy(void* to, const void* from, size_t bytes) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
#define cudaMemsetAsync(p, value, bytes, stream) \
  (static_cast<void>(stream), em_memset(p, value, bytes))
#define cudaMemcpyAsync(to, from, bytes, kind, stream) \
  (static_cast<void>(stream), em_memcpy(to, from, bytes))
#define cudaGetLastError() cudaSuccess
template <typename T>
cudaError_t cudaFuncSetAttribute(T* /*kernel*/, cudaFuncAttribute /*attribute*/, int /*value*/) {
  return cudaSuccess;
}
