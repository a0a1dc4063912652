// kv_cache.cpp — see kv_cache.h. One buffer a layer, doubled when full, so that appending costs
// what is appended.
#include "backbone/kv_cache.h"

#include <ATen/ATen.h>

#include "core/error.h"

namespace euromodal {

KvCache::KvCache(int64_t num_layers, int64_t num_kv_heads, int64_t head_dim,
                 const at::TensorOptions& options)
    : layers_(static_cast<size_t>(num_layers)) {
  for (Layer& layer : layers_) {
    layer.k_LKN = at::empty({0, num_kv_heads, head_dim}, options.requires_grad(false));
    layer.v_LKN = at::empty({0, num_kv_heads, head_dim}, options.requires_grad(false));
  }
}

std::pair<at::Tensor, at::Tensor> KvCache::append(int64_t index, const at::Tensor& k_TKN,
                                                  const at::Tensor& v_TKN) {
  Layer& layer = layers_.at(static_cast<size_t>(index));
  const int64_t added = k_TKN.size(0), length = layer.length + added,
                capacity = layer.k_LKN.size(0);
  if (length > capacity) {
    const int64_t room = std::max({length, 2 * capacity, int64_t{64}});
    for (at::Tensor* buffer : {&layer.k_LKN, &layer.v_LKN}) {
      at::Tensor grown = at::empty({room, buffer->size(1), buffer->size(2)}, k_TKN.options());
      grown.narrow(0, 0, layer.length).copy_(buffer->narrow(0, 0, layer.length));
      *buffer = std::move(grown);
    }
  }
  layer.k_LKN.narrow(0, layer.length, added).copy_(k_TKN);
  layer.v_LKN.narrow(0, layer.length, added).copy_(v_TKN);
  layer.length = length;
  return this->layer(index);
}

std::pair<at::Tensor, at::Tensor> KvCache::layer(int64_t index) const {
  const Layer& layer = layers_.at(static_cast<size_t>(index));
  return {layer.k_LKN.narrow(0, 0, layer.length), layer.v_LKN.narrow(0, 0, layer.length)};
}

int64_t KvCache::length() const { return layers_.empty() ? 0 : layers_.back().length; }

void KvCache::truncate(int64_t length) {
  for (Layer& layer : layers_) {
    check(length >= 0 && length <= layer.length, "KvCache: cannot cut {} positions to {}",
          layer.length, length);
    layer.length = length;
  }
}

KvCache KvCache::clone() const {
  KvCache out = *this;
  for (Layer& layer : out.layers_) {
    layer.k_LKN = layer.k_LKN.clone();
    layer.v_LKN = layer.v_LKN.clone();
  }
  return out;
}

}  // namespace euromodal
