// fake_gpu.cpp — see fake_gpu.h. Kernels for the dispatch key CUDA in a process that has loaded
// nothing of LibTorch's CUDA part: allocation, views, copies and reading a number here, everything
// else by one boxed kernel that runs the CPU's operator on the same memory.
#include "tests/support/fake_gpu.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/NativeFunctions.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include "backbone/cuda/operators.h"
#include "backbone/decoder.h"
#include "backbone/kernels/cuda_ops.h"
#include "core/error.h"

// Of backbone/cuda/library.cpp, as the program finds it in libeuromodal_cuda.so.
extern "C" const euromodal::CudaOps* euromodal_cuda_ops();

namespace euromodal::cuda {

std::unique_ptr<Decoder> make_decoder(const Llama& /*llama*/, const DecoderOptions& /*options*/) {
  throw Error("the stand-in for a GPU has no CUDA graphs: no decoder");
}

}  // namespace euromodal::cuda

namespace euromodal::testing_support {
namespace {

const c10::Device kFake(c10::DeviceType::CUDA, 0);

struct LateCopy {
  at::Tensor to, from;
};

// Autograd's thread of the device and the test's own use it.
struct Book {
  std::mutex mutex;
  std::map<std::string, int64_t> waits;
  int64_t event_waits = 0;
  std::set<const void*> pinned;
  std::vector<LateCopy> late;  // in the order in which they were queued
  size_t arrived = 0;          // how many of them are there
};

Book& book() {
  static Book* const one = new Book;  // outlives every tensor
  return *one;
}

void note_wait(const std::string& what) {
  const std::scoped_lock lock(book().mutex);
  ++book().waits[what];
}

bool is_pinned(const void* storage) {
  const std::scoped_lock lock(book().mutex);
  return book().pinned.contains(storage);
}

void arrive(size_t count) {
  std::vector<LateCopy> now;
  {
    const std::scoped_lock lock(book().mutex);
    for (; book().arrived < count; ++book().arrived)
      now.push_back(std::exchange(book().late[book().arrived], {}));
  }
  for (const LateCopy& copy : now) copy.to.copy_(copy.from);
}

size_t queued_copies() {
  const std::scoped_lock lock(book().mutex);
  return book().late.size();
}

// ---- memory ----

void* fake_allocate(size_t bytes) {
  void* const memory = std::aligned_alloc(64, (std::max<size_t>(bytes, 1) + 63) / 64 * 64);
  std::memset(memory, 0xff, bytes);
  return memory;
}

class FakeAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    void* const memory = fake_allocate(bytes);
    return {memory, memory, &std::free, kFake};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &std::free; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

FakeAllocator& allocator() {
  static FakeAllocator one;
  return one;
}

class PinnedAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    void* const memory = fake_allocate(bytes);
    const std::scoped_lock lock(book().mutex);
    book().pinned.insert(memory);
    return {memory, memory, &release, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

 private:
  static void release(void* memory) {
    {
      const std::scoped_lock lock(book().mutex);
      book().pinned.erase(memory);
    }
    std::free(memory);
  }
};

at::Tensor over(c10::Storage storage, c10::DispatchKey key, const at::Tensor& like) {
  at::Tensor out = at::detail::make_tensor<c10::TensorImpl>(std::move(storage),
                                                            c10::DispatchKeySet(key), like.dtype());
  out.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(),
                                                   like.storage_offset());
  return out;
}

/// The same memory as a tensor of the CPU.
at::Tensor on_host(const at::Tensor& x) {
  if (!x.defined() || !x.is_cuda()) return x;
  const c10::Storage& storage = x.storage();
  return over({c10::Storage::use_byte_size_t(), storage.nbytes(),
               c10::DataPtr(storage.mutable_data(), c10::Device(c10::kCPU)), c10::GetCPUAllocator(),
               /*resizable=*/true},
              c10::DispatchKey::CPU, x);
}

/// The memory of a CPU's result as a tensor of the device.
at::Tensor on_device(const at::Tensor& x) {
  if (!x.defined()) return x;
  const auto release = [](void* kept) { delete static_cast<at::Tensor*>(kept); };
  return over({c10::Storage::use_byte_size_t(), x.storage().nbytes(),
               c10::DataPtr(x.storage().mutable_data(), new at::Tensor(x), release, kFake),
               &allocator(), /*resizable=*/true},
              c10::DispatchKey::CUDA, x);
}

at::Tensor fake_empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype,
                      std::optional<at::Layout> /*layout*/, std::optional<at::Device> /*device*/,
                      std::optional<bool> /*pin*/, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &allocator(), c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                   dtype.value_or(at::kFloat), format);
}

