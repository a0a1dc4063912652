// flop_count.h — multiplications and additions of all matrix products that LibTorch is asked for on
// this thread, forward and backward.
//
//   FlopCount count;  ... step ...;  EXPECT_EQ(count.flops(), ...);
#pragma once
#include <cstdint>
#include <memory>
#include <string_view>

#include <ATen/core/Tensor.h>
#include <ATen/record_function.h>

namespace euromodal::testing_support {

class FlopCount {
 public:
  FlopCount() : before_(current()) {
    current() = this;
    handle_ = at::addThreadLocalCallback(at::RecordFunctionCallback(&FlopCount::on_call)
                                             .needsInputs(true)
                                             .scopes({at::RecordScope::FUNCTION}));
  }
  ~FlopCount() {
    at::removeCallback(handle_);
    current() = before_;
  }
  FlopCount(const FlopCount&) = delete;
  FlopCount& operator=(const FlopCount&) = delete;
  int64_t flops() const { return flops_; }

 private:
  static FlopCount*& current() {
    static thread_local FlopCount* count = nullptr;
    return count;
  }
  static std::unique_ptr<at::ObserverContext> on_call(const at::RecordFunction& fn) {
    const std::string_view name = fn.name();
    const size_t first = name == "aten::mm" ? 0 : 1;  // addmm has the addend in front
    if (current() != nullptr && (name == "aten::mm" || name == "aten::addmm")) {
      const at::Tensor& a = fn.inputs()[first].toTensor();
      current()->flops_ += 2 * a.size(0) * a.size(1) * fn.inputs()[first + 1].toTensor().size(1);
    }
    return nullptr;
  }
  FlopCount* before_;
  at::CallbackHandle handle_{};
  int64_t flops_ = 0;
};

}  // namespace euromodal::testing_support
