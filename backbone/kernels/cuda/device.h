// device.h — building blocks of the kernels: conversions, 16-byte vectors, sums over a warp and a
// block in a fixed order, asynchronous copies, and the tensor cores' m16n8k16 product. Each has a
// host form for the emulation. Reference of instructions and fragment layouts: PTX ISA 9.0.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "backbone/kernels/cuda/launch.h"

namespace euromodal {

using Bf16 = __nv_bfloat16;

EM_HOST_DEVICE float to_float(float v) { return v; }
EM_HOST_DEVICE float to_float(Bf16 v) { return __bfloat162float(v); }
EM_HOST_DEVICE float to_float(__half v) { return __half2float(v); }
EM_HOST_DEVICE float to_float(__nv_fp8_e4m3 v) { return static_cast<float>(v); }

/// Rounds to nearest even.
template <typename T>
EM_HOST_DEVICE T from_float(float v) {
  if constexpr (std::is_same_v<T, Bf16>) {
#if defined(__CUDA_ARCH__)
    // As half of a pair: a single one goes through the pipe of special functions, at a quarter of
    // the rate.
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(0.0F), "f"(v));
    return __ushort_as_bfloat16(static_cast<unsigned short>(pair));
#else
    return __float2bfloat16(v);
#endif
  } else if constexpr (std::is_same_v<T, __half>) {
    return __float2half(v);
  } else {
    return static_cast<T>(v);  // fp8: saturates at 448
  }
}

/// 2^v by the hardware; what is below the smallest normal number is zero.
EM_DEVICE float exp2_flushed(float v) {
#if defined(__CUDA_ARCH__)
  float out;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(v));
  return out;
#else
  const float out = exp2f(v);
  return out < 1.17549435e-38F ? 0.0F : out;
#endif
}

/// 16 bytes of T: the widest access of one thread. Addresses must be multiples of 16.
template <typename T>
struct alignas(16) Vec16 {
  static constexpr int kCount = 16 / sizeof(T);
  T v[kCount];
};

template <typename T>
EM_DEVICE Vec16<T> load16(const T* p) {
  return *reinterpret_cast<const Vec16<T>*>(p);
}
template <typename T>
EM_DEVICE void store16(T* p, const Vec16<T>& v) {
  *reinterpret_cast<Vec16<T>*>(p) = v;
}

/// For what is read once: does not stay in L1.
EM_DEVICE uint4 load16_streaming(const void* p) {
#if defined(__CUDA_ARCH__)
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
#else
  return *static_cast<const uint4*>(p);
#endif
}

/// The same for memory that is written while the kernel runs.
EM_DEVICE uint4 load16_streaming_coherent(const void* p) {
#if defined(__CUDA_ARCH__)
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p)
               : "memory");
  return v;
#else
  return *static_cast<const uint4*>(p);
#endif
}

/// atomicInc, after which all that was written before it, by the threads of the barrier before it
/// too, is seen by whoever comes later in the count.
EM_DEVICE unsigned increment_acq_rel(unsigned* p, unsigned limit) {
#if defined(__CUDA_ARCH__)
  unsigned old;
  asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
               : "=r"(old)
               : "l"(p), "r"(limit)
               : "memory");
  return old;
#elif !defined(__CUDACC__)
  return atomicInc(p, limit, /*acq_rel=*/true);
#else
  return atomicInc(p, limit);
#endif
}

/// The address itself, which the compiler works out here and not at each use.
template <typename T>
EM_DEVICE T* known_here(T* p) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+l"(p));
#endif
  return p;
}

/// Folds the warp's values by `f`: the same bits in every lane and on every run.
template <typename F>
EM_DEVICE float warp_fold(float v, F&& f) {
  for (int offset = 16; offset > 0; offset >>= 1) v = f(v, __shfl_xor_sync(0xffffffffU, v, offset));
  return v;
}

/// Over a block of a multiple of 32 threads (x only); every thread gets the result. `scratch`:
/// shared, one float a warp; may be used again after the next barrier.
template <typename F>
EM_DEVICE float block_fold(float v, float* scratch, F&& f) {
  v = warp_fold(v, f);
  const unsigned warps = blockDim.x / 32;
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  __syncthreads();
  float total = scratch[0];
  for (unsigned w = 1; w < warps; ++w) total = f(total, scratch[w]);
  return total;
}

struct Plus {
  EM_DEVICE float operator()(float a, float b) const { return a + b; }
};
struct Larger {
  EM_DEVICE float operator()(float a, float b) const { return fmaxf(a, b); }
};
EM_DEVICE float warp_sum(float v) { return warp_fold(v, Plus{}); }
EM_DEVICE float warp_max(float v) { return warp_fold(v, Larger{}); }
EM_DEVICE float block_sum(float v, float* scratch) { return block_fold(v, scratch, Plus{}); }
EM_DEVICE float block_max(float v, float* scratch) { return block_fold(v, scratch, Larger{}); }

/// 16 bytes from global to shared memory without registers; complete after copies_wait.
EM_DEVICE void copy_async_16(void* shared, const void* global) {
#if defined(__CUDA_ARCH__)
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(global) : "memory");
#elif !defined(__CUDACC__)
  emulation::copy_async_16(shared, global);
