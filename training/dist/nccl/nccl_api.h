// nccl_api.h — the calls of NCCL and of CUDA's streams that nccl_collectives.cpp makes, as a table:
// nccl_library.cpp fills it with the real ones, tests with a fake that succeeds, stays in progress
// for ever, or fails while it works. No header of NCCL or CUDA is needed to compile against it.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>

namespace euromodal {

/// Values of ncclResult_t that the logic tells apart.
enum NcclCode : int { kNcclSuccess = 0, kNcclInProgress = 7 };
using NcclComm = void*;    // ncclComm_t
using CudaStream = void*;  // cudaStream_t
using CudaEvent = void*;   // cudaEvent_t
struct NcclId {
  std::array<char, 128> bytes{};  // ncclUniqueId
};
enum class NcclType { kF32, kBf16, kU8, kF64 };

struct IpcHandle {
  std::array<char, 64> bytes{};  // cudaIpcMemHandle_t
};

struct NcclApi {
  // Each returns an ncclResult_t. Communicators are made non-blocking: kNcclInProgress is no fault,
  // and async_error() says when it is over.
  int (*get_unique_id)(NcclId* id) = nullptr;
  int (*init_rank_scalable)(NcclComm* comm, int ranks, int rank, int ids,
                            const NcclId* id) = nullptr;
  int (*split)(NcclComm comm, int color, int key, NcclComm* out) = nullptr;
  int (*async_error)(NcclComm comm, int* state) = nullptr;
  int (*finalize)(NcclComm comm) = nullptr;
  int (*destroy)(NcclComm comm) = nullptr;
  int (*comm_abort)(NcclComm comm) = nullptr;
  int (*all_reduce_sum)(const void* data, void* out, size_t count, NcclType type, NcclComm comm,
                        CudaStream stream) = nullptr;
  int (*reduce_scatter_sum)(const void* data, void* out, size_t count, NcclType type, NcclComm comm,
                            CudaStream stream) = nullptr;
  int (*all_gather)(const void* data, void* out, size_t count, NcclType type, NcclComm comm,
                    CudaStream stream) = nullptr;
  int (*broadcast)(const void* data, void* out, size_t count, NcclType type, int root,
                   NcclComm comm, CudaStream stream) = nullptr;
  int (*reduce_sum)(const void* data, void* out, size_t count, NcclType type, int root,
                    NcclComm comm, CudaStream stream) = nullptr;
  /// Calls between the two are one operation.
  int (*group_start)() = nullptr;
  int (*group_end)() = nullptr;
  const char* (*error_text)(int code) = nullptr;
  /// NCCL's own last words on `comm` (ncclGetLastError).
  const char* (*last_error)(NcclComm comm) = nullptr;

  // CUDA. Each returns a cudaError_t, 0: success.
  int (*set_device)(int device) = nullptr;
  int (*stream_create)(CudaStream* stream) = nullptr;
  int (*stream_destroy)(CudaStream stream) = nullptr;
  int (*event_create)(CudaEvent* event) = nullptr;
  int (*event_destroy)(CudaEvent event) = nullptr;
  int (*event_record)(CudaEvent event, CudaStream stream) = nullptr;
  int (*stream_wait_event)(CudaStream stream, CudaEvent event) = nullptr;
  /// 0: all work before the event is done; `not_ready`: not yet; else a fault.
  int (*event_query)(CudaEvent event) = nullptr;
  int not_ready = 0;                                // cudaErrorNotReady
  int (*stream_wait)(CudaStream stream) = nullptr;  // the host does
  int (*allocate)(void** memory, size_t bytes) = nullptr;
  int (*release)(void* memory) = nullptr;
  int (*ipc_handle)(IpcHandle* handle, void* memory) = nullptr;
  int (*ipc_open)(void** memory, const IpcHandle* handle) = nullptr;
  int (*ipc_close)(void* memory) = nullptr;
  int (*copy)(void* to, const void* from, size_t bytes, CudaStream stream) = nullptr;
  const char* (*cuda_error_text)(int code) = nullptr;
};

}  // namespace euromodal
