// host_device_collectives.h — DeviceCollectives of ranks that have no GPU, for tests: the same
// calls on memory of the host, carried out at once by the ranks' Collectives, sums in order of
// ranks.
#pragma once
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "training/dist/device_collectives.h"
#include "training/dist/peer_slices.h"

namespace euromodal {

/// Copies happen at once, or, `lazy`, no sooner than they must: what is used too early or taken
/// away too soon shows as other bits in one of the two.
class HostPeerSlices final : public PeerSlices {
 public:
  HostPeerSlices(Collectives& node, int64_t bytes, bool lazy) : node_(&node), lazy_(lazy) {
    const std::vector<char> all = node.all_gather(&bytes, sizeof bytes);
    for (size_t r = 0; r * sizeof bytes < all.size(); ++r) {
      int64_t theirs = 0;
      std::memcpy(&theirs, all.data() + r * sizeof bytes, sizeof bytes);
      first_.push_back(first_.back() + theirs);
    }
    memory_ = node.node_memory(first_.back());
  }
  void* own() override { return memory_->data() + first_[node_->rank()]; }
  void seal() override {
    node_->barrier();
    memory_->seal();
    node_->barrier();
  }
  void copy(int rank, int64_t offset, int64_t bytes, void* to) override {
    check<DistError>(offset + bytes <= first_[rank + 1] - first_[rank], "beyond rank {}", rank);
    waiting_.push_back({memory_->data() + first_[rank] + offset, bytes, to});
    if (!lazy_) run();
  }
  void follow() override {}
  void join() override { run(); }

 private:
  struct Copy {
    const char* from;
    int64_t bytes;
    void* to;
  };
  void run() {
    for (const Copy& c : waiting_) std::memcpy(c.to, c.from, static_cast<size_t>(c.bytes));
    waiting_.clear();
  }

  Collectives* node_;
  bool lazy_;
  std::vector<int64_t> first_ = {0};  // byte of each rank
  std::unique_ptr<NodeMemory> memory_;
  std::vector<Copy> waiting_;
};

class HostDeviceCollectives final : public DeviceCollectives {
 public:
  explicit HostDeviceCollectives(Collectives& world) : world_(&world) {}
  int rank(DeviceGroup group) const override { return of(group).rank(); }
  int size(DeviceGroup group) const override { return of(group).size(); }
  void set_phase(const std::string& phase, double deadline_s) override {
    world_->set_phase(phase, deadline_s);
  }
  void all_reduce_sum(void* data, int64_t count, DeviceType type, DeviceGroup group) override {
    if (type == DeviceType::kF64)
      return of(group).all_reduce_sum(static_cast<double*>(data), count);
    check_floats(type);
    of(group).all_reduce_sum(static_cast<float*>(data), count);
  }
  void reduce_scatter_sum(const void* data, void* out, int64_t count, DeviceType type,
                          DeviceGroup group) override {
    reduce_scatter_slices(data, even(count, group), out, type, group);
  }
  void all_gather(const void* data, void* out, int64_t count, DeviceType type,
                  DeviceGroup group) override {
    char* mine = static_cast<char*>(out) + rank(group) * count * device_type_bytes(type);
    std::memmove(mine, data, static_cast<size_t>(count * device_type_bytes(type)));
    all_gather_slices(out, even(count, group), type, group);
  }
  void broadcast(void* data, int64_t count, DeviceType type, int root, DeviceGroup group) override {
    of(group).broadcast(data, count * device_type_bytes(type), root);
  }
  void reduce_scatter_slices(const void* data, const Slices& slices, void* out, DeviceType type,
                             DeviceGroup group) override {
    check_floats(type);
    of(group).reduce_scatter_sum({.data = static_cast<const float*>(data),
                                  .slices = slices,
                                  .out = static_cast<float*>(out)});
  }
  void all_gather_slices(void* data, const Slices& slices, DeviceType type,
                         DeviceGroup group) override {
    Slices bytes;
    for (const int64_t bound : slices) bytes.push_back(bound * device_type_bytes(type));
    of(group).all_gather_slices(data, bytes);
  }
  std::unique_ptr<PeerSlices> peer_slices(int64_t bytes) override {
    return std::make_unique<HostPeerSlices>(world_->node(), bytes, /*lazy=*/true);
  }
  void join() override {}
  void wait() override {}

 private:
  Collectives& of(DeviceGroup group) const {
    return group == DeviceGroup::kWorld  ? *world_
           : group == DeviceGroup::kNode ? world_->node()
                                         : world_->cross();
  }
  Slices even(int64_t count, DeviceGroup group) const {
    Slices out;
    for (int r = 0; r <= size(group); ++r) out.push_back(r * count);
    return out;
  }
  static void check_floats(DeviceType type) {
    check<DistError>(type == DeviceType::kF32, "the host scatters sums of f32 alone");
  }

  Collectives* world_;
};

}  // namespace euromodal
