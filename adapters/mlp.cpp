// mlp.cpp — one token per feature row: y = W2 gelu(W1 x + b1) + b2. Reference: HF
// LlavaMultiModalProjector (LLaVA-1.5). Class tokens are left out ("default" of
// vision_feature_select_strategy) unless `class_tokens: true` ("full").
#include "adapters/projector.h"
#include "adapters/registry.h"

namespace euromodal {
namespace {

class Mlp final : public Adapter {
 public:
  Mlp(const Config& config, const AdapterShape& shape, const WeightScope& weights)
      : class_tokens_(config.boolean("class_tokens", false)),
        projector_(config, shape, shape.feature_width, weights) {}

  int64_t num_tokens(const RowLayout& layout) const override {
    return class_tokens_ ? layout.rows() : layout.rows() - layout.prefix;
  }

  at::Tensor forward(const AdapterInput& input) const override {
    at::Tensor x_RE = checked_rows(input, projector_.feature_width(), projector_.dtype());
    if (!class_tokens_) x_RE = drop_prefix(x_RE, input.items);
    std::vector<int64_t> counts;
    for (const RowLayout& item : input.items) counts.push_back(num_tokens(item));
    const Segments rows = adapter_segments(input, counts);
    return projector_.project(projector_.normalise(x_RE, rows), rows);
  }

  const std::vector<NamedTensor>& parameters() const override { return projector_.parameters(); }

 private:
  bool class_tokens_;
  Projector projector_;
};

}  // namespace

std::unique_ptr<Adapter> make_mlp(const Config& config, const AdapterShape& shape,
                                  const WeightScope& weights) {
  return std::make_unique<Mlp>(config, shape, weights);
}

}  // namespace euromodal
