// watched_world.cpp — see watched_world.h.
#include "training/dist/watched_world.h"

#include <exception>

namespace euromodal {
namespace {

constexpr double kBackstopS = 60.0;  // that MPI's own deadline is later than the watchdog's

class WatchedPending final : public Pending {
 public:
  WatchedPending(FlightRecord& record, int64_t ticket, std::unique_ptr<Pending> inner)
      : record_(record), ticket_(ticket), inner_(std::move(inner)) {}
  bool test() override {
    try {
      if (!inner_->test()) return false;
    } catch (...) {
      record_.failed(ticket_);
      throw;
    }
    if (!done_) record_.ended(ticket_);
    return done_ = true;
  }
  void wait() override {
    if (done_) return;
    record_.block(ticket_);
    try {
      inner_->wait();
    } catch (...) {
      record_.failed(ticket_);
      throw;
    }
    record_.ended(ticket_);
    done_ = true;
  }

 private:
  FlightRecord& record_;
  int64_t ticket_;
  std::unique_ptr<Pending> inner_;
  bool done_ = false;
};

/// The world, or a group of it.
class WatchedGroup : public Collectives {
 public:
  WatchedGroup(FlightRecord& record, Collectives& inner, std::string name)
      : record_(record), inner_(&inner), name_(std::move(name)) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  int local_rank() const override { return inner_->local_rank(); }
  int local_size() const override { return inner_->local_size(); }
  void set_phase(const std::string& phase, double deadline_s) override {
    inner_->set_phase(phase, deadline_s + kBackstopS);
    record_.set_phase(phase, deadline_s);
  }
  double waited_s() const override { return record_.blocked_s(); }
  void barrier() override {
    watch({.operation = "barrier"}, [&] { inner_->barrier(); });
  }
  void broadcast(void* data, int64_t bytes, int root) override {
    watch({.operation = fmt::format("broadcast from rank {}", root), .count = bytes, .dtype = "u8"},
          [&] { inner_->broadcast(data, bytes, root); });
  }
  void all_reduce_sum(double* data, int64_t count) override {
    watch({.operation = "all_reduce_sum", .count = count, .dtype = "f64"},
          [&] { inner_->all_reduce_sum(data, count); });
  }
  void all_reduce_max(double* data, int64_t count) override {
    watch({.operation = "all_reduce_max", .count = count, .dtype = "f64"},
          [&] { inner_->all_reduce_max(data, count); });
  }
  std::unique_ptr<Pending> start_all_reduce_sum(float* data, int64_t count) override {
    return start({.operation = "all_reduce_sum", .count = count, .dtype = "f32"},
                 [&] { return inner_->start_all_reduce_sum(data, count); });
  }
  std::unique_ptr<Pending> start_reduce_scatter_sum(const ScatterSum& sum) override {
    const int64_t count = sum.slices.empty() ? 0 : sum.slices.back();
    return start({.operation = "reduce_scatter_sum", .count = count, .dtype = "f32"},
                 [&] { return inner_->start_reduce_scatter_sum(sum); });
  }
  std::unique_ptr<Pending> start_all_gather_slices(void* data, const Slices& bytes) override {
    const int64_t count = bytes.empty() ? 0 : bytes.back();
    return start({.operation = "all_gather_slices", .count = count, .dtype = "u8"},
                 [&] { return inner_->start_all_gather_slices(data, bytes); });
  }
  void gather_slices(const void* own, const Slices& bytes, void* whole, int root) override {
    const int64_t count = bytes.empty() ? 0 : bytes.back();
    watch(
        {.operation = fmt::format("gather_slices to rank {}", root), .count = count, .dtype = "u8"},
        [&] { inner_->gather_slices(own, bytes, whole, root); });
  }
  std::vector<char> all_gather(const void* data, int64_t bytes) override {
    std::vector<char> out;
    watch({.operation = "all_gather", .count = -1, .dtype = "u8"},
          [&] { out = inner_->all_gather(data, bytes); });
    return out;
  }
  void ordered_sum(const std::vector<const float*>& parts, const std::vector<int64_t>& part_ids,
                   int64_t count, float* out) override {
    watch({.operation = "ordered_sum", .count = count, .dtype = "f32"},
          [&] { inner_->ordered_sum(parts, part_ids, count, out); });
  }
  std::unique_ptr<NodeMemory> node_memory(int64_t bytes) override {
    std::unique_ptr<NodeMemory> out;
    watch({.operation = "node_memory", .count = -1, .dtype = "u8"},
          [&] { out = inner_->node_memory(bytes); });
    return out;
  }
  Collectives& node() override { return group(inner_->node(), node_.get()); }
  Collectives& cross() override { return group(inner_->cross(), cross_.get()); }

 protected:
  WatchedGroup(FlightRecord& record, std::string name) : record_(record), name_(std::move(name)) {}
  Collectives& group(Collectives& inner, WatchedGroup* watched) {
    if (watched != nullptr) return *watched;
    return &inner == inner_ ? *this : inner;  // else one rank alone, which waits for nobody
  }
  template <typename F>
  void watch(FlightCall call, F&& run) {
    call.group = name_;
    const int64_t ticket = record_.enqueue(std::move(call));
    record_.block(ticket);
    try {
      run();
    } catch (...) {
      record_.failed(ticket);
      throw;
    }
    record_.ended(ticket);
  }
  template <typename F>
  std::unique_ptr<Pending> start(FlightCall call, F&& run) {
    call.group = name_;
    const int64_t ticket = record_.enqueue(std::move(call));
    try {
      return std::make_unique<WatchedPending>(record_, ticket, run());
    } catch (...) {
      record_.failed(ticket);
      throw;
    }
  }

  FlightRecord& record_;
  Collectives* inner_ = nullptr;
  std::string name_;
  std::unique_ptr<WatchedGroup> node_, cross_;  // of the world
};

class WatchedWorld final : public WatchedGroup {
 public:
  WatchedWorld(Watchdog& watchdog, WorldOptions options)
      : WatchedGroup(watchdog.record(), "world"), shutdown_s_(options.setup_deadline_s) {
    options.setup_deadline_s += kBackstopS;
    options.arrived = [this](const std::string& name, int64_t number) {
      record_.started(group_name(name), number);
    };
    owned_ = make_world(options);
    inner_ = owned_.get();
    watchdog.set_rank(rank(), size());
    if (size() == 1) return;
    node_ = std::make_unique<WatchedGroup>(record_, inner_->node(), group_name("node"));
    cross_ = std::make_unique<WatchedGroup>(record_, inner_->cross(), group_name("cross"));
  }
  ~WatchedWorld() override {
    if (std::uncaught_exceptions() == exceptions_) record_.set_phase("shutdown", shutdown_s_);
  }
  WatchedWorld(const WatchedWorld&) = delete;
  WatchedWorld& operator=(const WatchedWorld&) = delete;

 private:
  /// Ranks with the same name are in the same group.
  std::string group_name(const std::string& name) const {
    if (name.empty()) return "world";
    return name == "node" ? "node " + record_.host() : fmt::format("cross {}", local_rank());
  }

  std::unique_ptr<Collectives> owned_;
  double shutdown_s_;
  int exceptions_ = std::uncaught_exceptions();
};

}  // namespace

std::unique_ptr<Collectives> make_watched_world(Watchdog& watchdog, WorldOptions options) {
  return std::make_unique<WatchedWorld>(watchdog, std::move(options));
}

}  // namespace euromodal
