// fibers.h — how the emulation changes from one stack to another: begun by ucontext, changed by
// longjmp, which asks nothing of the system (swapcontext took two calls, a third of the time).
// Under AddressSanitizer by swapcontext.
#pragma once
#include <cstddef>

#include <setjmp.h>
#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace euromodal::emulation {
namespace {

constexpr size_t kStack = size_t{256} << 10;

struct Place {
  ucontext_t context{};
  jmp_buf buffer;
  bool started = false;
};

// AddressSanitizer follows a change of stack only when told before and after it.
#if defined(__SANITIZE_ADDRESS__)
void* scheduler_fake_stack = nullptr;
const void* scheduler_stack = nullptr;
size_t scheduler_stack_size = 0;
void leave_fiber(void** fake) {
  __sanitizer_start_switch_fiber(fake, scheduler_stack, scheduler_stack_size);
}
void enter_fiber(void* fake) {
  __sanitizer_finish_switch_fiber(fake, &scheduler_stack, &scheduler_stack_size);
}
void leave_scheduler(void* stack) {
  __sanitizer_start_switch_fiber(&scheduler_fake_stack, stack, kStack);
}
void enter_scheduler() { __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr); }
void jump(Place& from, Place& to) { ::swapcontext(&from.context, &to.context); }
#else
void leave_fiber(void** /*fake*/) {}
void enter_fiber(void* /*fake*/) {}
void leave_scheduler(void* /*stack*/) {}
void enter_scheduler() {}
void jump(Place& from, Place& to) {
  from.started = true;
  if (::_setjmp(from.buffer) != 0) return;
  if (to.started) ::_longjmp(to.buffer, 1);
  ::setcontext(&to.context);
}
#endif

}  // namespace
}  // namespace euromodal::emulation
