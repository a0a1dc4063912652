// nccl_collectives.h — DeviceCollectives over NCCL. The world's MPI carries the unique ids; three
// communicators are made: the world, this node, across nodes (ncclCommSplit). Every call of NCCL
// that may wait is polled against a deadline, and ncclCommAbort ends what does not.
#pragma once
#include <memory>

#include "training/dist/device_collectives.h"
#include "training/dist/nccl/nccl_api.h"

namespace euromodal {

/// See make_device_collectives(). `api` is copied.
std::unique_ptr<DeviceCollectives> make_nccl_collectives(const NcclApi& api, Collectives& world,
                                                         const DeviceOptions& options);

/// The rank that makes unique id `id` of `ids`: NCCL expects them evenly spread over the ranks.
int nccl_root_rank(int id, int ids, int ranks);

}  // namespace euromodal
