// ipc_slices.h — PeerSlices over CUDA IPC: each rank allocates its memory and opens that of the
// node's others; copies go over NVLink or PCIe. Reference: CUDA Programming Guide, Interprocess
// Communication.
#pragma once
#include <memory>

#include "training/dist/collectives.h"
#include "training/dist/nccl/nccl_api.h"
#include "training/dist/peer_slices.h"

namespace euromodal {

/// See DeviceCollectives::peer_slices(). The device is set already; `api` is copied, `node`
/// outlives the result. `caller`: the stream of the caller's work.
std::unique_ptr<PeerSlices> make_ipc_slices(const NcclApi& api, Collectives& node,
                                            CudaStream caller, int64_t bytes);

}  // namespace euromodal
