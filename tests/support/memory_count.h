// memory_count.h — bytes of tensors on this thread, from LibTorch's own allocator: what is alive,
// and the most that was alive at once.
//
//   MemoryCount count;  ... forward ...;  EXPECT_LT(count.live(), ...);
#pragma once
#include <algorithm>
#include <cstdint>
#include <memory>

#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

namespace euromodal::testing_support {

class MemoryCount {
 public:
  MemoryCount()
      : report_(std::make_shared<Report>()), guard_(c10::DebugInfoKind::PROFILER_STATE, report_) {}
  /// Allocated since the start and not freed; what was there before is not counted.
  int64_t live() const { return report_->live; }
  int64_t peak() const { return report_->peak; }
  void restart_peak() { report_->peak = report_->live; }

 private:
  struct Report final : c10::MemoryReportingInfoBase {
    int64_t live = 0, peak = 0;
    void reportMemoryUsage(void*, int64_t bytes, size_t, size_t, c10::Device) override {
      live += bytes;
      peak = std::max(peak, live);
    }
    bool memoryProfilingEnabled() const override { return true; }
  };
  std::shared_ptr<Report> report_;
  c10::DebugInfoGuard guard_;
};

}  // namespace euromodal::testing_support
