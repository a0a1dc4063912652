// device.cpp — see device.h. Order matters: driver, then libtorch_cuda beside the libtorch_cpu in
// use (never two versions), then our library.
#include "backbone/device.h"

#include <charconv>
#include <cstdlib>
#include <filesystem>

#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/Parallel.h>
#include <dlfcn.h>

#include "backbone/kernels/cuda_ops.h"
#include "core/error.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

constexpr const char* kUseCpu = "what to do: use --device cpu, or run on a host with an NVIDIA GPU";

fs::path device_library_of(const void* symbol) {
  Dl_info info{};
  return ::dladdr(symbol, &info) != 0 && info.dli_fname ? fs::path(info.dli_fname) : fs::path();
}

std::string device_dlerror() {
  const char* text = ::dlerror();  // NOLINT(concurrency-mt-unsafe): glibc's is per thread
  return text ? text : "unknown reason";
}

bool device_flag(const char* name) {
  const char* value =
      std::getenv(name);  // NOLINT(concurrency-mt-unsafe): read before threads start
  return value && std::string(value) == "1";
}

template <typename F>
F device_symbol(void* library, const char* name, const fs::path& file) {
  void* found = ::dlsym(library, name);
  check(found != nullptr,
        "{}: has no {}; it was built from other sources than this program: build both again",
        file.string(), name);
  return reinterpret_cast<F>(found);
}

void load_cuda_library() {
  if (!device_flag("EUROMODAL_CUDA_SKIP_DRIVER_CHECK") &&
      !::dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL)) {
    throw Error("--device cuda: no NVIDIA driver on this host ({}); {}", device_dlerror(), kUseCpu);
  }
  // A function that libtorch_cpu exports; most of at:: is inline and lies in our own library.
  const fs::path torch_cuda =
      device_library_of(reinterpret_cast<const void*>(&at::get_num_threads)).parent_path() /
      "libtorch_cuda.so";
  // LAZY: what LibTorch's CUDA part needs only for features that are not used may be absent.
  if (!::dlopen(torch_cuda.c_str(), RTLD_LAZY | RTLD_GLOBAL)) {
    throw Error(
        "--device cuda: {} does not load: {}; what to do: install the CUDA libraries it names, or "
        "use --device cpu",
        torch_cuda.string(), device_dlerror());
  }
  const char* given = std::getenv("EUROMODAL_CUDA_LIBRARY");  // NOLINT(concurrency-mt-unsafe)
  const fs::path ours =
      given ? fs::path(given)
            : device_library_of(reinterpret_cast<const void*>(&open_device)).parent_path() /
                  "libeuromodal_cuda.so";
  check(fs::exists(ours),
        "--device cuda: there is no {}; what to do: scripts/build cuda, or name it with "
        "EUROMODAL_CUDA_LIBRARY",
        ours.string());
  void* library = ::dlopen(
      ours.c_str(), RTLD_NOW | RTLD_LOCAL);  // NOW: an incomplete link fails here, not in a kernel
  check(library != nullptr, "--device cuda: {} does not load: {}", ours.string(),
        library ? "" : device_dlerror());
  const int abi = device_symbol<int (*)()>(library, "euromodal_cuda_abi", ours)();
  check(abi == kCudaAbi,
        "--device cuda: {} has interface {}, this program expects {}: build both again",
        ours.string(), abi, kCudaAbi);
  set_cuda_ops(device_symbol<const CudaOps* (*)()>(library, "euromodal_cuda_ops", ours)());
}

}  // namespace

at::Device open_device(const std::string& word) {
  if (word == "cpu") return {at::kCPU};
  int index = 0;
  bool known = word == "cuda";
  if (word.starts_with("cuda:")) {
    const char* end = word.data() + word.size();
    const auto [stop, error] = std::from_chars(word.data() + 5, end, index);
    known = error == std::errc() && stop == end && index >= 0 && index < 128 && word.size() > 5;
  }
  check<UsageError>(known, "--device: '{}' is unknown; expected cpu, cuda or cuda:N", word);
  load_cuda_library();
  const int count = at::accelerator::deviceCount();
  check(count > 0, "--device cuda: the CUDA libraries are loaded but see no device; {}", kUseCpu);
  check(index < count, "--device {}: this host has {} CUDA devices, numbered from 0", word, count);
  return {at::kCUDA, static_cast<at::DeviceIndex>(index)};
}

void move_parameters(const std::vector<NamedTensor>& parameters, at::Device device) {
  for (const NamedTensor& parameter : parameters) {
    if (parameter.tensor.device() == device) continue;
    check(parameter.tensor.scalar_type() != at::kByte,
          "{}: packed weights are for inference with a text model; take the original folder",
          parameter.name);
    parameter.tensor.set_data(parameter.tensor.detach().to(device));
  }
}

}  // namespace euromodal
