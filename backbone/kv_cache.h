// kv_cache.h — keys and values of one sequence, all layers. L positions so far, K key/value heads,
// N head width.
#pragma once
#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace euromodal {

class KvCache {
 public:
  /// `options`: dtype and device of keys and values.
  KvCache(int64_t num_layers, int64_t num_kv_heads, int64_t head_dim,
          const at::TensorOptions& options);
  /// Appends k_TKN, v_TKN [T, K, N] to a layer and returns views of all L positions of that layer.
  /// Grows by doubling.
  std::pair<at::Tensor, at::Tensor> append(int64_t layer, const at::Tensor& k_TKN,
                                           const at::Tensor& v_TKN);
  /// All L positions of a layer, [L, K, N] each, as views.
  std::pair<at::Tensor, at::Tensor> layer(int64_t layer) const;
  int64_t length() const;  // positions that the last layer holds
  void truncate(int64_t length);
  KvCache clone() const;  // deep copy (beam search)

 private:
  struct Layer {
    at::Tensor k_LKN, v_LKN;
    int64_t length = 0;
  };
  std::vector<Layer> layers_;
};

}  // namespace euromodal
