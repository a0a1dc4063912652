// stop_request.cpp — see stop_request.h.
#include "training/stop_request.h"

#include <atomic>
#include <iterator>

namespace euromodal {
namespace {

std::atomic<bool> stop_signal{false};  // set by signals only

}  // namespace

StopRequest::StopRequest() {
  stop_signal = false;
  for (size_t i = 0; i < std::size(kSignals); ++i) {
    struct sigaction action {};
    action.sa_handler = [](int) { stop_signal = true; };
    ::sigaction(kSignals[i], &action, &before_[i]);
  }
}

StopRequest::~StopRequest() {
  for (size_t i = 0; i < std::size(kSignals); ++i) ::sigaction(kSignals[i], &before_[i], nullptr);
}

bool StopRequest::stop() const { return stop_signal; }

}  // namespace euromodal
