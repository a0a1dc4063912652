// gradient_sync.cpp — see gradient_sync.h.
#include "training/gradient_sync.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <functional>
#include <limits>
#include <numeric>
#include <unordered_set>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include "backbone/kernels/cuda_ops.h"
#include "backbone/kernels/to_device.h"
#include "core/error.h"
#include "core/log.h"
#include "training/bucket_plan.h"

namespace euromodal {

namespace {

using torch::autograd::Node;

constexpr int64_t kSyncUnknown = int64_t{1} << 40;  // to the end of backward

class SyncHook final : public torch::autograd::PostAccumulateGradHook {
 public:
  explicit SyncHook(std::function<void()> call) : call_(std::move(call)) {}
  void operator()(const torch::autograd::Variable& /*tensor*/) override { call_(); }

 private:
  std::function<void()> call_;
};

double sync_square_sum(const float* g, int64_t count) {
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(g[i]) * static_cast<double>(g[i]);
  return sum;
}

// Sum of squares of each, f64, where they lie.
at::Tensor sync_squares(const std::vector<at::Tensor>& gradients) {
  if (gradients.front().is_cuda()) return cuda_ops().square_sums(gradients);
  std::vector<at::Tensor> out;
  for (const at::Tensor& gradient : gradients)
    out.push_back(at::linalg_vector_norm(gradient, 2, std::nullopt, false, at::kDouble).square());
  return at::stack(out);
}

}  // namespace

GradientSync::GradientSync(FlatBuffer& buffer, Collectives& world, bool overlap)
    : buffer_(&buffer),
      world_(&world),
      device_(buffer.options().device),
      overlap_(overlap && world.size() > 1),
      free_local_(buffer.options().zero == 2 && world.size() > 1) {
  check(!buffer.on_cuda() || world.size() == 1 || device_ != nullptr,
        "gradients on GPUs of {} ranks need device collectives", world.size());
  const auto buckets = static_cast<int64_t>(buffer.buckets().size());
  for (FlatBucket& bucket : buffer.buckets()) lanes_.push_back({.bucket = &bucket});
  handles_.reserve(buffer.slots().size() + buffer.aliases().size());
  for (const FlatSlot& slot : buffer.slots()) {
    add_handle(slot.parameter, slot, slot.bucket);
    first_block_.push_back(blocks_);
    blocks_ += (slot.count + kNormBlock - 1) / kNormBlock;
  }
  for (size_t i = 0; i < buffer.aliases().size(); ++i) {
    const FlatAlias& alias = buffer.aliases()[i];
    const FlatSlot& slot = buffer.slots()[static_cast<size_t>(alias.slot)];
    lanes_.push_back({.bucket = &buffer.buckets()[slot.bucket], .alias = true});
    add_handle(alias.handle, slot, buckets + static_cast<int64_t>(i));
  }
  order_.resize(lanes_.size());
  std::iota(order_.begin(), order_.end(), 0);
}

GradientSync::~GradientSync() {
  // What is on its way uses this object's memory. (With an exception passing through, the run
  // ends.)
  try {
    while (std::uncaught_exceptions() == 0 && !in_flight_.empty()) complete(*in_flight_.front());
  } catch (const std::exception& e) {
    log_warn("{}", e.what());
  }
  for (const Handle& handle : handles_)
    torch::autograd::impl::set_post_acc_grad_hooks(handle.tensor, nullptr);
}

void GradientSync::add_handle(const at::Tensor& tensor, const FlatSlot& slot, int64_t lane) {
  const size_t index = handles_.size();
  handles_.push_back({.tensor = tensor,
                      .name = slot.name,
                      .lane = lane,
                      .offset = slot.offset,
                      .count = slot.count,
                      .accumulator = torch::autograd::impl::grad_accumulator(tensor)});
  handle_of_[handles_.back().accumulator.get()] = index;
  torch::autograd::impl::set_post_acc_grad_hooks(
      tensor, std::make_unique<SyncHook>([this, index] { accumulate(handles_[index]); }));
}

at::Tensor GradientSync::hold(int64_t count) {
  held_ += count;
  peak_ = std::max(peak_, held_);
  return at::zeros({count}, buffer_->device().dtype(at::kFloat));
}

void GradientSync::drop(at::Tensor& tensor) {
  if (tensor.defined()) held_ -= tensor.numel();
  tensor.reset();
}

void GradientSync::begin(std::vector<int> contributors) {
  check(in_flight_.empty() && !contributors.empty(), "a step begins inside another");
  contributors_ = std::move(contributors);
  round_ = 0;
  next_ = 0;
  overlapped_ = 0;
  fired_ = 0;
  for (Lane& lane : lanes_) {
    lane.sent = false;
    lane.last = 0;
    lane.result.reset();
    if (!lane.alias) lane.bucket->gradient.reset();
    if (lane.apart) drop(lane.shard);
    lane.shard.reset();
    lane.apart = false;
    if (free_local_) {
      drop(lane.local);
    } else if (lane.local.defined()) {
      lane.local.zero_();
    }
  }
  peak_ = held_;
  if (free_local_) return;
  for (Lane& lane : lanes_)
    if (!lane.local.defined()) lane.local = hold(lane.bucket->count);
}

// Runs after autograd has put this backward's gradient of the tensor into its grad().
void GradientSync::accumulate(Handle& handle) {
  const at::NoGradGuard no_grad;
  const std::lock_guard<std::mutex> lock(mutex_);
  Lane& lane = lanes_[handle.lane];
  ++handle.fired;
  check(!lane.sent,
        "the gradient of {} came after its bucket was sent: it is used in a way that the graph "
        "does not show and that was not seen before; set parallel.overlap to false",
        handle.name);
  at::Tensor& grad = handle.tensor.mutable_grad();
  if (!lane.local.defined()) lane.local = hold(lane.bucket->count);
  lane.local.narrow(0, handle.offset, handle.count).add_(grad.reshape({-1}));
  grad.reset();
  lane.last = ++fired_;
  if (!armed_) return;
  if (handle.need > 0 && --handle.need == 0) --lane.waiting;
  if (std::this_thread::get_id() != owner_ && !buffer_->on_cuda()) return;
  advance();
  poll();
}

// Which gradients the backward pass from here will bring, as far as the graph shows.
void GradientSync::expect(const at::Tensor& loss_sum) {
  for (Handle& handle : handles_) {
    handle.reachable = false;
    handle.fired = 0;
  }
  std::vector<const Node*> stack = {loss_sum.grad_fn().get()};
  std::unordered_set<const Node*> seen = {stack.back()};
  while (!stack.empty()) {
    const Node* node = stack.back();
    stack.pop_back();
    if (const auto found = handle_of_.find(node); found != handle_of_.end())
      handles_[found->second].reachable = true;
    for (const torch::autograd::Edge& edge : node->next_edges())
      if (edge.function && seen.insert(edge.function.get()).second)
        stack.push_back(edge.function.get());
  }
  for (Lane& lane : lanes_) lane.waiting = 0;
  for (Handle& handle : handles_) {
    handle.need = handle.hidden + (handle.reachable ? 1 : 0);
    // Neither in this graph nor in an earlier one, and no gradient so far: nobody knows.
    if (handle.need == 0 && !handle.was_reachable) handle.need = kSyncUnknown;
    if (handle.need > 0) ++lanes_[handle.lane].waiting;
  }
}

void GradientSync::learn() {
  for (Handle& handle : handles_) {
    handle.hidden = std::max(handle.hidden, handle.fired - (handle.reachable ? 1 : 0));
    handle.was_reachable = handle.was_reachable || handle.reachable;
  }
}

void GradientSync::backward(const at::Tensor& loss_sum, bool last) {
  if (overlap_) {
    expect(loss_sum);
    armed_ = last;
    if (armed_) advance();
  }
  try {
    loss_sum.backward();
  } catch (...) {
    armed_ = false;
    throw;
  }
  armed_ = false;
  if (overlap_) learn();
}

void GradientSync::advance() {
  for (; next_ < order_.size() && lanes_[order_[next_]].waiting == 0; ++next_) {
    issue(lanes_[order_[next_]]);
    ++overlapped_;
  }
}

void GradientSync::issue(Lane& lane) {
  while (free_local_ && in_flight_.size() >= kBucketsInFlight) complete(*in_flight_.front());
  const FlatBucket& bucket = *lane.bucket;
  const int ranks = contributors_[round_];
  if (world_->rank() < ranks && !lane.local.defined()) lane.local = hold(bucket.count);
  lane.sent = true;
  if (device_ != nullptr || buffer_->on_cuda()) return queue_on_device(lane);
  if (!bucket.sharded && one_round() && ranks == world_->size()) {
    lane.result = lane.local;
    lane.pending = world_->start_all_reduce_sum(lane.local.mutable_data_ptr<float>(), bucket.count);
  } else {
    const int64_t begin = bucket.slices[world_->rank()],
                  own = bucket.slices[world_->rank() + 1] - begin;
    if (!lane.shard.defined()) {
      lane.apart = !one_round() || free_local_;
      lane.shard = lane.apart ? hold(own) : lane.local.narrow(0, begin, own);
    }
    lane.pending = world_->start_reduce_scatter_sum(
        {.data = lane.local.defined() ? lane.local.const_data_ptr<float>() : nullptr,
         .slices = bucket.slices,
         .out = lane.shard.mutable_data_ptr<float>(),
         .onto_out = round_ > 0,
         .ranks = ranks});
  }
  in_flight_.push_back(&lane);
}

void GradientSync::queue_on_device(Lane& lane) {
  const FlatBucket& bucket = *lane.bucket;
  if (!lane.local.defined()) lane.local = hold(bucket.count);
  if (!bucket.sharded) {
    lane.result = lane.local;
    if (device_ != nullptr)
      device_->all_reduce_sum(lane.local.mutable_data_ptr(), bucket.count, DeviceType::kF32,
                              DeviceGroup::kWorld);
    return;
  }
  release_queued();
  const int64_t begin = bucket.slices[world_->rank()],
                own = bucket.slices[world_->rank() + 1] - begin;
  lane.apart = free_local_;
  lane.shard = lane.apart ? hold(own) : lane.local.narrow(0, begin, own);
  lane.result = lane.shard;
  device_->reduce_scatter_slices(lane.local.const_data_ptr(), bucket.slices,
                                 lane.shard.mutable_data_ptr(), DeviceType::kF32,
                                 DeviceGroup::kWorld);
  if (free_local_) queued_.push_back(&lane);
}

// Memory goes back to the stream that computes, so that stream must stand behind the sums that read
// it. It is made to when the next bucket is complete: till then they had time.
void GradientSync::release_queued() {
  if (queued_.empty()) return;
  device_->join();
  for (Lane* lane : queued_) drop(lane->local);
  queued_.clear();
}

void GradientSync::poll() {
  for (size_t i = 0; i < in_flight_.size();) {
    if (in_flight_[i]->pending->test()) {
      complete(*in_flight_[i]);
    } else {
      ++i;
    }
  }
}

void GradientSync::complete(Lane& lane) {
  lane.pending->wait();
  lane.pending.reset();
  if (free_local_) drop(lane.local);
  std::erase(in_flight_, &lane);
}

void GradientSync::end_round() {
  check(round_ < contributors_.size(), "round {} of {}", round_ + 1, contributors_.size());
  for (; next_ < order_.size(); ++next_) {
    issue(lanes_[order_[next_]]);
    poll();
  }
  while (!in_flight_.empty()) complete(*in_flight_.front());
  next_ = 0;
  if (++round_ == contributors_.size()) return;
  for (Lane& lane : lanes_) {
    lane.sent = false;
    if (lane.local.defined()) lane.local.zero_();
  }
}

void GradientSync::finish() {
  while (round_ < contributors_.size()) end_round();
  std::vector<std::unique_ptr<Pending>> pending;
  for (Lane& lane : lanes_) {
    const FlatBucket& bucket = *lane.bucket;
    if (lane.result.defined()) continue;
    lane.result = lane.shard;
    if (bucket.sharded || world_->size() == 1) continue;
    const int64_t begin = bucket.slices[world_->rank()];
    if (!one_round()) lane.local.narrow(0, begin, lane.shard.numel()).copy_(lane.shard);
    lane.result = lane.local;
    Slices bytes;
    for (const int64_t offset : bucket.slices) bytes.push_back(4 * offset);
    pending.push_back(world_->start_all_gather_slices(lane.local.mutable_data_ptr(), bytes));
  }
  for (const auto& operation : pending) operation->wait();
  if (device_ != nullptr) device_->join();
  release_queued();
  for (Lane& lane : lanes_) {
    if (lane.alias) {
      lane.bucket->gradient.add_(lane.result);
    } else {
      lane.bucket->gradient = lane.result;
    }
  }
  if (!overlap_ || order_learned_) return;
  // The plan's order is a guess; from now on the order in which rank 0 saw the buckets ready.
  std::vector<int64_t> order = order_;
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
    const auto ready = [&](int64_t lane) {
      return lanes_[lane].last > 0 ? lanes_[lane].last : kNever;
    };
    return ready(a) < ready(b);
  });
  world_->broadcast(order.data(), static_cast<int64_t>(order.size() * sizeof(int64_t)), 0);
  order_ = order;
  order_learned_ = true;
}

