// stop_request.cpp — see stop_request.h.
#include "training/stop_request.h"

#include <atomic>
#include <iterator>

#include "training/dist/watchdog.h"

namespace euromodal {
namespace {

std::atomic<bool> stop_signal{false};  // set by signals only

}  // namespace

StopRequest::StopRequest() {
  stop_signal = false;
  for (size_t i = 0; i < std::size(kSignals); ++i) {
    struct sigaction action {};
    action.sa_handler = [](int signal) {
      stop_signal = true;
      // mpirun and srun end the ranks of a faulty run this way: the flight record is wanted.
      if (signal == SIGTERM) note_watchdog_signal(signal);
    };
    ::sigaction(kSignals[i], &action, &before_[i]);
  }
}

StopRequest::~StopRequest() {
  for (size_t i = 0; i < std::size(kSignals); ++i) ::sigaction(kSignals[i], &before_[i], nullptr);
}

bool StopRequest::stop() const { return stop_signal; }

}  // namespace euromodal