at::Tensor fake_empty_strided(at::IntArrayRef size, at::IntArrayRef stride,
                              std::optional<at::ScalarType> dtype,
                              std::optional<at::Layout> /*layout*/,
                              std::optional<at::Device> /*device*/, std::optional<bool> /*pin*/) {
  return at::detail::empty_strided_generic(size, stride, &allocator(),
                                           c10::DispatchKeySet(c10::DispatchKey::CUDA),
                                           dtype.value_or(at::kFloat));
}

// ---- copies and numbers ----

at::Tensor& fake_copy_(at::Tensor& self, const at::Tensor& src, bool non_blocking) {
  if (self.numel() == 0) return self;
  if (self.is_cuda() && !src.is_cuda()) {
    const bool pinned = is_pinned(src.storage().data());
    if (!non_blocking || !pinned)
      note_wait(pinned ? "blocking copy to the device" : "copy to the device from pageable memory");
    on_host(self).copy_(src);
  } else if (!self.is_cuda()) {
    if (non_blocking && is_pinned(self.storage().data())) {
      const at::Tensor from = on_host(src).clone();
      std::memset(self.mutable_data_ptr(), 0xff, self.nbytes());
      const std::scoped_lock lock(book().mutex);
      book().late.push_back({self, from});
    } else {
      note_wait("copy to the host");
      arrive(queued_copies());
      self.copy_(on_host(src));
    }
  } else {
    on_host(self).copy_(on_host(src));
  }
  return self;
}

at::Scalar fake_local_scalar(const at::Tensor& self) {
  note_wait("aten::_local_scalar_dense");
  arrive(queued_copies());
  return at::_local_scalar_dense(on_host(self));
}

/// Other libraries' losses are not there.
bool fake_other_ctc(const at::Tensor& /*log_probs*/, const at::Tensor& /*targets*/,
                    at::IntArrayRef /*input_lengths*/, at::IntArrayRef /*target_lengths*/,
                    int64_t /*blank*/) {
  return false;
}

// ---- every other operator ----

/// Whose results' shapes depend on values, or that give the host a number.
const std::set<std::string>& waiting_operators() {
  static const std::set<std::string> names = {"aten::nonzero",
                                              "aten::masked_select",
                                              "aten::equal",
                                              "aten::_unique",
                                              "aten::_unique2",
                                              "aten::unique_dim",
                                              "aten::unique_consecutive",
                                              "aten::bincount",
                                              "aten::repeat_interleave",
                                              "aten::_linalg_check_errors",
                                              "aten::_ctc_loss"};
  return names;
}

bool is_index(const std::string& name) {
  return name == "aten::index" || name == "aten::index_put_" || name == "aten::_index_put_impl_" ||
         name == "aten::_unsafe_index";
}

class HostCall {
 public:
  HostCall(const c10::OperatorHandle& op, torch::jit::Stack& stack)
      : schema_(op.schema()),
        name_(schema_.operator_name().name),
        stack_(stack),
        begin_(stack.size() - schema_.arguments().size()),
        given_(stack.begin() + static_cast<int64_t>(begin_), stack.end()) {
    if (waiting_operators().contains(name_)) note_wait(name_);
    for (size_t i = 0; i < given_.size(); ++i) stack_[begin_ + i] = argument(given_[i]);
    for (size_t i = begin_; i < stack_.size(); ++i) taken_.push_back(stack_[i]);
  }

