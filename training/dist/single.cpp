// single.cpp — the world of one rank: every collective is the identity, ordered_sum adds locally.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include <sys/mman.h>

#include "training/dist/collectives.h"
#include "training/dist/page_memory.h"
#include "training/dist/part_sum.h"

namespace euromodal {
namespace {

class SingleDone final : public Pending {
 public:
  bool test() override { return true; }
  void wait() override {}
};

class SingleMemory final : public NodeMemory {
 public:
  explicit SingleMemory(int64_t bytes) : bytes_(bytes), whole_(whole_pages(bytes)) {
    data_ = ::mmap(nullptr, static_cast<size_t>(whole_), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check<DistError>(data_ != MAP_FAILED, "node_memory of {} bytes: {}", bytes,
                     std::strerror(errno));
  }
  ~SingleMemory() override { ::munmap(data_, static_cast<size_t>(whole_)); }
  SingleMemory(const SingleMemory&) = delete;
  SingleMemory& operator=(const SingleMemory&) = delete;
  char* data() override { return static_cast<char*>(data_); }
  int64_t bytes() const override { return bytes_; }
  void seal() override { seal_pages(data(), whole_); }

 private:
  int64_t bytes_, whole_;
  void* data_;
};

class SingleWorld final : public Collectives {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  int local_rank() const override { return 0; }
  int local_size() const override { return 1; }
  void set_phase(const std::string& phase, double deadline_s) override {
    check<DistError>(deadline_s > 0, "phase '{}': deadline {} s: expected more than 0", phase,
                     deadline_s);
  }
  void barrier() override {}
  void broadcast(void* /*data*/, int64_t /*bytes*/, int root) override {
    check<DistError>(root == 0, "broadcast: root {} in a world of 1 rank", root);
  }
  void all_reduce_sum(double* /*data*/, int64_t /*count*/) override {}
  void all_reduce_max(double* /*data*/, int64_t /*count*/) override {}
  std::unique_ptr<Pending> start_all_reduce_sum(float* /*data*/, int64_t /*count*/) override {
    return std::make_unique<SingleDone>();
  }
  std::unique_ptr<Pending> start_reduce_scatter_sum(const ScatterSum& sum) override {
    check<DistError>(sum.slices.size() == 2 && sum.slices[0] == 0 && sum.slices[1] >= 0,
                     "reduce_scatter_sum: {} offsets of slices for 1 rank: expected 0 and a count",
                     sum.slices.size());
    std::vector<const float*> addends;
    if (sum.onto_out) addends.push_back(sum.out);
    if (sum.ranks != 0) addends.push_back(sum.data);
    sum_parts(addends, sum.slices[1], sum.out);
    return std::make_unique<SingleDone>();
  }
  void gather_slices(const void* own, const Slices& bytes, void* whole, int root) override {
    check<DistError>(root == 0 && bytes.size() == 2,
                     "gather_slices: root {}, {} offsets of slices in a world of 1 rank", root,
                     bytes.size());
    if (bytes[1] > 0) std::memmove(whole, own, static_cast<size_t>(bytes[1]));
  }
  std::unique_ptr<Pending> start_all_gather_slices(void* /*data*/,
                                                   const Slices& /*bytes*/) override {
    return std::make_unique<SingleDone>();
  }
  std::vector<char> all_gather(const void* data, int64_t bytes) override {
    const auto* from = static_cast<const char*>(data);
    return {from, from + bytes};
  }
  void ordered_sum(const std::vector<const float*>& parts, const std::vector<int64_t>& part_ids,
                   int64_t count, float* out) override {
    check<DistError>(parts.size() == part_ids.size(), "ordered_sum: {} parts but {} part numbers",
                     parts.size(), part_ids.size());
    std::vector<const float*> ordered;
    for (const int64_t slot : part_slots(part_ids)) ordered.push_back(parts[slot]);
    sum_parts(ordered, count, out);
  }
  std::unique_ptr<NodeMemory> node_memory(int64_t bytes) override {
    return std::make_unique<SingleMemory>(bytes);
  }
  Collectives& node() override { return *this; }
  Collectives& cross() override { return *this; }
};

}  // namespace

Slices even_slices(int64_t count, int ranks) {
  Slices slices(static_cast<size_t>(ranks) + 1);
  for (int r = 0; r <= ranks; ++r)
    slices[r] = count / ranks * r + std::min<int64_t>(r, count % ranks);
  return slices;
}

std::unique_ptr<Collectives> make_single() { return std::make_unique<SingleWorld>(); }

}  // namespace euromodal
