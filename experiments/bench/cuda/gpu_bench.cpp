// gpu_bench.cpp — see gpu_bench.h.
#include "experiments/bench/cuda/gpu_bench.h"

#include <algorithm>
#include <cmath>
#include <map>

#include <ATen/ATen.h>
#include <c10/core/StreamGuard.h>

#include "core/error.h"

namespace euromodal::bench {
namespace {

constexpr double kReplayUs = 500.0;  // a replay lasts longer than this: events tick in 0.5 us
constexpr int kReplays = 21;
constexpr int kLongCalls = 7;
constexpr int kMaxCalls = 2000;
constexpr int kMaxCopies = 256;

std::map<std::string, Registration::Body>& bench_table() {
  static std::map<std::string, Registration::Body> table;
  return table;
}

struct Event {
  cudaEvent_t event = nullptr;
  Event() { must(cudaEventCreate(&event), "cudaEventCreate"); }
  ~Event() { (void)cudaEventDestroy(event); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
};

double event_us(const Event& from, const Event& to) {
  must(cudaEventSynchronize(to.event), "cudaEventSynchronize");
  float ms = 0.0F;
  must(cudaEventElapsedTime(&ms, from.event, to.event), "cudaEventElapsedTime");
  return 1e3 * static_cast<double>(ms);
}

struct GraphExec {
  cudaGraphExec_t exec = nullptr;
  ~GraphExec() {
    if (exec) (void)cudaGraphExecDestroy(exec);
  }
};

using Call = std::function<cudaError_t(int, cudaStream_t)>;

void capture(const Call& call, int calls, cudaStream_t stream, GraphExec& out) {
  must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  cudaError_t failed = cudaSuccess;
  for (int i = 0; i < calls && failed == cudaSuccess; ++i) failed = call(i, stream);
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream, &graph);  // also after a failed call
  if (failed == cudaSuccess && ended == cudaSuccess) {
    const cudaError_t made = cudaGraphInstantiate(&out.exec, graph, 0);
    (void)cudaGraphDestroy(graph);
    must(made, "cudaGraphInstantiate");
    return;
  }
  if (graph) (void)cudaGraphDestroy(graph);
  must(failed, "the call, while it was captured");
  must(ended, "cudaStreamEndCapture");
}

}  // namespace

void must(cudaError_t error, const char* what) {
  check(error == cudaSuccess, "{}: {} ({})", what, cudaGetErrorString(error),
        cudaGetErrorName(error));
}

Registration::Registration(const char* name, Body body) { bench_table().emplace(name, body); }

std::vector<std::pair<std::string, Registration::Body>> registered() {
  return {bench_table().begin(), bench_table().end()};
}

Share share_of_limit(const Result& result, const Limits& limits) {
  const double memory_us = result.bytes / (1e3 * limits.memory_gb_s()),
               bf16_us = result.flops / (1e6 * limits.bf16_tflop_s);
  if (bf16_us > memory_us) return {bf16_us / result.us, "bf16"};
  return {memory_us / result.us, "memory"};
}

GpuBench::GpuBench(std::string name, c10::Stream stream, std::function<void(const Result&)> sink)
    : name_(std::move(name)), stream_(stream), sink_(std::move(sink)) {}

void* GpuBench::keep(at::Tensor memory) {
  // Filled on LibTorch's current stream, read on ours.
  must(cudaDeviceSynchronize(), "filling device memory");
  memory_.push_back(std::move(memory));
  return memory_.back().data_ptr();
}

void* GpuBench::random(size_t bytes) {
  const auto count = static_cast<int64_t>((std::max<size_t>(bytes, 2) + 1) / 2);
  const auto options = at::TensorOptions().dtype(at::kBFloat16).device(stream_.device());
  return keep(at::empty({count}, options).normal_(0.0, 0.02));
}

void* GpuBench::random_bytes(size_t bytes) {
  const auto count = static_cast<int64_t>(std::max<size_t>(bytes, 1));
  const auto options = at::TensorOptions().dtype(at::kByte).device(stream_.device());
  return keep(at::empty({count}, options).random_(0, 256));
}

void* GpuBench::zeros(size_t bytes) {
  const auto count = static_cast<int64_t>(std::max<size_t>(bytes, 1));
  return keep(at::zeros({count}, at::TensorOptions().dtype(at::kByte).device(stream_.device())));
}

int GpuBench::copies(size_t bytes_per_call) {
  int l2 = 0;
  must(cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, stream_.device_index()), "L2 size");
  const double needed =
      3.0 * static_cast<double>(l2) / static_cast<double>(std::max<size_t>(bytes_per_call, 1));
  const int count = static_cast<int>(std::clamp(std::ceil(needed), 1.0, double{kMaxCopies}));
  copies_ = std::max(copies_, count);
  return count;
}

