// late_read.h — numbers of a device that the host reads later: their copy is queued behind the work
// that makes them, and read() waits for that work alone, not for what was queued after it.
#pragma once
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

namespace c10 {
struct Event;
}

namespace euromodal {

class LateRead {
 public:
  LateRead() = default;
  /// numbers_N: f64, dense. Those of the CPU are kept as they are.
  explicit LateRead(const at::Tensor& numbers_N);
  /// Waits until they are there.
  std::vector<double> read() const;

 private:
  at::Tensor host_N_;
  std::shared_ptr<c10::Event> copied_;  // null: they were there from the start
};

}  // namespace euromodal
