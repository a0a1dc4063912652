// counting.h — one rank of a world whose other ranks do not exist: its collectives return at once
// what a world of equal ranks would, and every call is counted. What a step would send can so be
// known before a cluster is asked for.
#pragma once
#include <map>
#include <memory>
#include <string>

#include "training/dist/collectives.h"

namespace euromodal {

struct CollectiveCount {
  int64_t calls = 0;
  /// That this rank sends to others. Sums of floats and slices: exact (mpi_exchange.h). Operations
  /// that MPI does in its own way (broadcast, sums of doubles, all_gather): the payload, once.
  int64_t bytes = 0;
};

class CountingCollectives : public Collectives {
 public:
  /// By phase, then by operation ("all_reduce_sum", ...).
  using Counts = std::map<std::string, std::map<std::string, CollectiveCount>>;
  virtual const Counts& counts() const = 0;
};

/// Rank `rank` of `size`; every rank on a node of its own. Sums are those of ranks that all give
/// what this one gives (one that gives nothing gets zeros); what others would send is left as it
/// is. UsageError unless 0 <= rank < size.
std::unique_ptr<CountingCollectives> make_counting(int size, int rank);

}  // namespace euromodal
