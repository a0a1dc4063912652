// gpu_bench.h — what a kernel benchmark is written against: device memory with random contents,
// the time of one call, and a line that sets it beside the limits measured in the same run.
//
//   EM_GPU_BENCH(rms_norm) {
//     void* x = bench.random(bytes);
//     const double us = bench.time_us([&](int, cudaStream_t stream) { return launch(x, stream); });
//     bench.report("rms_norm", "4096 x 6144 bf16", us, 2.0 * bytes);
//   }
#pragma once
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/Stream.h>
#include <cuda_runtime_api.h>

namespace euromodal::bench {

/// What this device reaches, measured by measure_limits() (limits.h).
struct Limits {
  double read_gb_s = 0.0;     // a kernel that only reads 4 GB
  double copy_gb_s = 0.0;     // device-to-device copies on a stream, bytes read + bytes written
  double bf16_tflop_s = 0.0;  // 8192 x 8192 x 8192 by LibTorch on random data
  /// The faster of the two ways to move bytes: what a kernel is held against.
  double memory_gb_s() const { return read_gb_s > copy_gb_s ? read_gb_s : copy_gb_s; }
};

struct Result {
  std::string bench, kernel, shape;
  double us = 0.0, bytes = 0.0, flops = 0.0;
  double fastest_us = 0.0, slowest_us = 0.0;  // of the replays of the time_us call before report()
};

/// The floor of a call by the limits, over its time: 1 is a call at the limit.
struct Share {
  double share = 0.0;
  const char* limit = "memory";  // or "bf16": the one that gives the longer time
};
Share share_of_limit(const Result& result, const Limits& limits);

/// One bench's view of the device. Memory is kept until the bench ends. Every fault is an Error.
class GpuBench {
 public:
  GpuBench(std::string name, c10::Stream stream, std::function<void(const Result&)> sink);

  /// At least `bytes` of device memory filled with bf16 from N(0, 0.02).
  void* random(size_t bytes);
  /// Random bytes: for elements of one byte and less.
  void* random_bytes(size_t bytes);
  void* zeros(size_t bytes);

  /// How many sets of inputs to rotate through, so that L2 does not serve a call that moves
  /// `bytes_per_call`; at least 1, at most 256. time_us then makes at least as many calls.
  int copies(size_t bytes_per_call);

  /// Median microseconds of one call: after a warm-up, as many calls as take over half a
  /// millisecond are captured into one CUDA graph, whose replays are timed with events. `i` counts
  /// the calls. LibTorch operators in `call` run on `stream` too; they must not allocate.
  double time_us(const std::function<cudaError_t(int i, cudaStream_t stream)>& call);

  /// The same of a call that allocates, which a graph does not hold: median of single calls between
  /// events, so for calls of milliseconds, beside which the gaps between launches are nothing.
  double time_long_us(const std::function<void()>& call);

  /// `bytes`: the fewest that the call must move (inputs read once, outputs written once).
  void report(const std::string& kernel, const std::string& shape, double us, double bytes,
              double flops = 0);

 private:
  void* keep(at::Tensor memory);
  double median(std::vector<double> us);

  std::string name_;
  c10::Stream stream_;
  std::function<void(const Result&)> sink_;
  std::vector<at::Tensor> memory_;
  int copies_ = 1;
  double fastest_us_ = 0.0, slowest_us_ = 0.0;
};

struct Registration {
  using Body = void (*)(GpuBench& bench);
  Registration(const char* name, Body body);
};
/// All EM_GPU_BENCH of the program, by name.
std::vector<std::pair<std::string, Registration::Body>> registered();

/// Throws Error with CUDA's own text.
void must(cudaError_t error, const char* what);

}  // namespace euromodal::bench

#define EM_GPU_BENCH(name)                                                                       \
  static void em_gpu_bench_##name([[maybe_unused]] ::euromodal::bench::GpuBench& bench);         \
  static const ::euromodal::bench::Registration em_gpu_bench_entry_##name(#name,                 \
                                                                          &em_gpu_bench_##name); \
  static void em_gpu_bench_##name([[maybe_unused]] ::euromodal::bench::GpuBench& bench)
