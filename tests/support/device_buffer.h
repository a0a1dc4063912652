// device_buffer.h — memory that a kernel under test reads and writes: on the GPU, or, in the
// emulated build of the same tests, on the host in an allocation of exactly that size (so that a
// sanitizer sees an access outside it). Tensors go in and come out on the CPU.
//
//   DeviceBuffer x(x_TD), y = DeviceBuffer::poisoned(x_TD.sizes(), at::kFloat);
//   ASSERT_EQ(launcher({.x = x.data(), .y = y.data()}, nullptr), cudaSuccess);
//   EXPECT_TRUE(tensor_near(y.tensor(), want_TD));
#pragma once
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <cuda_runtime_api.h>

#include "core/error.h"
#if defined(EM_EMULATED)
#include "backbone/kernels/cuda/observer.h"
#endif

namespace euromodal::testing_support {

#if defined(EM_EMULATED)
constexpr bool kEmulated = true;
inline bool has_gpu() { return true; }
#else
constexpr bool kEmulated = false;
inline bool has_gpu() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}
#endif

/// Emulated, or asked for by EUROMODAL_SMALL_TESTS=1 (under compute-sanitizer): no large cases.
inline bool small_sizes() {
  const char* asked = std::getenv("EUROMODAL_SMALL_TESTS");  // NOLINT(concurrency-mt-unsafe)
  return kEmulated || (asked != nullptr && asked[0] == '1');
}

/// Tensors of more than 2^31 elements: on a GPU; emulated when EUROMODAL_LARGE_TESTS=1 asks for it
/// (minutes, and the memory that the test names).
inline bool large_sizes() {
  const char* asked = std::getenv("EUROMODAL_LARGE_TESTS");  // NOLINT(concurrency-mt-unsafe)
  return kEmulated ? asked != nullptr && asked[0] == '1' : !small_sizes();
}

class DeviceBuffer {
 public:
  explicit DeviceBuffer(const at::Tensor& cpu) : DeviceBuffer(cpu.sizes(), cpu.scalar_type()) {
    const at::Tensor dense = cpu.contiguous();
    copy(memory_.get(), dense.const_data_ptr(), bytes_, /*in=*/true);
  }
  /// Filled with NaN bits (0xff): what a kernel does not write shows.
  static DeviceBuffer poisoned(at::IntArrayRef sizes, at::ScalarType type) {
    DeviceBuffer out(sizes, type);
    out.fill(0xff);
    return out;
  }
  static DeviceBuffer zeros(at::IntArrayRef sizes, at::ScalarType type) {
    DeviceBuffer out(sizes, type);
    out.fill(0);
    return out;
  }

  void* data() const { return memory_.get(); }
  template <typename T>
  T* as() const {
    return static_cast<T*>(memory_.get());
  }
  size_t element_size() const { return c10::elementSize(type_); }
  /// Waits for the device; a copy on the CPU.
  at::Tensor tensor() const {
    at::Tensor out = at::empty(sizes_, at::TensorOptions().dtype(type_));
    copy(out.mutable_data_ptr(), memory_.get(), bytes_, /*in=*/false);
    return out;
  }

 private:
  DeviceBuffer(at::IntArrayRef sizes, at::ScalarType type)
      : sizes_(sizes.vec()),
        type_(type),
        bytes_(static_cast<size_t>(c10::multiply_integers(sizes)) * c10::elementSize(type)),
        memory_(allocate(bytes_), &DeviceBuffer::release) {}

#if defined(EM_EMULATED)
  // Aligned as cudaMalloc's memory, and ending where the tensor ends.
  static void* allocate(size_t bytes) {
    waits();
    void* p = nullptr;
    check(::posix_memalign(&p, 256, std::max<size_t>(bytes, 1)) == 0, "no memory for {} bytes",
          bytes);
    return p;
  }
  static void release(void* p) { std::free(p); }
  static void waits() {
    if (emulation::observer != nullptr) emulation::observer->host_waits();
  }
  void fill(int byte) const { std::memset(memory_.get(), byte, bytes_); }
  static void copy(void* to, const void* from, size_t bytes, bool /*in*/) {
    waits();
    std::memcpy(to, from, bytes);
  }
#else
  static void must(cudaError_t error) {
    check(error == cudaSuccess, "CUDA: {}", cudaGetErrorString(error));
  }
  static void* allocate(size_t bytes) {
    void* p = nullptr;
    must(cudaMalloc(&p, bytes + 256));
    return p;
  }
  static void release(void* p) { (void)cudaFree(p); }
  void fill(int byte) const { must(cudaMemset(memory_.get(), byte, bytes_)); }
  static void copy(void* to, const void* from, size_t bytes, bool in) {
    must(cudaDeviceSynchronize());
    must(cudaMemcpy(to, from, bytes, in ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost));
  }
#endif

  std::vector<int64_t> sizes_;
  at::ScalarType type_;
  size_t bytes_;
  std::unique_ptr<void, void (*)(void*)> memory_;
};

}  // namespace euromodal::testing_support

/// First line of every kernel test: on a host without GPU the test says that it was skipped.
#define EM_NEEDS_GPU() \
  if (!::euromodal::testing_support::has_gpu()) GTEST_SKIP() << "no NVIDIA GPU on this host"
