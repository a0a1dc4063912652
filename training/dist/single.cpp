// single.cpp — the world of one rank: every collective is the identity, ordered_sum adds locally.
#include "training/dist/collectives.h"
#include "training/dist/part_sum.h"

namespace euromodal {
namespace {

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
  void all_reduce_sum(float* /*data*/, int64_t /*count*/) override {}
  void all_reduce_sum(double* /*data*/, int64_t /*count*/) override {}
  void all_reduce_max(double* /*data*/, int64_t /*count*/) override {}
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
};

}  // namespace

std::unique_ptr<Collectives> make_single() { return std::make_unique<SingleWorld>(); }

}  // namespace euromodal