double GpuBench::time_us(const Call& call) {
  const c10::StreamGuard guard(stream_);
  const auto stream = static_cast<cudaStream_t>(stream_.native_handle());
  for (int i = 0; i < 3; ++i) must(call(i, stream), "the call");  // loads modules, makes handles
  must(cudaStreamSynchronize(stream), "the call");

  const Event begin, end;
  constexpr int kTrial = 4;
  must(cudaEventRecord(begin.event, stream), "cudaEventRecord");
  for (int i = 0; i < kTrial; ++i) must(call(i, stream), "the call");
  must(cudaEventRecord(end.event, stream), "cudaEventRecord");
  // Includes the gaps between launches, so a replay is at most shorter than the estimate: twice.
  const double estimate = std::max(event_us(begin, end) / kTrial, 0.5);
  int calls =
      std::clamp(static_cast<int>(std::ceil(2.0 * kReplayUs / estimate)), copies_, kMaxCalls);

  GraphExec graph;
  const auto replay_us = [&] {
    must(cudaEventRecord(begin.event, stream), "cudaEventRecord");
    must(cudaGraphLaunch(graph.exec, stream), "cudaGraphLaunch");
    must(cudaEventRecord(end.event, stream), "cudaEventRecord");
    return event_us(begin, end);
  };
  capture(call, calls, stream, graph);
  replay_us();
  const double first = replay_us();
  if (first < kReplayUs && calls < kMaxCalls) {  // launch gaps were most of the estimate
    calls = std::min(kMaxCalls, static_cast<int>(std::ceil(calls * 1.5 * kReplayUs / first)));
    must(cudaGraphExecDestroy(std::exchange(graph.exec, nullptr)), "cudaGraphExecDestroy");
    capture(call, calls, stream, graph);
    replay_us();
  }
  std::vector<double> us(kReplays);
  for (double& sample : us) sample = replay_us() / calls;
  return median(std::move(us));
}

double GpuBench::time_long_us(const std::function<void()>& call) {
  const c10::StreamGuard guard(stream_);
  const auto stream = static_cast<cudaStream_t>(stream_.native_handle());
  for (int i = 0; i < 2; ++i) call();
  must(cudaStreamSynchronize(stream), "the call");
  const Event begin, end;
  std::vector<double> us(kLongCalls);
  for (double& sample : us) {
    must(cudaEventRecord(begin.event, stream), "cudaEventRecord");
    call();
    must(cudaEventRecord(end.event, stream), "cudaEventRecord");
    sample = event_us(begin, end);
  }
  return median(std::move(us));
}

double GpuBench::median(std::vector<double> us) {
  std::sort(us.begin(), us.end());
  fastest_us_ = us.front();
  slowest_us_ = us.back();
  return us[us.size() / 2];
}

void GpuBench::report(const std::string& kernel, const std::string& shape, double us, double bytes,
                      double flops) {
  check(us > 0.0 && bytes >= 0.0 && flops >= 0.0, "{} {}: {} us, {} bytes, {} flops", kernel, shape,
        us, bytes, flops);
  sink_({name_, kernel, shape, us, bytes, flops, fastest_us_, slowest_us_});
}

}  // namespace euromodal::bench
