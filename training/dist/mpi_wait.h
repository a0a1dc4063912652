// mpi_wait.h — waiting for MPI requests with a deadline; MPI's error codes as DistError. The
// only file that includes mpi.h.
#pragma once
#include <functional>
#include <string>
#include <vector>

// The C API alone: mpi.h would else pull in the C++ bindings, a library of their own.
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include "training/dist/collectives.h"

namespace euromodal {

/// Operations on their way: every wait moves them on, so that ranks that wait for different ones
/// do not wait for each other.
class MpiProgress {
 public:
  void add(Pending* pending) { active_.push_back(pending); }
  void remove(const Pending* pending) { std::erase(active_, pending); }
  void poll() {
    for (size_t i = 0; i < active_.size(); ++i) active_[i]->test();
  }

 private:
  std::vector<Pending*> active_;
};

/// Where a wait stands, for messages: "rank 1 of 2, all_reduce_sum of 100 f32, phase 'step 7'".
struct WaitContext {
  int rank = 0, size = 1;
  std::string operation;
  std::string phase;
  double deadline_s = 0.0;  // from `start_s`
  double start_s = 0.0;     // MPI_Wtime when the operation began
  MpiProgress* progress = nullptr;
  std::string text() const;
};

/// DistError naming the context and MPI's own text unless `code` is MPI_SUCCESS.
void check_mpi(int code, const char* call, const WaitContext& context);

/// Polls until `done` says so. `ready`: every rank has arrived, so the wait is short and the
/// processor is kept longer before sleeping. Past the deadline: one line on stderr, then every rank
/// is ended with kDeadlineExit.
void wait_until(const std::function<bool()>& done, bool ready, const WaitContext& context);
/// The same for one request.
void wait_mpi(MPI_Request* request, bool ready, const WaitContext& context);

}  // namespace euromodal