#endif
}
EM_DEVICE void copies_commit() {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#elif !defined(__CUDACC__)
  emulation::copies_commit();
#endif
}
/// At most kPending of this thread's committed groups are still under way afterwards.
template <int kPending>
EM_DEVICE void copies_wait() {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#elif !defined(__CUDACC__)
  emulation::copies_wait(kPending);
#endif
}

/// d += a b on the tensor cores, one warp: a [16, 16] bf16, b [16, 8] bf16, d [16, 8] f32. With
/// g = lane / 4, c = lane % 4: a0 = a[g][2c, 2c+1], a1 = a[g+8][..], a2 = a[g][2c+8, 2c+9],
/// a3 = a[g+8][2c+8, ..]; b0 = b[2c, 2c+1][g], b1 = b[2c+8, 2c+9][g]; d0, d1 = d[g][2c, 2c+1],
/// d2, d3 = d[g+8][2c, 2c+1]. The lower half of a register is the lower index.
EM_DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(__CUDA_ARCH__)
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif !defined(__CUDACC__)
  emulation::mma(d, a, b, [](uint32_t bits) { return __uint_as_float(bits << 16); });
#endif
}

/// The same of f16 numbers.
EM_DEVICE void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(__CUDA_ARCH__)
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif !defined(__CUDACC__)
  emulation::mma(d, a, b, [](uint32_t bits) {
    return to_float(__ushort_as_half(static_cast<unsigned short>(bits)));
  });
#endif
}

/// The same where d was zero before: d = a b.
EM_DEVICE void mma_bf16_first(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(__CUDA_ARCH__)
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%10, %10, %10, %10};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(0.0F));
#else
  d[0] = d[1] = d[2] = d[3] = 0.0F;
  mma_bf16(d, a, b);
#endif
}

/// An 8 x 8 matrix of 16-bit numbers, row lane / 4, columns 2 (lane % 4) and the next, transposed.
EM_DEVICE uint32_t transpose_8x8(uint32_t v) {
#if defined(__CUDA_ARCH__)
  uint32_t out;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(v));
  return out;
#elif !defined(__CUDACC__)
  return emulation::transpose_8x8(v);
#else
  return v;
#endif
}

/// Asks for global memory to be brought into L2, without waiting and without a register: a hint,
/// nothing where there is no such instruction. Address and size: multiples of 16.
EM_DEVICE void prefetch_l2(const void* global, uint32_t bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(global), "r"(bytes) : "memory");
#elif !defined(__CUDACC__)
  emulation::prefetched(global, bytes);
#endif
}

/// (v & mask) | bits in one instruction: of two constants the compiler makes two.
EM_DEVICE uint32_t and_or(uint32_t v, uint32_t mask, uint32_t bits) {
#if defined(__CUDA_ARCH__)
  uint32_t out;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(out) : "r"(v), "r"(mask), "r"(bits));
  return out;
#else
  return (v & mask) | bits;
#endif
}

/// The floats of a bf16 pair.
EM_DEVICE float low_of_bf16x2(uint32_t pair) { return __uint_as_float(pair << 16); }
EM_DEVICE float high_of_bf16x2(uint32_t pair) { return __uint_as_float(pair & 0xffff0000U); }

/// Two floats as a bf16 pair, `low` in the lower half.
EM_DEVICE uint32_t pack_bf16x2(float low, float high) {
#if defined(__CUDA_ARCH__)
  uint32_t out;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
#else
  const auto bits = [](float v) {
    const Bf16 rounded = from_float<Bf16>(v);
    uint16_t out = 0;
    std::memcpy(&out, &rounded, 2);
    return static_cast<uint32_t>(out);
  };
  return bits(low) | (bits(high) << 16);
#endif
}

/// Products of two bf16 pairs, rounded as those of floats are.
EM_DEVICE uint32_t multiply_bf16x2(uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__)
  uint32_t out;
  asm("{ .reg .b32 z; mov.b32 z, 0x80008000; fma.rn.bf16x2 %0, %1, %2, z; }"
      : "=r"(out)
      : "r"(a), "r"(b));
  return out;
#else
  return pack_bf16x2(low_of_bf16x2(a) * low_of_bf16x2(b), high_of_bf16x2(a) * high_of_bf16x2(b));
#endif
}

/// Two floats as an f16 pair.
EM_DEVICE uint32_t pack_f16x2(float low, float high) {
  const __half2_raw pair = __floats2half2_rn(low, high);
  return static_cast<uint32_t>(pair.x) | (static_cast<uint32_t>(pair.y) << 16);
}

/// The two e4m3 codes in the lower half of a word as an f16 pair, exact.
EM_DEVICE uint32_t f16x2_of_fp8x2(uint32_t codes) {
  const __half2_raw pair =
      __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(codes), __NV_E4M3);
  return static_cast<uint32_t>(pair.x) | (static_cast<uint32_t>(pair.y) << 16);
}

}  // namespace euromodal
