// mix.cpp — several data sets behind one index: all whole repeats of the first, its fraction, then
// the second, and so on. The sampler's permutation mixes them.
#include <algorithm>
#include <cmath>

#include "core/files.h"
#include "core/rng.h"
#include "training/data/dataset.h"

namespace euromodal {
namespace {

class MixDataset final : public Dataset {
 public:
  explicit MixDataset(std::vector<DatasetPart> parts) : parts_(std::move(parts)) {
    for (const DatasetPart& part : parts_) {
      check<DataError>(part.repeat > 0.0 && part.repeat <= 1e6, "{}: repeat {}: expected above 0",
                       part.data->name(), part.repeat);
      const double samples = std::round(part.repeat * static_cast<double>(part.data->size()));
      check<DataError>(samples < 9e15, "{}: repeated {} times: too many samples", part.data->name(),
                       part.repeat);
      ends_.push_back((ends_.empty() ? 0 : ends_.back()) + static_cast<int64_t>(samples));
    }
    check<DataError>(!ends_.empty() && ends_.back() > 0, "mixture of data sets: no samples");
  }

  int64_t size() const override { return ends_.back(); }
  std::string name() const override {
    std::string names;
    for (const DatasetPart& part : parts_)
      names += (names.empty() ? "" : " + ") +
               (part.repeat == 1.0 ? part.data->name()
                                   : fmt::format("{} x {}", part.repeat, part.data->name()));
    return names;
  }
  std::string fingerprint() const override {
    std::string text;
    for (const DatasetPart& part : parts_)
      text += fmt::format("{} x {};", part.repeat, part.data->fingerprint());
    return hash_hex(text);
  }
  double cost(int64_t index) const override {
    const auto [part, inner] = find(index);
    return parts_[part].data->cost(inner);
  }
  Sample get(int64_t index) const override {
    check<DataError>(index >= 0 && index < size(), "{}: sample {} of {}", name(), index, size());
    const auto [part, inner] = find(index);
    Sample sample = parts_[part].data->get(inner);
    sample.index = index;
    return sample;
  }

 private:
  std::pair<size_t, int64_t> find(int64_t index) const {
    const size_t part = std::upper_bound(ends_.begin(), ends_.end(), index) - ends_.begin();
    const int64_t inner = index - (part == 0 ? 0 : ends_[part - 1]);
    const int64_t samples = parts_[part].data->size();
    const int64_t total = ends_[part] - (part == 0 ? 0 : ends_[part - 1]);
    if (inner < total / samples * samples) return {part, inner % samples};
    // The fraction: the first entries of a fixed permutation, so that they are spread.
    return {part, permuted(inner % samples, samples, Rng(0).fork("fraction", part).key())};
  }

  std::vector<DatasetPart> parts_;
  std::vector<int64_t> ends_;
};

}  // namespace

std::vector<double> repeats_of_weights(const std::vector<int64_t>& sizes,
                                       const std::vector<double>& weights) {
  double epoch = 0.0;  // samples, in units of the weights
  for (size_t i = 0; i < sizes.size(); ++i)
    epoch = std::max(epoch, static_cast<double>(sizes[i]) / weights[i]);
  std::vector<double> repeats;
  for (size_t i = 0; i < sizes.size(); ++i)  // whole samples, and at least one
    repeats.push_back(std::max(std::round(weights[i] * epoch), 1.0) /
                      static_cast<double>(sizes[i]));
  return repeats;
}

std::unique_ptr<Dataset> mix(std::vector<DatasetPart> parts) {
  if (parts.size() == 1 && parts[0].repeat == 1.0) return std::move(parts[0].data);
  return std::make_unique<MixDataset>(std::move(parts));
}

}  // namespace euromodal