// Each rank its slices, as below; the sum over ranks on the device too. B gradients, G groups.
GradientNorms GradientSync::device_norms() {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> own;  // this rank's part of each bucket
  std::vector<int64_t> group_of;
  int64_t groups = 0;
  for (const FlatBucket& bucket : buffer_->buckets()) {
    groups = std::max(groups, bucket.group + 1);
    const int64_t begin = bucket.slices[world_->rank()],
                  count = bucket.slices[world_->rank() + 1] - begin;
    if (count == 0) continue;
    own.push_back(bucket.gradient.narrow(0, begin - bucket.begin, count));
    group_of.push_back(bucket.group);
  }
  at::Tensor square_G = at::zeros({groups}, buffer_->device().dtype(at::kDouble));
  if (!own.empty()) {
    if (!of_group_GB_.defined())  // the same in every step
      of_group_GB_ = to_device(at::tensor(group_of, at::kLong)
                                   .unsqueeze(0)
                                   .eq(at::arange(groups, at::kLong).unsqueeze(1)),
                               buffer_->device().device());
    const at::Tensor square_B = sync_squares(own);
    square_G = at::where(of_group_GB_, square_B, at::zeros_like(square_B)).sum(1);
  }
  if (device_ != nullptr) {
    device_->all_reduce_sum(square_G.mutable_data_ptr(), groups, DeviceType::kF64,
                            DeviceGroup::kWorld);
    device_->join();
  }
  return {.total = square_G.sum().sqrt(), .groups_G = square_G.sqrt()};
}

