// mpi_exchange.h — a sum over ranks and a gathering of slices as one operation that runs beside
// others: a handshake, then (sum) every rank gets the addends of its slice block by block and adds
// them in order of ranks, then (gather) every rank sends its slice to all. Messages go from rank to
// rank with a tag of the operation, so any number of operations may be on their way and each may
// reach its later stages whenever it is tested.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "training/dist/collectives.h"
#include "training/dist/mpi_wait.h"

namespace euromodal {

/// FNV-1a, cut to 62 bits: enough to tell operations apart, and its negative is representable.
int64_t mpi_operation_key(const std::string& operation, int64_t sequence);

/// What the operations of one communicator share.
struct MpiLink {
  MPI_Comm comm = MPI_COMM_NULL;
  int rank = 0, size = 1;
  int64_t chunk_bytes = 0, ordered_bytes = 0;  // WorldOptions
  std::function<void(int64_t number)> arrived{};
};

struct MpiExchangePlan {
  std::string operation;  // for messages and the handshake
  int64_t sequence = 0;   // number of the operation on its communicator
  bool sum = false, gather = false;
  ScatterSum scatter;
  char* gathered = nullptr;   // in place: this rank's slice is there
  const char* own = nullptr;  // instead of the slice in `gathered`
  int root = -1;              // only this rank gathers; -1: all
  Slices gathered_bytes;
};

class MpiExchange final : public Pending {
 public:
  /// `phase`: rank, phase, deadline and progress at the time of each wait; outlives the operation.
  MpiExchange(const MpiLink& link, MpiExchangePlan plan, const WaitContext& phase);
  ~MpiExchange() override { phase_->progress->remove(this); }
  MpiExchange(const MpiExchange&) = delete;
  MpiExchange& operator=(const MpiExchange&) = delete;
  bool test() override;
  void wait() override;

 private:
  enum class Stage { kHandshake, kSum, kGather, kDone };
  WaitContext context() const;
  void checked(int code, const char* call) const;
  bool handshake_done();
  void begin_sum();
  void receive_block(int64_t block);
  void add_block(int64_t block);
  bool sum_done();
  void begin_gather();
  bool all_done(std::vector<MPI_Request>& requests) const;
  int64_t own_begin() const { return plan_.scatter.slices[link_.rank]; }
  int64_t own_count() const { return plan_.scatter.slices[link_.rank + 1] - own_begin(); }

  MpiLink link_;
  MpiExchangePlan plan_;
  const WaitContext* phase_;
  Stage stage_ = Stage::kHandshake;
  int64_t key_ = 0, keys_[2] = {0, 0};
  MPI_Request handshake_ = MPI_REQUEST_NULL;
  std::vector<MPI_Request> sends_, receives_[2];  // receives of the blocks of even and odd number
  std::vector<float> addends_[2];                 // of those blocks, in order of ranks
  int64_t block_ = 0, blocks_ = 0, next_block_ = 0;  // numbers a block, blocks, the one to add next
};

}  // namespace euromodal
