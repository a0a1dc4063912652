// mpi_wait.cpp — polling instead of MPI_Wait, for two reasons: a hanging peer must end the run (MPI
// itself would wait for ever), and Open MPI's own wait burns a core that the data workers need.
#include "training/dist/mpi_wait.h"

#include <chrono>
#include <cstdio>
#include <thread>

#include <sched.h>

namespace euromodal {

std::string WaitContext::text() const {
  return fmt::format("rank {} of {}, {}, phase '{}'", rank, size, operation, phase);
}

void check_mpi(int code, const char* call, const WaitContext& context) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "unknown error";
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw DistError("{}: {} failed: {}", context.text(), call, text);
}

void wait_until(const std::function<bool()>& done, bool ready, const WaitContext& context) {
  constexpr double kSpinColdS = 100e-6;  // arrival of peers: may take long, give the core away soon
  constexpr double kSpinReadyS = 50e-3;  // data in motion: sleeping would stall the transfer
  const double spin_until = MPI_Wtime() + (ready ? kSpinReadyS : kSpinColdS);
  for (;;) {
    if (done()) return;
    if (context.progress != nullptr) context.progress->poll();
    const double now = MPI_Wtime();
    if (now < spin_until) {
      sched_yield();  // more ranks than cores: let the peer run
      continue;
    }
    if (now - context.start_s > context.deadline_s) {
      std::fprintf(
          stderr,
          "euromodal: %s: waited %.1f s for the other ranks (deadline %.1f s): one of them "
          "hangs or is much slower; ending all ranks with exit code %d\n",
          context.text().c_str(), now - context.start_s, context.deadline_s, kDeadlineExit);
      std::fflush(stderr);
      MPI_Abort(MPI_COMM_WORLD, kDeadlineExit);
    }
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

void wait_mpi(MPI_Request* request, bool ready, const WaitContext& context) {
  const auto done = [&] {
    int flag = 0;
    check_mpi(MPI_Test(request, &flag, MPI_STATUS_IGNORE), "MPI_Test", context);
    return flag != 0;
  };
  wait_until(done, ready, context);
}

}  // namespace euromodal
