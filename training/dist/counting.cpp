// counting.cpp — see counting.h.
#include "training/dist/counting.h"

#include <algorithm>
#include <cstring>

#include "training/dist/part_sum.h"

namespace euromodal {
namespace {

class CountedDone final : public Pending {
 public:
  bool test() override { return true; }
  void wait() override {}
};

class CountingWorld final : public CountingCollectives {
 public:
  CountingWorld(int size, int rank) : size_(size), rank_(rank) {
    check<UsageError>(size >= 1 && rank >= 0 && rank < size, "rank {} of {} ranks", rank, size);
  }
  const Counts& counts() const override { return counts_; }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  int local_rank() const override { return 0; }
  int local_size() const override { return 1; }
  void set_phase(const std::string& phase, double deadline_s) override {
    check<DistError>(deadline_s > 0, "phase '{}': deadline {} s: expected more than 0", phase,
                     deadline_s);
    phase_ = phase;
  }
  void barrier() override { count("barrier", 0); }
  void broadcast(void* /*data*/, int64_t bytes, int root) override {
    count("broadcast", root == rank_ ? bytes : 0);
  }
  void all_reduce_sum(double* data, int64_t count) override {
    this->count("all_reduce_sum f64", count * 8);
    for (int64_t i = 0; i < count; ++i) data[i] *= size_;
  }
  void all_reduce_max(double* /*data*/, int64_t count) override {
    this->count("all_reduce_max f64", count * 8);
  }
  std::unique_ptr<Pending> start_all_reduce_sum(float* data, int64_t count) override {
    const Slices slices = even_slices(count, size_);
    const int64_t own = slices[rank_ + 1] - slices[rank_];
    this->count("all_reduce_sum", 4 * (count - own + own * (size_ - 1)));
    for (int64_t i = 0; i < count; ++i) data[i] *= static_cast<float>(size_);
    return std::make_unique<CountedDone>();
  }
  std::unique_ptr<Pending> start_reduce_scatter_sum(const ScatterSum& sum) override {
    const int ranks = sum.ranks < 0 ? size_ : sum.ranks;
    const int64_t begin = sum.slices.at(static_cast<size_t>(rank_)),
                  own = sum.slices.at(static_cast<size_t>(rank_) + 1) - begin;
    const bool gives = rank_ < ranks;
    count("reduce_scatter_sum", gives ? 4 * (sum.slices.back() - own) : 0);
    for (int64_t i = 0; i < own; ++i) {
      const float addend = gives ? sum.data[begin + i] * static_cast<float>(ranks) : 0.0F;
      sum.out[i] = sum.onto_out ? sum.out[i] + addend : addend;
    }
    return std::make_unique<CountedDone>();
  }
  std::unique_ptr<Pending> start_all_gather_slices(void* /*data*/, const Slices& bytes) override {
    count("all_gather_slices", own_bytes(bytes) * (size_ - 1));
    return std::make_unique<CountedDone>();
  }
  void gather_slices(const void* own, const Slices& bytes, void* whole, int root) override {
    count("gather_slices", root == rank_ ? 0 : own_bytes(bytes));
    if (root != rank_) return;
    std::memset(whole, 0, static_cast<size_t>(bytes.back()));
    if (own_bytes(bytes) > 0)
      std::memcpy(static_cast<char*>(whole) + bytes[static_cast<size_t>(rank_)], own,
                  static_cast<size_t>(own_bytes(bytes)));
  }
  std::vector<char> all_gather(const void* data, int64_t bytes) override {
    count("all_gather", bytes);
    std::vector<char> out;
    const auto* mine = static_cast<const char*>(data);
    for (int r = 0; r < size_; ++r) out.insert(out.end(), mine, mine + bytes);
    return out;
  }
  void ordered_sum(const std::vector<const float*>& parts, const std::vector<int64_t>& part_ids,
                   int64_t count, float* out) override {
    check<DistError>(parts.size() == part_ids.size(), "ordered_sum: {} parts but {} part numbers",
                     parts.size(), part_ids.size());
    this->count("ordered_sum", static_cast<int64_t>(parts.size()) * count * 4 * (size_ - 1));
    sum_parts(parts, count, out);
    for (int64_t i = 0; i < count; ++i) out[i] *= static_cast<float>(size_);
  }
  std::unique_ptr<NodeMemory> node_memory(int64_t bytes) override {
    return alone_->node_memory(bytes);
  }
  Collectives& node() override { return *alone_; }
  Collectives& cross() override { return *this; }

 private:
  void count(const std::string& operation, int64_t bytes) {
    CollectiveCount& entry = counts_[phase_][operation];
    ++entry.calls;
    entry.bytes += size_ > 1 ? bytes : 0;
  }
  int64_t own_bytes(const Slices& bytes) const {
    return bytes.at(static_cast<size_t>(rank_) + 1) - bytes.at(static_cast<size_t>(rank_));
  }

  int size_, rank_;
  std::string phase_ = "setup";
  Counts counts_;
  std::unique_ptr<Collectives> alone_ = make_single();
};

}  // namespace

std::unique_ptr<CountingCollectives> make_counting(int size, int rank) {
  return std::make_unique<CountingWorld>(size, rank);
}

}  // namespace euromodal