  void give_back() {
    for (size_t i = 0; i < given_.size(); ++i) {
      const c10::AliasInfo* alias = schema_.arguments()[i].alias_info();
      if (alias == nullptr || !alias->isWrite()) continue;
      if (given_[i].isTensor()) written(given_[i].toTensor(), taken_[i].toTensor());
      if (!given_[i].isTensorList()) continue;
      const std::vector<at::Tensor> theirs = given_[i].toTensorVector(),
                                    ours = taken_[i].toTensorVector();
      for (size_t j = 0; j < theirs.size(); ++j) written(theirs[j], ours[j]);
    }
    const size_t first = stack_.size() - schema_.returns().size();
    for (size_t r = 0; r < schema_.returns().size(); ++r)
      stack_[first + r] = result(schema_.returns()[r], stack_[first + r]);
  }

 private:
  at::Tensor operand(const at::Tensor& x) const {
    // Numbers of the host are launch arguments; indices are copied.
    const bool number = x.defined() && x.dim() == 0;
    if (x.defined() && x.is_cpu() && !number) {
      TORCH_CHECK(is_index(name_), "Expected all tensors to be on the same device, but ", name_,
                  " got one on cpu beside cuda:0");
      note_wait(name_ + " with indices of the host");
    }
    return on_host(x);
  }

  c10::IValue argument(const c10::IValue& value) const {
    if (value.isTensor()) return operand(value.toTensor());
    if (value.isTensorList()) {
      std::vector<at::Tensor> out;
      for (const at::Tensor& x : value.toTensorVector()) out.push_back(operand(x));
      return out;
    }
    if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> out;
      for (const std::optional<at::Tensor>& x : value.toOptionalTensorVector())
        out.push_back(x ? std::optional(operand(*x)) : std::nullopt);
      return out;
    }
    if (value.isDevice()) return c10::Device(c10::kCPU);
    return value;
  }

  /// What the operator wrote into `ours` may be other memory now, or another shape.
  static void written(const at::Tensor& theirs, const at::Tensor& ours) {
    if (!theirs.defined() || !theirs.is_cuda()) return;
    c10::TensorImpl* impl = theirs.unsafeGetTensorImpl();
    if (ours.storage().data() != theirs.storage().data())
      impl->set_storage_keep_dtype(on_device(ours).storage());
    if (ours.sizes() != theirs.sizes() || ours.strides() != theirs.strides())
      impl->set_sizes_and_strides(ours.sizes(), ours.strides(), ours.storage_offset());
  }

  c10::IValue result(const c10::Argument& declared, const c10::IValue& value) const {
    if (value.isTensorList()) {
      std::vector<at::Tensor> out;
      for (const at::Tensor& x : value.toTensorVector()) out.push_back(fresh(x));
      return out;
    }
    if (!value.isTensor()) return value;
    if (declared.alias_info() != nullptr && declared.alias_info()->isWrite()) {
      for (size_t i = 0; i < given_.size(); ++i) {
        const c10::AliasInfo* alias = schema_.arguments()[i].alias_info();
        if (alias != nullptr && alias->beforeSets() == declared.alias_info()->beforeSets())
          return given_[i];
      }
    }
    return fresh(value.toTensor());
  }

  /// A result, or a view of an argument.
  at::Tensor fresh(const at::Tensor& x) const {
    if (!x.defined()) return x;
    for (const c10::IValue& value : given_) {
      if (!value.isTensor() || !value.toTensor().defined() || !value.toTensor().is_cuda()) continue;
      const c10::Storage& storage = value.toTensor().storage();
      if (x.nbytes() > 0 && storage.data() == x.storage().data())
        return over(storage, c10::DispatchKey::CUDA, x);
    }
    return on_device(x);
  }

  const c10::FunctionSchema& schema_;
  std::string name_;
  torch::jit::Stack& stack_;
  size_t begin_;
  std::vector<c10::IValue> given_, taken_;
};

void fake_operator(const c10::OperatorHandle& op, c10::DispatchKeySet /*keys*/,
                   torch::jit::Stack* stack) {
  HostCall call(op, *stack);
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  call.give_back();
}

