// mpi_node_memory.h — memory that the ranks of a node hold once: an MPI-3 shared-memory window, all
// of it given by rank 0 of the communicator.
#pragma once
#include <memory>

#include "training/dist/mpi_wait.h"

namespace euromodal {

/// Every rank of `comm` calls it, and every one has come. `bytes` as rank 0 says. DistError with
/// what the system gives for shared memory when there is too little.
std::unique_ptr<NodeMemory> make_mpi_node_memory(MPI_Comm comm, int64_t bytes,
                                                 const WaitContext& context);

}  // namespace euromodal
