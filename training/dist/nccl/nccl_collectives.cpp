// nccl_collectives.cpp — see nccl_collectives.h. Order of calls as in NCCL's user guide: device
// before communicator, non-blocking init polled with ncclCommGetAsyncError, finalize polled before
// destroy, abort instead of both after a fault. While it polls, a rank that has failed says so over
// MPI at the next collective of the world; NCCL itself reports a lost peer as ncclRemoteError.
#include "training/dist/nccl/nccl_collectives.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <thread>
#include <vector>

#include "training/dist/nccl/ipc_slices.h"

namespace euromodal {
namespace {

using Clock = std::chrono::steady_clock;

double nccl_seconds(Clock::time_point since) {
  return std::chrono::duration<double>(Clock::now() - since).count();
}

NcclType nccl_type(DeviceType type) {
  switch (type) {
    case DeviceType::kF32:
      return NcclType::kF32;
    case DeviceType::kBf16:
      return NcclType::kBf16;
    case DeviceType::kU8:
      return NcclType::kU8;
    case DeviceType::kF64:
      return NcclType::kF64;
  }
  throw DistError("unknown device type {}", static_cast<int>(type));
}

bool nccl_even(const Slices& slices) {
  for (size_t i = 1; i < slices.size(); ++i)
    if (slices[i] - slices[i - 1] != slices[1]) return false;
  return true;
}

class NcclCollectives final : public DeviceCollectives {
 public:
  NcclCollectives(const NcclApi& api, const DeviceOptions& options);
  ~NcclCollectives() override;
  NcclCollectives(const NcclCollectives&) = delete;
  NcclCollectives& operator=(const NcclCollectives&) = delete;
  /// Apart from the constructor, so that a fault on the way cleans up.
  void start(Collectives& world, const DeviceOptions& options);

  int rank(DeviceGroup group) const override { return groups_[index(group)].rank; }
  int size(DeviceGroup group) const override { return groups_[index(group)].size; }
  void set_phase(const std::string& phase, double deadline_s) override {
    check<DistError>(deadline_s > 0, "phase '{}': deadline {} s: expected more than 0", phase,
                     deadline_s);
    phase_ = phase;
    deadline_s_ = deadline_s;
  }
  void all_reduce_sum(void* data, int64_t count, DeviceType type, DeviceGroup group) override {
    queue("all_reduce_sum", count, group, [&](NcclComm comm) {
      return api_.all_reduce_sum(data, data, count, nccl_type(type), comm, stream_);
    });
  }
  void reduce_scatter_sum(const void* data, void* out, int64_t count, DeviceType type,
                          DeviceGroup group) override {
    queue("reduce_scatter_sum", count, group, [&](NcclComm comm) {
      return api_.reduce_scatter_sum(data, out, count, nccl_type(type), comm, stream_);
    });
  }
  void all_gather(const void* data, void* out, int64_t count, DeviceType type,
                  DeviceGroup group) override {
    queue("all_gather", count, group, [&](NcclComm comm) {
      return api_.all_gather(data, out, count, nccl_type(type), comm, stream_);
    });
  }
  void broadcast(void* data, int64_t count, DeviceType type, int root, DeviceGroup group) override {
    check<DistError>(root >= 0 && root < size(group), "broadcast from rank {} of {}", root,
                     size(group));
    queue("broadcast", count, group, [&](NcclComm comm) {
      return api_.broadcast(data, data, count, nccl_type(type), root, comm, stream_);
    });
  }
  void reduce_scatter_slices(const void* data, const Slices& slices, void* out, DeviceType type,
                             DeviceGroup group) override;
  void all_gather_slices(void* data, const Slices& slices, DeviceType type,
                         DeviceGroup group) override;
  std::unique_ptr<PeerSlices> peer_slices(int64_t bytes) override {
    usable();
    return make_ipc_slices(api_, world_->node(), caller_, bytes);
  }
  void join() override;
  void wait() override;

