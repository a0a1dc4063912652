// ipc_slices.cpp — see ipc_slices.h.
#include "training/dist/nccl/ipc_slices.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <vector>

#include "core/log.h"

namespace euromodal {
namespace {

/// What a rank tells the others of its memory.
struct IpcOffer {
  IpcHandle handle;
  int64_t bytes = 0;
};

class IpcSlices final : public PeerSlices {
 public:
  IpcSlices(const NcclApi& api, Collectives& node, CudaStream caller)
      : api_(api), node_(&node), caller_(caller), memory_(static_cast<size_t>(node.size())) {}
  ~IpcSlices() override;
  IpcSlices(const IpcSlices&) = delete;
  IpcSlices& operator=(const IpcSlices&) = delete;
  /// Apart from the constructor, so that a fault on the way cleans up.
  void start(int64_t bytes);

  void* own() override { return memory_[static_cast<size_t>(node_->rank())].data; }
  void seal() override {
    cuda(api_.stream_wait(caller_), "cudaStreamSynchronize");  // what has filled it
    node_->barrier();
  }
  void copy(int rank, int64_t offset, int64_t bytes, void* to) override {
    check<DistError>(rank >= 0 && rank < node_->size() && offset >= 0 && bytes >= 0 &&
                         offset + bytes <= memory_[static_cast<size_t>(rank)].bytes,
                     "bytes {} to {} of rank {} of the node: expected a rank below {} and bytes "
                     "that it has",
                     offset, offset + bytes, rank, node_->size());
    if (bytes == 0) return;
    const char* from = static_cast<const char*>(memory_[static_cast<size_t>(rank)].data) + offset;
    cuda(api_.copy(to, from, static_cast<size_t>(bytes), stream_), "cudaMemcpyAsync");
  }
  void follow() override { put_behind(stream_, caller_); }
  void join() override { put_behind(caller_, stream_); }

 private:
  struct Memory {
    void* data = nullptr;
    int64_t bytes = 0;
  };
  void cuda(int code, const char* call) const {
    check<DistError>(code == 0, "rank {} of the node: {}: {}", node_->rank(), call,
                     api_.cuda_error_text(code));
  }
  void put_behind(CudaStream stream, CudaStream first) {
    cuda(api_.event_record(event_, first), "cudaEventRecord");
    cuda(api_.stream_wait_event(stream, event_), "cudaStreamWaitEvent");
  }

  NcclApi api_;
  Collectives* node_;
  CudaStream caller_, stream_ = nullptr;
  CudaEvent event_ = nullptr;
  std::vector<Memory> memory_;  // of each rank of the node
};

void IpcSlices::start(int64_t bytes) {
  check<DistError>(bytes >= 0, "{} bytes of GPU memory", bytes);
  cuda(api_.stream_create(&stream_), "cudaStreamCreate");
  cuda(api_.event_create(&event_), "cudaEventCreate");
  Memory& mine = memory_[static_cast<size_t>(node_->rank())];
  mine.bytes = bytes;
  const auto room = static_cast<size_t>(std::max<int64_t>(bytes, 1));
  if (const int code = api_.allocate(&mine.data, room); code != 0) {
    mine.data = nullptr;
    throw DistError(
        "rank {} of the node: {} bytes of GPU memory for its slice of the frozen "
        "weights: {}; take more ranks a node, or a smaller model",
        node_->rank(), bytes, api_.cuda_error_text(code));
  }
  IpcOffer offer{.handle = {}, .bytes = bytes};
  cuda(api_.ipc_handle(&offer.handle, mine.data), "cudaIpcGetMemHandle");
  const std::vector<char> all = node_->all_gather(&offer, sizeof offer);
  for (int r = 0; r < node_->size(); ++r) {
    if (r == node_->rank()) continue;
    std::memcpy(&offer, all.data() + static_cast<size_t>(r) * sizeof offer, sizeof offer);
    Memory& theirs = memory_[static_cast<size_t>(r)];
    const int code = api_.ipc_open(&theirs.data, &offer.handle);
    if (code != 0) {
      theirs.data = nullptr;
      throw DistError(
          "rank {} of the node: the GPU memory of rank {} cannot be read "
          "(cudaIpcOpenMemHandle: {}): the node's GPUs need peer access (nvidia-smi "
          "topo -p2p r); without it set parallel.shard_frozen to false",
          node_->rank(), r, api_.cuda_error_text(code));
    }
    theirs.bytes = offer.bytes;
  }
}

IpcSlices::~IpcSlices() {
  // Memory that a peer still reads must stay, and a peer's must be closed before it is freed.
  const bool in_order = std::uncaught_exceptions() == 0;
  if (in_order && stream_ != nullptr) api_.stream_wait(stream_);
  for (int r = 0; r < node_->size(); ++r)
    if (Memory& memory = memory_[static_cast<size_t>(r)];
        r != node_->rank() && memory.data != nullptr)
      api_.ipc_close(memory.data);
  try {
    if (in_order) node_->barrier();
  } catch (const std::exception& e) {
    log_warn("{}", e.what());
  }
  if (void* mine = own()) api_.release(mine);
  if (event_ != nullptr) api_.event_destroy(event_);
  if (stream_ != nullptr) api_.stream_destroy(stream_);
}

}  // namespace

std::unique_ptr<PeerSlices> make_ipc_slices(const NcclApi& api, Collectives& node,
                                            CudaStream caller, int64_t bytes) {
  auto out = std::make_unique<IpcSlices>(api, node, caller);
  out->start(bytes);
  return out;
}

}  // namespace euromodal
