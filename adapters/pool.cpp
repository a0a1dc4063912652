// pool.cpp — the height x width rows of every picture (or frame) averaged to `grid: [h, w]`, then
// the MLP: frames x h x w tokens. Class tokens are left out. Reference: mean over equal blocks, as
// torch.nn.functional.adaptive_avg_pool2d where the grid divides evenly (else DataError).
#include "adapters/projector.h"
#include "adapters/registry.h"
#include "core/error.h"

namespace euromodal {
namespace {

class Pool final : public Adapter {
 public:
  Pool(const Config& config, const AdapterShape& shape, const WeightScope& weights)
      : projector_(config, shape, shape.feature_width, weights) {
    const std::vector<double> grid = config.f64s("grid");
    const auto side = [](double value) {
      return value >= 1 && value <= 4096 && value == static_cast<double>(static_cast<int>(value));
    };
    check<ConfigError>(grid.size() == 2 && side(grid[0]) && side(grid[1]),
                       "{}: expected two whole numbers from 1 on, [height, width]",
                       config.where("grid"));
    height_ = static_cast<int64_t>(grid[0]);
    width_ = static_cast<int64_t>(grid[1]);
  }

  int64_t num_tokens(const RowLayout& layout) const override {
    check<DataError>(
        layout.height > 0 && layout.width > 0 && layout.height % height_ == 0 &&
            layout.width % width_ == 0,
        "pool: a grid of {} x {} feature rows does not divide evenly into {} x {}; choose a `grid` "
        "that divides both sides",
        layout.height, layout.width, height_, width_);
    return layout.frames * height_ * width_;
  }

  at::Tensor forward(const AdapterInput& input) const override {
    const at::Tensor checked_LE =
        checked_rows(input, projector_.feature_width(), projector_.dtype());
    std::vector<int64_t> rows_of_item, tokens_of_item;
    for (const RowLayout& item : input.items) {
      rows_of_item.push_back(item.rows() - item.prefix);
      tokens_of_item.push_back(num_tokens(item));
    }
    const at::Tensor x_LE = projector_.normalise(drop_prefix(checked_LE, input.items),
                                                 adapter_segments(input, rows_of_item));
    std::vector<at::Tensor> pooled;
    int64_t at = 0;
    for (size_t i = 0; i < input.items.size();) {  // neighbours of one size go together
      const RowLayout& item = input.items[i];
      int64_t frames = 0, rows = 0;
      for (; i < input.items.size() && input.items[i].height == item.height &&
             input.items[i].width == item.width;
           ++i) {
        frames += input.items[i].frames;
        rows += rows_of_item[i];
      }
      pooled.push_back(average(x_LE.slice(0, at, at + rows), frames, item));
      at += rows;
    }
    const at::Tensor x_RE = pooled.empty() ? x_LE : at::cat(pooled);
    return projector_.project(x_RE, adapter_segments(input, tokens_of_item));
  }

  const std::vector<NamedTensor>& parameters() const override { return projector_.parameters(); }

 private:
  /// Adds the rows of a block one after the other (fp32 for narrow types): elementwise sums have
  /// the same bits however many frames come together, a library's mean need not.
  at::Tensor average(const at::Tensor& x_LE, int64_t frames, const RowLayout& item) const {
    const int64_t high = item.height / height_, wide = item.width / width_;
    const int64_t e = x_LE.size(1);
    if (high == 1 && wide == 1) return x_LE;
    const auto sums = x_LE.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    const at::Tensor x_GYWXE = x_LE.view({frames * height_, high, width_, wide, e});
    at::Tensor sum_GWE;
    for (int64_t y = 0; y < high; ++y) {
      for (int64_t x = 0; x < wide; ++x) {
        const at::Tensor one_GWE = x_GYWXE.select(3, x).select(1, y).to(sums);
        sum_GWE = sum_GWE.defined() ? sum_GWE + one_GWE : one_GWE;
      }
    }
    return (sum_GWE / static_cast<double>(high * wide)).to(x_LE.scalar_type()).reshape({-1, e});
  }

  int64_t height_ = 0, width_ = 0;
  Projector projector_;
};

}  // namespace

std::unique_ptr<Adapter> make_pool(const Config& config, const AdapterShape& shape,
                                   const WeightScope& weights) {
  return std::make_unique<Pool>(config, shape, weights);
}

}  // namespace euromodal