// ---- streams and events ----

class FakeGuard final : public c10::impl::DeviceGuardImplInterface {
 public:
  c10::DeviceType type() const override { return c10::DeviceType::CUDA; }
  c10::Device exchangeDevice(c10::Device /*device*/) const override { return kFake; }
  c10::Device getDevice() const override { return kFake; }
  void setDevice(c10::Device /*device*/) const override {}
  void uncheckedSetDevice(c10::Device /*device*/) const noexcept override {}
  c10::Stream getStream(c10::Device /*device*/) const override { return stream(); }
  c10::Stream getDefaultStream(c10::Device /*device*/) const override { return stream(); }
  c10::Stream exchangeStream(c10::Stream /*stream*/) const override { return stream(); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void** event, const c10::Stream& /*stream*/, const c10::DeviceIndex /*device*/,
              const c10::EventFlag /*flag*/) const override {
    if (*event == nullptr) *event = new size_t(0);
    *static_cast<size_t*>(*event) = queued_copies();
  }
  void block(void* /*event*/, const c10::Stream& /*stream*/) const override {}
  bool queryEvent(void* /*event*/) const override { return false; }
  void synchronizeEvent(void* event) const override {
    {
      const std::scoped_lock lock(book().mutex);
      ++book().event_waits;
    }
    arrive(*static_cast<size_t*>(event));
  }
  void destroyEvent(void* event, const c10::DeviceIndex /*device*/) const noexcept override {
    delete static_cast<size_t*>(event);
  }
  void synchronizeStream(const c10::Stream& /*stream*/) const override { everything("stream"); }
  void synchronizeDevice(const c10::DeviceIndex /*device*/) const override { everything("device"); }

 private:
  static c10::Stream stream() { return c10::Stream(c10::Stream::DEFAULT, kFake); }
  static void everything(const std::string& what) {
    note_wait("the whole " + what);
    arrive(queued_copies());
  }
};

C10_REGISTER_GUARD_IMPL(CUDA, FakeGuard)

/// LibTorch asks these what there is.
struct CUDAHooks final : public at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs /*args*/) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex /*device*/) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  int getNumGPUs() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex /*device*/) const override {
    return at::detail::getDefaultCPUGenerator();
  }
  bool isPinnedPtr(const void* data) const override { return is_pinned(data); }
  at::Allocator* getPinnedMemoryAllocator() const override {
    static PinnedAllocator one;
    return &one;
  }
};

using at::CUDAHooksRegistry;
using at::RegistererCUDAHooksRegistry;
REGISTER_CUDA_HOOKS(CUDAHooks)

}  // namespace

TORCH_LIBRARY_IMPL(_, CUDA, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fake_operator>());
}

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", TORCH_FN(fake_empty));
  m.impl("empty_strided", TORCH_FN(fake_empty_strided));
  m.impl("as_strided", TORCH_FN(at::native::as_strided_tensorimpl));
  m.impl("view", TORCH_FN(at::native::view));
  m.impl("_reshape_alias", TORCH_FN(at::native::_reshape_alias));
  m.impl("copy_", TORCH_FN(fake_copy_));
  m.impl("_local_scalar_dense", TORCH_FN(fake_local_scalar));
  m.impl("_use_cudnn_ctc_loss", TORCH_FN(fake_other_ctc));
  m.impl("_use_miopen_ctc_loss", TORCH_FN(fake_other_ctc));
}

c10::Device fake_gpu() {
  static const bool ready = [] {
    c10::SetAllocator(c10::DeviceType::CUDA, &allocator());
    set_cuda_ops(euromodal_cuda_ops());
    return true;
  }();
  static_cast<void>(ready);
  return kFake;
}

std::map<std::string, int64_t> take_host_waits() {
  const std::scoped_lock lock(book().mutex);
  return std::exchange(book().waits, {});
}

int64_t take_event_waits() {
  const std::scoped_lock lock(book().mutex);
  return std::exchange(book().event_waits, 0);
}

}  // namespace euromodal::testing_support
