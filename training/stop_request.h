// stop_request.h — what asks a run to leave after the step it is in: signals.
#pragma once
#include <csignal>

namespace euromodal {

/// SIGTERM, SIGINT and SIGUSR1 ask for a checkpoint and a clean end while this object lives; the
/// old handlers come back afterwards. One at a time.
class StopRequest {
 public:
  StopRequest();
  ~StopRequest();
  StopRequest(const StopRequest&) = delete;
  StopRequest& operator=(const StopRequest&) = delete;
  /// This rank was asked to stop.
  bool stop() const;

 private:
  static constexpr int kSignals[] = {SIGTERM, SIGINT, SIGUSR1};
  struct sigaction before_[3]{};
};

}  // namespace euromodal