 private:
  struct Group {
    const char* name;
    NcclComm comm = nullptr;
    int rank = 0, size = 1;
  };
  static size_t index(DeviceGroup group) { return static_cast<size_t>(group); }
  std::string who() const { return fmt::format("rank {} of {}", groups_[0].rank, groups_[0].size); }
  void usable() const {
    check<DistError>(!aborted_, "{}: the NCCL communicators were aborted after a fault", who());
  }
  void cuda(int code, const char* call);
  void nccl(int code, const char* call, NcclComm comm);
  /// Until NCCL has finished what it does on `comm` without the host.
  void settle(NcclComm comm, const std::string& what);
  [[noreturn]] void fail(const std::string& message);
  void abort_all();
  void init(Collectives& world, int ranks_per_id);
  void split(Group* group, int color, int key);
  template <typename F>
  void queue(const char* operation, int64_t count, DeviceGroup group, F&& call);
  void check_slices(const char* operation, const Slices& slices, DeviceGroup group) const;
  /// One operation made of a call for each rank's slice that is not empty.
  template <typename F>
  void queue_slices(const char* operation, const Slices& slices, DeviceGroup group, F&& call);

  NcclApi api_;
  Collectives* world_ = nullptr;
  std::array<Group, 3> groups_{Group{"world"}, Group{"node"}, Group{"cross"}};
  CudaStream stream_ = nullptr, caller_ = nullptr;
  CudaEvent ready_ = nullptr, done_ = nullptr;
  std::string phase_ = "setup", last_ = "nothing";
  double deadline_s_;
  bool aborted_ = false;
};

NcclCollectives::NcclCollectives(const NcclApi& api, const DeviceOptions& options)
    : api_(api), caller_(options.stream), deadline_s_(options.setup_deadline_s) {
  check<DistError>(options.ranks_per_id > 0 && options.setup_deadline_s > 0.0,
                   "ranks_per_id {}, setup_deadline_s {}: expected both above 0",
                   options.ranks_per_id, options.setup_deadline_s);
}

void NcclCollectives::start(Collectives& world, const DeviceOptions& options) {
  world_ = &world;
  groups_[0].rank = world.rank();
  groups_[0].size = world.size();
  cuda(api_.set_device(options.device), "cudaSetDevice");
  cuda(api_.stream_create(&stream_), "cudaStreamCreate");
  cuda(api_.event_create(&ready_), "cudaEventCreate");
  cuda(api_.event_create(&done_), "cudaEventCreate");
  init(world, options.ranks_per_id);
  // Colours: ranks of a node share its number; ranks of a cross group their number on the node.
  int node_first = world.rank();
  world.node().broadcast(&node_first, sizeof node_first, 0);
  groups_[1].rank = world.node().rank();
  groups_[1].size = world.node().size();
  groups_[2].rank = world.cross().rank();
  groups_[2].size = world.cross().size();
  split(&groups_[1], node_first, world.rank());
  split(&groups_[2], world.local_rank(), world.rank());
}

void NcclCollectives::init(Collectives& world, int ranks_per_id) {
  const int ranks = world.size();
  const int ids = (ranks + ranks_per_id - 1) / ranks_per_id;
  std::vector<char> mine;
  for (int i = 0; i < ids; ++i) {
    if (nccl_root_rank(i, ids, ranks) != world.rank()) continue;
    NcclId id;
    nccl(api_.get_unique_id(&id), "ncclGetUniqueId", nullptr);
    mine.assign(id.bytes.begin(), id.bytes.end());
  }
  const std::vector<char> all = world.all_gather(mine.data(), static_cast<int64_t>(mine.size()));
  std::vector<NcclId> roots(ids);
  check<DistError>(all.size() == roots.size() * sizeof(NcclId),
                   "{}: {} bytes of NCCL ids, expected {} ids", who(), all.size(), ids);
  for (int i = 0; i < ids; ++i)
    std::copy_n(all.begin() + static_cast<int64_t>(i * sizeof(NcclId)), sizeof(NcclId),
                roots[i].bytes.begin());
  nccl(api_.init_rank_scalable(&groups_[0].comm, ranks, world.rank(), ids, roots.data()),
       "ncclCommInitRankScalable", nullptr);
  settle(groups_[0].comm, "ncclCommInitRankScalable");
}

void NcclCollectives::split(Group* group, int color, int key) {
  nccl(api_.split(groups_[0].comm, color, key, &group->comm), "ncclCommSplit", groups_[0].comm);
  settle(groups_[0].comm, fmt::format("ncclCommSplit ({})", group->name));
  settle(group->comm, fmt::format("ncclCommSplit ({})", group->name));
}

NcclCollectives::~NcclCollectives() {
  if (!aborted_) {
    // Children before the parent. A peer that is gone must not keep this rank here: past the
    // deadline settle() aborts.
    try {
      for (size_t i = groups_.size(); i-- > 0;) {
        if (groups_[i].comm == nullptr) continue;
        nccl(api_.finalize(groups_[i].comm), "ncclCommFinalize", groups_[i].comm);
        settle(groups_[i].comm, "ncclCommFinalize");
        nccl(api_.destroy(groups_[i].comm), "ncclCommDestroy", nullptr);
        groups_[i].comm = nullptr;
      }
    } catch (const DistError&) {
      // fail() has aborted; whoever still waits gets NCCL's error
    }
  }
  if (ready_ != nullptr) api_.event_destroy(ready_);
  if (done_ != nullptr) api_.event_destroy(done_);
  if (stream_ != nullptr) api_.stream_destroy(stream_);
}

void NcclCollectives::abort_all() {
  aborted_ = true;
  for (size_t i = groups_.size(); i-- > 0;) {
    if (groups_[i].comm != nullptr) api_.comm_abort(groups_[i].comm);
    groups_[i].comm = nullptr;
  }
}

void NcclCollectives::fail(const std::string& message) {
  abort_all();
  throw DistError("{}, phase '{}': {}", who(), phase_, message);
}

void NcclCollectives::cuda(int code, const char* call) {
  if (code != 0) fail(fmt::format("{}: {}", call, api_.cuda_error_text(code)));
}

void NcclCollectives::nccl(int code, const char* call, NcclComm comm) {
  if (code == kNcclSuccess || code == kNcclInProgress) return;
  fail(fmt::format("{}: {} ({})", call, api_.error_text(code), api_.last_error(comm)));
}

void NcclCollectives::settle(NcclComm comm, const std::string& what) {
  const Clock::time_point start = Clock::now();
  for (;;) {
    int state = kNcclSuccess;
    nccl(api_.async_error(comm, &state), "ncclCommGetAsyncError", comm);
    if (state == kNcclSuccess) return;
    nccl(state, what.c_str(), comm);
    if (nccl_seconds(start) > deadline_s_)
      fail(
          fmt::format("{} is still in progress after {:.1f} s (deadline {:g} s): a rank or a link "
                      "is missing; NCCL_DEBUG=INFO says how far it came",
                      what, nccl_seconds(start), deadline_s_));
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

template <typename F>
void NcclCollectives::queue(const char* operation, int64_t count, DeviceGroup group, F&& call) {
  usable();
  check<DistError>(count >= 0, "{} of {} values", operation, count);
  const Group& where = groups_[index(group)];
  last_ = fmt::format("{} of {} values ({})", operation, count, where.name);
  // The data is what the caller's stream makes: the collective comes behind it.
  cuda(api_.event_record(ready_, caller_), "cudaEventRecord");
  cuda(api_.stream_wait_event(stream_, ready_), "cudaStreamWaitEvent");
  nccl(call(where.comm), operation, where.comm);
  settle(where.comm, last_);  // a non-blocking communicator may still set up connections
  cuda(api_.event_record(done_, stream_), "cudaEventRecord");
}

void NcclCollectives::check_slices(const char* operation, const Slices& slices,
                                   DeviceGroup group) const {
  check<DistError>(static_cast<int>(slices.size()) == size(group) + 1 && slices.front() == 0 &&
                       std::is_sorted(slices.begin(), slices.end()),
                   "{} over {} ranks: expected {} ascending slice bounds from 0, got {}", operation,
                   size(group), size(group) + 1, slices.size());
}

template <typename F>
void NcclCollectives::queue_slices(const char* operation, const Slices& slices, DeviceGroup group,
                                   F&& call) {
  queue(operation, slices.back(), group, [&](NcclComm comm) {
    nccl(api_.group_start(), "ncclGroupStart", comm);
    for (int root = 0; root < size(group); ++root) {
      const int64_t count = slices[root + 1] - slices[root];
      if (count > 0) nccl(call(comm, root, count), operation, comm);
    }
    return api_.group_end();
  });
}

// NCCL's own operations have slices of one length; others are a group of rooted ones.
void NcclCollectives::reduce_scatter_slices(const void* data, const Slices& slices, void* out,
                                            DeviceType type, DeviceGroup group) {
  check_slices("reduce_scatter_slices", slices, group);
  if (const int64_t count = slices[1]; nccl_even(slices))
    return reduce_scatter_sum(data, out, count, type, group);
  const int64_t bytes = device_type_bytes(type);
  queue_slices("reduce_scatter_slices", slices, group, [&](NcclComm comm, int root, int64_t n) {
    const char* from = static_cast<const char*>(data) + slices[root] * bytes;
    return api_.reduce_sum(from, root == rank(group) ? out : nullptr, n, nccl_type(type), root,
                           comm, stream_);
  });
}

void NcclCollectives::all_gather_slices(void* data, const Slices& slices, DeviceType type,
                                        DeviceGroup group) {
  check_slices("all_gather_slices", slices, group);
  const int64_t bytes = device_type_bytes(type);
  const auto slice = [&](int of) { return static_cast<char*>(data) + slices[of] * bytes; };
  if (nccl_even(slices)) return all_gather(slice(rank(group)), data, slices[1], type, group);
  queue_slices("all_gather_slices", slices, group, [&](NcclComm comm, int root, int64_t n) {
    return api_.broadcast(slice(root), slice(root), n, nccl_type(type), root, comm, stream_);
  });
}

void NcclCollectives::join() {
  usable();
  cuda(api_.stream_wait_event(caller_, done_), "cudaStreamWaitEvent");
}

void NcclCollectives::wait() {
  usable();
  const Clock::time_point start = Clock::now();
  for (;;) {
    const int code = api_.event_query(done_);
    if (code == 0) return;
    if (code != api_.not_ready) cuda(code, "cudaEventQuery");
    for (const Group& group : groups_) {
      int state = kNcclSuccess;
      nccl(api_.async_error(group.comm, &state), "ncclCommGetAsyncError", group.comm);
      nccl(state, last_.c_str(), group.comm);
    }
    if (nccl_seconds(start) > deadline_s_)
      fail(
          fmt::format("{} is not done after {:.1f} s (deadline {:g} s): another rank hangs or is "
                      "in another collective",
                      last_, nccl_seconds(start), deadline_s_));
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

}  // namespace

int nccl_root_rank(int id, int ids, int ranks) {
  return id * (ranks / ids) + std::min(id, ranks % ids);  // the first ranks % ids shares are longer
}

std::unique_ptr<DeviceCollectives> make_nccl_collectives(const NcclApi& api, Collectives& world,
                                                         const DeviceOptions& options) {
  auto out = std::make_unique<NcclCollectives>(api, options);
  out->start(world, options);
  return out;
}

}  // namespace euromodal
