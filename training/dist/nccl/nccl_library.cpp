// nccl_library.cpp — the real NCCL and CUDA behind nccl_api.h; a part of libeuromodal_cuda.so,
// registered when that is loaded. NCCL's header and library must be of one version: two NCCLs in a
// process (a wheel's and the system's) are a known source of hangs.
#include <algorithm>
#include <vector>

#include <cuda_runtime.h>
#include <nccl.h>

#include "training/dist/nccl/nccl_collectives.h"

namespace euromodal {
namespace {

static_assert(sizeof(NcclId) == sizeof(ncclUniqueId));
static_assert(sizeof(IpcHandle) == sizeof(cudaIpcMemHandle_t));
static_assert(static_cast<int>(kNcclSuccess) == static_cast<int>(ncclSuccess));
static_assert(static_cast<int>(kNcclInProgress) == static_cast<int>(ncclInProgress));

ncclComm_t library_comm(NcclComm comm) { return static_cast<ncclComm_t>(comm); }
cudaStream_t library_stream(CudaStream stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t library_event(CudaEvent event) { return static_cast<cudaEvent_t>(event); }

ncclDataType_t library_type(NcclType type) {
  switch (type) {
    case NcclType::kF32:
      return ncclFloat32;
    case NcclType::kBf16:
      return ncclBfloat16;
    case NcclType::kU8:
      return ncclUint8;
    case NcclType::kF64:
      return ncclFloat64;
  }
  return ncclNumTypes;  // refused by NCCL as an invalid argument
}

ncclConfig_t library_config() {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;  // every call returns; async_error() says when it is done
  return config;
}

NcclApi library_api() {
  NcclApi api;
  api.get_unique_id = [](NcclId* id) -> int {
    return ncclGetUniqueId(reinterpret_cast<ncclUniqueId*>(id->bytes.data()));
  };
  api.init_rank_scalable = [](NcclComm* comm, int ranks, int rank, int ids,
                              const NcclId* id) -> int {
    ncclConfig_t config = library_config();
    std::vector<ncclUniqueId> roots(ids);
    for (int i = 0; i < ids; ++i)
      std::copy_n(id[i].bytes.data(), sizeof(ncclUniqueId), roots[i].internal);
    // NCCL may write the handle after the call has returned: to the caller's place, not to a local.
    return ncclCommInitRankScalable(reinterpret_cast<ncclComm_t*>(comm), ranks, rank, ids,
                                    roots.data(), &config);
  };
  api.split = [](NcclComm comm, int color, int key, NcclComm* out) -> int {
    ncclConfig_t config = library_config();
    return ncclCommSplit(library_comm(comm), color, key, reinterpret_cast<ncclComm_t*>(out),
                         &config);
  };
  api.async_error = [](NcclComm comm, int* state) -> int {
    ncclResult_t found = ncclSuccess;
    const ncclResult_t code = ncclCommGetAsyncError(library_comm(comm), &found);
    *state = found;
    return code;
  };
  api.finalize = [](NcclComm comm) -> int { return ncclCommFinalize(library_comm(comm)); };
  api.destroy = [](NcclComm comm) -> int { return ncclCommDestroy(library_comm(comm)); };
  api.comm_abort = [](NcclComm comm) -> int { return ncclCommAbort(library_comm(comm)); };
  api.all_reduce_sum = [](const void* data, void* out, size_t count, NcclType type, NcclComm comm,
                          CudaStream stream) -> int {
    return ncclAllReduce(data, out, count, library_type(type), ncclSum, library_comm(comm),
                         library_stream(stream));
  };
  api.reduce_scatter_sum = [](const void* data, void* out, size_t count, NcclType type,
                              NcclComm comm, CudaStream stream) -> int {
    return ncclReduceScatter(data, out, count, library_type(type), ncclSum, library_comm(comm),
                             library_stream(stream));
  };
  api.all_gather = [](const void* data, void* out, size_t count, NcclType type, NcclComm comm,
                      CudaStream stream) -> int {
    return ncclAllGather(data, out, count, library_type(type), library_comm(comm),
                         library_stream(stream));
  };
  api.reduce_sum = [](const void* data, void* out, size_t count, NcclType type, int root,
                      NcclComm comm, CudaStream stream) -> int {
    return ncclReduce(data, out, count, library_type(type), ncclSum, root, library_comm(comm),
                      library_stream(stream));
  };
  api.group_start = []() -> int { return ncclGroupStart(); };
  api.group_end = []() -> int { return ncclGroupEnd(); };
  api.broadcast = [](const void* data, void* out, size_t count, NcclType type, int root,
                     NcclComm comm, CudaStream stream) -> int {
    return ncclBroadcast(data, out, count, library_type(type), root, library_comm(comm),
                         library_stream(stream));
  };
  api.error_text = [](int code) { return ncclGetErrorString(static_cast<ncclResult_t>(code)); };
  api.last_error = [](NcclComm comm) { return ncclGetLastError(library_comm(comm)); };

  api.set_device = [](int device) -> int { return cudaSetDevice(device); };
  api.stream_create = [](CudaStream* stream) -> int {
    cudaStream_t made = nullptr;
    const cudaError_t code = cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking);
    *stream = made;
    return code;
  };
  api.stream_destroy = [](CudaStream stream) -> int {
    return cudaStreamDestroy(library_stream(stream));
  };
  api.event_create = [](CudaEvent* event) -> int {
    cudaEvent_t made = nullptr;
    const cudaError_t code = cudaEventCreateWithFlags(&made, cudaEventDisableTiming);
    *event = made;
    return code;
  };
  api.event_destroy = [](CudaEvent event) -> int { return cudaEventDestroy(library_event(event)); };
  api.event_record = [](CudaEvent event, CudaStream stream) -> int {
    return cudaEventRecord(library_event(event), library_stream(stream));
  };
  api.stream_wait_event = [](CudaStream stream, CudaEvent event) -> int {
    return cudaStreamWaitEvent(library_stream(stream), library_event(event), 0);
  };
  api.event_query = [](CudaEvent event) -> int { return cudaEventQuery(library_event(event)); };
  api.stream_wait = [](CudaStream stream) -> int {
    return cudaStreamSynchronize(library_stream(stream));
  };
  api.allocate = [](void** memory, size_t bytes) -> int { return cudaMalloc(memory, bytes); };
  api.release = [](void* memory) -> int { return cudaFree(memory); };
  api.ipc_handle = [](IpcHandle* handle, void* memory) -> int {
    return cudaIpcGetMemHandle(reinterpret_cast<cudaIpcMemHandle_t*>(handle->bytes.data()), memory);
  };
  api.ipc_open = [](void** memory, const IpcHandle* handle) -> int {
    cudaIpcMemHandle_t copy;
    std::copy_n(handle->bytes.data(), sizeof copy, reinterpret_cast<char*>(&copy));
    return cudaIpcOpenMemHandle(memory, copy, cudaIpcMemLazyEnablePeerAccess);
  };
  api.ipc_close = [](void* memory) -> int { return cudaIpcCloseMemHandle(memory); };
  api.copy = [](void* to, const void* from, size_t bytes, CudaStream stream) -> int {
    return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, library_stream(stream));
  };
  api.not_ready = cudaErrorNotReady;
  api.cuda_error_text = [](int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); };
  return api;
}

std::unique_ptr<DeviceCollectives> library_make(Collectives& world, const DeviceOptions& options) {
  int version = 0;
  const ncclResult_t code = ncclGetVersion(&version);
  check<DistError>(code == ncclSuccess && version == NCCL_VERSION_CODE,
                   "the NCCL that was loaded is {}, this library was built with {}: another "
                   "libnccl.so.2 stands first on the library path",
                   version, NCCL_VERSION_CODE);
  return make_nccl_collectives(library_api(), world, options);
}

[[maybe_unused]] const bool library_registered = register_device_collectives(&library_make);

}  // namespace
}  // namespace euromodal
