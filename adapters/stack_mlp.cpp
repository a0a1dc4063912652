// stack_mlp.cpp — `stack` neighbouring rows of sound as one, then the MLP: ceil(L / stack) tokens
// of L rows; the last group is filled up with zeros. Reference: HF VoxtralMultiModalProjector
// (stack 4, no bias), GlmAsr (stack 4 with bias).
#include "adapters/projector.h"
#include "adapters/registry.h"
#include "core/error.h"

namespace euromodal {
namespace {

int64_t stack_size(const Config& config) {
  const int64_t stack = config.i64("stack");
  check<ConfigError>(stack > 0 && stack <= 1024, "{}: {} is out of range; expected 1 to 1024",
                     config.where("stack"), stack);
  return stack;
}

class StackMlp final : public Adapter {
 public:
  StackMlp(const Config& config, const AdapterShape& shape, const WeightScope& weights)
      : stack_(stack_size(config)),
        projector_(config, shape, shape.feature_width * stack_, weights) {}

  int64_t num_tokens(const RowLayout& layout) const override {
    return (layout.rows() - layout.prefix + stack_ - 1) / stack_;
  }

  at::Tensor forward(const AdapterInput& input) const override {
    const at::Tensor checked_LE =
        checked_rows(input, projector_.feature_width(), projector_.dtype());
    std::vector<int64_t> rows_of_item, tokens_of_item;
    bool even = true;
    for (const RowLayout& item : input.items) {
      rows_of_item.push_back(item.rows() - item.prefix);
      tokens_of_item.push_back(num_tokens(item));
      even &= rows_of_item.back() % stack_ == 0;
    }
    at::Tensor x_LE = projector_.normalise(drop_prefix(checked_LE, input.items),
                                           adapter_segments(input, rows_of_item));
    if (!even) x_LE = fill_up(x_LE, rows_of_item);
    const at::Tensor x_RI = x_LE.reshape({-1, projector_.feature_width() * stack_});
    return projector_.project(x_RI, adapter_segments(input, tokens_of_item));
  }

  const std::vector<NamedTensor>& parameters() const override { return projector_.parameters(); }

 private:
  /// Zero rows behind every item whose rows are no multiple of the stack.
  at::Tensor fill_up(const at::Tensor& x_LE, const std::vector<int64_t>& rows_of_item) const {
    const at::Tensor zeros_KE = at::zeros({stack_, x_LE.size(1)}, x_LE.options());
    std::vector<at::Tensor> pieces;
    int64_t at = 0;
    for (const int64_t rows : rows_of_item) {
      pieces.push_back(x_LE.slice(0, at, at + rows));
      if (const int64_t rest = rows % stack_) pieces.push_back(zeros_KE.slice(0, rest));
      at += rows;
    }
    return at::cat(pieces);
  }

  int64_t stack_;
  Projector projector_;
};

}  // namespace

std::unique_ptr<Adapter> make_stack_mlp(const Config& config, const AdapterShape& shape,
                                        const WeightScope& weights) {
  return std::make_unique<StackMlp>(config, shape, weights);
}

}  // namespace euromodal
