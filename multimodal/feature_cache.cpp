// feature_cache.cpp — the FeatureCache of model.h: once it is full, what is in it stays (samples
// come back once an epoch, so nothing is gained by making room).
#include <ATen/ATen.h>

#include "multimodal/model.h"

namespace euromodal {

at::Tensor FeatureCache::find(Modality kind, const std::string& key) const {
  const std::scoped_lock lock(mutex_);
  const auto it = rows_.find({kind, key});
  return it == rows_.end() ? at::Tensor() : it->second;
}

void FeatureCache::insert(Modality kind, const std::string& key, const at::Tensor& rows_LE) {
  const auto size = static_cast<int64_t>(rows_LE.nbytes());
  const std::scoped_lock lock(mutex_);
  if (key.empty() || bytes_ > max_bytes_ - size) return;
  // A copy: the rows are a slice, and a slice keeps the whole batch alive.
  if (rows_.try_emplace({kind, key}, rows_LE.detach().clone()).second) bytes_ += size;
}

int64_t FeatureCache::bytes() const {
  const std::scoped_lock lock(mutex_);
  return bytes_;
}

}  // namespace euromodal