GradientNorms GradientSync::norms() {
  if (device_ != nullptr || buffer_->on_cuda()) return device_norms();
  std::vector<double> sums(static_cast<size_t>(blocks_), 0.0);
  for (const FlatBucket& bucket : buffer_->buckets()) {
    // Each rank sums its slice, also of a bucket that every rank holds.
    const int64_t first = bucket.slices[world_->rank()], last = bucket.slices[world_->rank() + 1];
    const float* gradient = bucket.gradient.const_data_ptr<float>();
    for (const int64_t s : bucket.slots) {
      const FlatSlot& slot = buffer_->slots()[static_cast<size_t>(s)];
      const int64_t begin = std::max(first, slot.offset),
                    end = std::min(last, slot.offset + slot.count);
      if (begin >= end) continue;
      const int64_t from = (begin - slot.offset) / kNormBlock,
                    to = (end - slot.offset + kNormBlock - 1) / kNormBlock;
      at::parallel_for(from, to, 64, [&](int64_t block_begin, int64_t block_end) {
        for (int64_t b = block_begin; b < block_end; ++b) {
          const int64_t at = slot.offset + b * kNormBlock;
          sums[static_cast<size_t>(first_block_[s] + b)] =
              sync_square_sum(gradient + (at - bucket.begin), std::min(kNormBlock, end - at));
        }
      });
    }
  }
  // Each block has one rank that knows it, and zeros from the others: the sum is exact.
  world_->all_reduce_sum(sums.data(), blocks_);
  double total = 0.0;
  std::vector<double> groups;
  for (size_t s = 0; s < buffer_->slots().size(); ++s) {
    const auto group = static_cast<size_t>(buffer_->slots()[s].group);
    groups.resize(std::max(groups.size(), group + 1), 0.0);
    const int64_t end = s + 1 < first_block_.size() ? first_block_[s + 1] : blocks_;
    for (int64_t b = first_block_[s]; b < end; ++b) {
      total += sums[static_cast<size_t>(b)];
      groups[group] += sums[static_cast<size_t>(b)];
    }
  }
  for (double& group : groups) group = std::sqrt(group);
  return {.total = at::full({}, std::sqrt(total), at::kDouble),
          .groups_G = at::tensor(groups, at::kDouble)};
}

}  // namespace euromodal
