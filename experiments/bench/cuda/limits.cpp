// limits.cpp — see limits.h.
#include "experiments/bench/cuda/limits.h"

#include <ATen/ATen.h>

#include "core/error.h"
#include "experiments/bench/cuda/read_all_kernel.h"

namespace euromodal::bench {
namespace {

constexpr size_t kGigabyte = size_t{1} << 30;

}  // namespace

Limits measure_limits(const c10::Stream& stream) {
  Limits out;
  const auto unreported = [](const Result&) { throw Error("limits report nothing"); };
  {
    GpuBench bench("limits", stream, unreported);
    constexpr size_t kBytes = 4 * kGigabyte;
    const void* data = bench.random(kBytes);
    auto* sink = static_cast<uint32_t*>(bench.zeros(4));
    int processors = 0;
    must(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, stream.device_index()),
         "multiprocessors");
    for (const int per_processor : {2, 4}) {  // resident blocks of 512 threads; the better one
      const double us = bench.time_us([&](int, cudaStream_t s) {
        return read_all(data, kBytes, sink, processors * per_processor, s);
      });
      out.read_gb_s = std::max(out.read_gb_s, static_cast<double>(kBytes) / us / 1e3);
    }
  }
  {
    GpuBench bench("limits", stream, unreported);
    constexpr size_t kBytes = 2 * kGigabyte;
    void* to = bench.zeros(kBytes);
    const void* from = bench.random(kBytes);
    // Not in a graph: there a copy goes through a copy engine, at 2.7 of 4.2 TB/s (H200).
    const auto native = static_cast<cudaStream_t>(stream.native_handle());
    const double us = bench.time_long_us([&] {
      must(cudaMemcpyAsync(to, from, kBytes, cudaMemcpyDeviceToDevice, native), "cudaMemcpyAsync");
    });
    out.copy_gb_s = 2.0 * static_cast<double>(kBytes) / us / 1e3;
  }
  {
    GpuBench bench("limits", stream, unreported);
    constexpr int64_t kSide = 8192;
    const auto options = at::TensorOptions().dtype(at::kBFloat16).device(stream.device());
    const at::Tensor a = at::randn({kSide, kSide}, options), b = at::randn({kSide, kSide}, options);
    at::Tensor c = at::empty({kSide, kSide}, options);
    must(cudaDeviceSynchronize(), "random matrices");
    const double us = bench.time_us([&](int, cudaStream_t) {
      at::mm_out(c, a, b);
      return cudaSuccess;
    });
    out.bf16_tflop_s = 2.0 * kSide * kSide * kSide / us / 1e6;
  }
  return out;
}

}  // namespace euromodal::bench
