// kernels_bench_main.cpp — times CUDA kernels and sets them beside what the device reaches:
//
//   kernels_bench [--list] [--filter REGEX] [--json FILE] [--device cuda:N]
//
// First the limits are measured (limits.h), then every EM_GPU_BENCH whose name the filter finds
// runs; FILE is written again after each of them and names those still left. "share" is the time
// that the limit allows (the longer of bytes / memory bandwidth and operations / bf16 rate) over
// the measured time. Exit code 1 when a bench failed, 2 for a wrong command line.
#include <chrono>
#include <iostream>
#include <regex>

#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/core.h>

#include "backbone/device.h"
#include "core/error.h"
#include "core/files.h"
#include "core/json.h"
#include "experiments/bench/cuda/limits.h"

namespace euromodal::bench {
namespace {

struct Options {
  bool list = false, help = false;
  std::string filter, json, device = "cuda";
};

Options parse(const std::vector<std::string>& words) {
  Options out;
  for (size_t i = 0; i < words.size(); ++i) {
    const auto value = [&]() -> const std::string& {
      check<UsageError>(i + 1 < words.size(), "{} needs a value", words[i]);
      return words[++i];
    };
    if (words[i] == "--list") {
      out.list = true;
    } else if (words[i] == "--help" || words[i] == "-h") {
      out.help = true;
    } else if (words[i] == "--filter") {
      out.filter = value();
    } else if (words[i] == "--json") {
      out.json = value();
    } else if (words[i] == "--device") {
      out.device = value();
    } else {
      throw UsageError("unknown word '{}'", words[i]);
    }
  }
  return out;
}

std::regex filter_of(const Options& options) {
  try {
    return std::regex(options.filter);
  } catch (const std::regex_error& error) {
    throw UsageError("--filter '{}': {}", options.filter, error.what());
  }
}

Json device_facts(const at::Device& device) {
  cudaDeviceProp properties{};
  must(cudaGetDeviceProperties(&properties, device.index()), "cudaGetDeviceProperties");
  int driver = 0, runtime = 0;
  must(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  must(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  return {{"name", properties.name},
          {"capability", fmt::format("{}.{}", properties.major, properties.minor)},
          {"multiprocessors", properties.multiProcessorCount},
          {"l2_bytes", properties.l2CacheSize},
          {"memory_bytes", properties.totalGlobalMem},
          {"driver", driver},
          {"runtime", runtime}};
}

Json as_json(const Result& result, const Limits& limits) {
  const Share share = share_of_limit(result, limits);
  return {{"bench", result.bench},
          {"kernel", result.kernel},
          {"shape", result.shape},
          {"us", result.us},
          {"fastest_us", result.fastest_us},
          {"slowest_us", result.slowest_us},
          {"gb_s", result.bytes / result.us / 1e3},
          {"tflop_s", result.flops / result.us / 1e6},
          {"share", share.share},
          {"limit", share.limit}};
}

void print(const Result& result, const Limits& limits) {
  const Share share = share_of_limit(result, limits);
  const std::string flops =
      result.flops > 0.0 ? fmt::format("{:.1f}", result.flops / result.us / 1e6) : "-";
  fmt::print("{:<28} {:<44} {:>10.2f} {:>8.0f} {:>8} {:>6.1f}% {}\n", result.kernel, result.shape,
             result.us, result.bytes / result.us / 1e3, flops, 100.0 * share.share, share.limit);
  std::fflush(stdout);
}

int run(const Options& options) {
  const std::regex filter = filter_of(options);
  std::vector<std::pair<std::string, Registration::Body>> chosen;
  for (const auto& entry : registered())
    if (std::regex_search(entry.first, filter)) chosen.push_back(entry);
  check<UsageError>(!chosen.empty(), "--filter '{}' finds no bench; see --list", options.filter);
  if (options.list) {
    for (const auto& entry : chosen) fmt::print("{}\n", entry.first);
    return 0;
  }
  const at::Device device = open_device(options.device);
  check<UsageError>(device.is_cuda(), "--device {}: kernels run on a GPU", options.device);
  at::accelerator::setDeviceIndex(device.index());
  must(cudaSetDevice(device.index()), "cudaSetDevice");
  const c10::Stream stream =
      c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device, false);
  Json out{{"device", device_facts(device)}};
  fmt::print("device: {}\n", out["device"].dump());
  const Limits limits = measure_limits(stream);
  at::accelerator::emptyCache();
  out["limits"] = {{"read_gb_s", limits.read_gb_s},
                   {"copy_gb_s", limits.copy_gb_s},
                   {"bf16_tflop_s", limits.bf16_tflop_s}};
  fmt::print("limits: read {:.0f} GB/s, copy {:.0f} GB/s, bf16 {:.0f} TFLOP/s\n\n",
             limits.read_gb_s, limits.copy_gb_s, limits.bf16_tflop_s);
  fmt::print("{:<28} {:<44} {:>10} {:>8} {:>8} {:>7} {}\n", "kernel", "shape", "us", "GB/s",
             "TFLOP/s", "share", "limit");
  out["results"] = Json::array();
  out["failed"] = Json::array();
  out["seconds"] = Json::object();
  out["left_out"] = Json::array();
  for (const auto& entry : chosen) out["left_out"].push_back(entry.first);
  const auto save = [&] {
    if (!options.json.empty()) write_text_atomic(options.json, out.dump(1) + "\n");
  };
  save();
  for (const auto& [name, body] : chosen) {
    const auto start = std::chrono::steady_clock::now();
    bool lost = false;
    try {
      GpuBench bench(name, stream, [&](const Result& result) {
        out["results"].push_back(as_json(result, limits));
        print(result, limits);
      });
      body(bench);
    } catch (const std::exception& error) {
      fmt::print("{:<28} FAILED: {}\n", name, error.what());
      out["failed"].push_back({{"bench", name}, {"error", error.what()}});
      (void)cudaGetLastError();
      lost = cudaDeviceSynchronize() != cudaSuccess;  // the context, for all that follow
    }
    out["seconds"][name] =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    out["left_out"].erase(0);
    save();
    if (lost) {
      fmt::print("the device does not answer any more: the other benches are left out\n");
      break;
    }
    at::accelerator::emptyCache();
  }
  return out["failed"].empty() ? 0 : 1;
}

}  // namespace
}  // namespace euromodal::bench

int main(int argc, char** argv) {
  using namespace euromodal;
  try {
    const bench::Options options = bench::parse({argv + 1, argv + argc});
    if (options.help) {
      fmt::print("kernels_bench [--list] [--filter REGEX] [--json FILE] [--device cuda:N]\n");
      return 0;
    }
    return bench::run(options);
  } catch (const UsageError& error) {
    std::cerr << "kernels_bench: " << error.what() << '\n';
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "kernels_bench: " << error.what() << '\n';
    return 1;
  }
}
