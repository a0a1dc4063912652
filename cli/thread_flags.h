// thread_flags.h — `--threads` and `--pin`, which every command takes that computes on the CPU.
#pragma once
#include <string>

#include "backbone/threads.h"
#include "cli/options.h"

namespace euromodal::cli {

/// declare() before Options::parse(), use() after it and before any tensor work.
class ThreadFlags {
 public:
  void declare(Options& parser) {
    parser.i64("--threads", &threads_,
               "threads on the CPU; 0: OMP_NUM_THREADS, else one on each core, within the quota of "
               "a control group",
               0, 1024);
    parser.text("--pin", &pin_, "WORD",
                "each thread on a hardware thread of its own: yes, no, or auto (where memory lies "
                "at several nodes and every core has a thread)");
  }
  ThreadPlan use() const { return use_threads(threads_, parse_pinning(pin_)); }

 private:
  int64_t threads_ = 0;
  std::string pin_ = "auto";
};

}  // namespace euromodal::cli
