// packer.cpp — longest-processing-time dealing and greedy packing in order.
#include "training/data/packer.h"

#include <algorithm>
#include <numeric>

namespace euromodal {

std::vector<std::vector<int64_t>> deal(const std::vector<double>& rows, int64_t parts,
                                       double quadratic) {
  std::vector<double> cost(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) cost[i] = rows[i] + quadratic * rows[i] * rows[i];
  std::vector<int64_t> order(rows.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return cost[a] > cost[b]; });
  std::vector<std::vector<int64_t>> dealt(parts);
  std::vector<double> load(parts, 0.0);
  for (const int64_t position : order) {
    const auto least = std::min_element(load.begin(), load.end()) - load.begin();
    dealt[least].push_back(position);
    load[least] += cost[position];
  }
  for (auto& part : dealt) std::sort(part.begin(), part.end());
  return dealt;
}

std::vector<Batch> pack_part(std::vector<Example> examples, const PackOptions& options) {
  std::vector<Batch> batches;
  std::vector<Example> group;
  int64_t rows = 0;
  const auto close = [&] {
    if (!group.empty()) batches.push_back(collate(std::move(group), options.per_sample));
    group.clear();
    rows = 0;
  };
  for (Example& example : examples) {
    const auto more = static_cast<int64_t>(example.plan.ids.size());
    const bool full = options.max_tokens > 0 && rows + more > options.max_tokens;
    if (!options.pack || full) close();
    rows += more;
    group.push_back(std::move(example));
  }
  close();
  return batches;
}

}  // namespace euromodal
