// checkpointing_test.cpp — activation checkpointing of the backbone: the same bits in every mode
// whatever trains, and the bytes that each mode keeps for the backward pass.
#include "backbone/nn/checkpointing.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "backbone/llama.h"
#include "backbone/nn/block_stack.h"
#include "core/rng.h"
#include "tests/support/gradcheck.h"
#include "tests/support/memory_count.h"
#include "tests/support/small_llama.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

using testing_support::MemoryCount;
using Kind = Checkpointing::Kind;

constexpr int64_t kD = 16, kF = 40, kH = 4, kK = 2, kN = 4, kLayers = 3;

TextModel checkpointing_model() {
  return testing_support::small_llama({11, kD, kF, kLayers, kH, kK, kN, 64});
}

/// Output, then the gradient of the input (where it has one), then of every parameter.
std::vector<at::Tensor> checkpointing_step(const TextModel& model, Checkpointing mode,
                                           const Segments& rows, bool input_trains) {
  model.llama->set_checkpointing(mode);
  for (const NamedTensor& p : model.parameters) p.tensor.mutable_grad() = at::Tensor();
  const at::Tensor emb_TD = randn({rows.rows(), kD}, 5).requires_grad_(input_trains);
  const at::Tensor h_TD = model.llama->forward(emb_TD, rows);
  h_TD.backward(randn(h_TD.sizes(), 6));
  std::vector<at::Tensor> out{h_TD, emb_TD.grad()};
  for (const NamedTensor& p : model.parameters) out.push_back(p.tensor.grad());
  return out;
}

constexpr Checkpointing kModes[] = {{Kind::kMlp, 1},
                                    {Kind::kLayers, 1},
                                    {Kind::kLayers, 2},
                                    {Kind::kLayers, 3},
                                    {Kind::kLayers, 9}};

TEST(CheckpointingTest, EveryModeGivesTheSameBitsWhateverTrains) {
  at::set_num_threads(1);
  const TextModel model = checkpointing_model();
  struct Case {
    const char* trains;  // part of a parameter's name
    bool input;
    int64_t gradients;  // parameters that must get one
  };
  const int64_t all = 9 * kLayers + 1;
  for (const Case& c : {Case{"nothing", true, 0},
                        {"model.layers.", true, all - 1},
                        {"model.", true, all},
                        {"mlp.down_proj", true, kLayers},
                        // an input without gradient, and parameters with one
                        {"model.layers.", false, all - 1},
                        {"layers.2.", false, 9},
                        {"layers.1.mlp.down_proj", false, 1},
                        {"layers.0.post_attention_layernorm", false, 1}}) {
    for (const NamedTensor& p : model.parameters)
      p.tensor.requires_grad_(p.name.find(c.trains) != std::string::npos &&
                              p.name.find("embed") == std::string::npos);
    for (const bool per_sample : {false, true}) {
      const Segments rows = Segments::from_lengths({3, 5, 4}, per_sample);
      const auto want = checkpointing_step(model, {}, rows, c.input);
      int64_t gradients = 0;
      for (size_t i = 2; i < want.size(); ++i) gradients += want[i].defined() ? 1 : 0;
      ASSERT_EQ(gradients, c.gradients) << c.trains;
      for (const Checkpointing& mode : kModes) {
        const auto got = checkpointing_step(model, mode, rows, c.input);
        for (size_t i = 0; i < want.size(); ++i) {
          ASSERT_EQ(got[i].defined(), want[i].defined()) << c.trains << " " << i;
          if (!want[i].defined()) continue;
          EXPECT_TRUE(same_bits(got[i], want[i])) << c.trains << " every " << mode.every;
        }
      }
    }
  }
}

/// Residual blocks with dropout that is a function of (seed, block) and nothing else.
class DropoutPass final : public StackPass {
 public:
  explicit DropoutPass(uint64_t seed) : seed_(seed) {
    for (uint64_t i = 0; i < kLayers; ++i)
      weights.push_back(randn({kD, kD}, 20 + i).mul_(0.2).requires_grad_(true));
  }
  at::Tensor attend(int64_t block, const at::Tensor& x_TD) const override {
    return x_TD + drop(block, at::tanh(x_TD));
  }
  at::Tensor inner(int64_t block, const at::Tensor& mid_TD) const override {
    return drop(kLayers + block, at::tanh(mid_TD));
  }
  at::Tensor outer(int64_t block, const at::Tensor& mid_TD,
                   const at::Tensor& inner_TF) const override {
    return mid_TD + at::mm(inner_TF, weights[static_cast<size_t>(block)]);
  }
  bool trains(int64_t) const override { return true; }
  bool outer_trains(int64_t) const override { return true; }
  std::vector<at::Tensor> weights;

 private:
  at::Tensor drop(int64_t key, const at::Tensor& x) const {
    Rng rng = Rng(seed_).fork("dropout", static_cast<uint64_t>(key));
    const at::Tensor mask = at::empty_like(x);
    float* m = mask.mutable_data_ptr<float>();
    for (int64_t i = 0; i < mask.numel(); ++i) m[i] = rng.below(4) == 0 ? 0.0F : 4.0F / 3.0F;
    return x * mask;
  }
  uint64_t seed_;
};

TEST(CheckpointingTest, SeededDropoutIsDrawnAgain) {
  const auto step = [](uint64_t seed, Checkpointing mode) {
    const auto pass = std::make_shared<DropoutPass>(seed);
    const at::Tensor x_TD = randn({5, kD}, 1).requires_grad_(true);
    run_stack({pass, {0, kLayers}, mode, nullptr}, x_TD).backward(randn({5, kD}, 2));
    std::vector<at::Tensor> out{x_TD.grad()};
    for (const at::Tensor& w : pass->weights) out.push_back(w.grad());
    return out;
  };
  const auto want = step(7, {});
  EXPECT_FALSE(same_bits(step(8, {})[0], want[0]));
  for (const Checkpointing& mode : kModes) {
    const auto got = step(7, mode);
    for (size_t i = 0; i < want.size(); ++i) EXPECT_TRUE(same_bits(got[i], want[i]));
  }
}

/// Bytes of tensors that are alive between forward and backward, and the most in the whole step.
struct CheckpointingBytes {
  int64_t kept, peak;
};

CheckpointingBytes checkpointing_bytes(const TextModel& model, Checkpointing mode, int64_t T) {
  const at::Tensor emb_TD = randn({T, kD}, 5).requires_grad_(true), dy_TD = randn({T, kD}, 6);
  const Segments rows = Segments::one(T);
  model.llama->set_checkpointing(mode);
  model.llama->forward(emb_TD, rows);  // the RoPE table grows outside of what is counted
  const MemoryCount count;
  const at::Tensor h_TD = model.llama->forward(emb_TD, rows);
  const int64_t kept = count.live();
  h_TD.backward(dy_TD);
  return {kept, count.peak()};
}

TEST(CheckpointingTest, KeepsWhatItSaysOfAFrozenBackbone) {
  at::set_num_threads(1);
  const TextModel model = checkpointing_model();
  constexpr int64_t T = 48, kFloat = 4;
  const auto none = checkpointing_bytes(model, {}, T),
             mlp = checkpointing_bytes(model, kModes[0], T),
             layer = checkpointing_bytes(model, kModes[1], T),
             pairs = checkpointing_bytes(model, kModes[2], T);
  // Of a frozen block: input, q, k, v, attention's output and its log-sums, the middle, gate and
  // up, and two numbers a row of each norm. No input of a linear layer.
  const int64_t stats = 2 * T * kFloat, input = T * kD * kFloat;
  const int64_t mix = (2 * kH * kN + 2 * kK * kN + kH) * T * kFloat;
  EXPECT_EQ(none.kept - mlp.kept, kLayers * (2 * T * kF * kFloat + stats));
  EXPECT_EQ(mlp.kept - layer.kept, kLayers * (mix + input + stats));
  EXPECT_EQ(layer.kept - pairs.kept, input);  // the input of the second of three blocks
  // Besides: the outputs of the blocks, the final norm's with its numbers, positions (i64).
  EXPECT_EQ(layer.kept, (kLayers + 1) * input + stats + T * 8);
  EXPECT_LT(mlp.peak, none.peak);
  EXPECT_LT(layer.peak, mlp.peak);
}

TEST(CheckpointingTest, YamlIsStrict) {
  const auto parse = [](const std::string& yaml) {
    return Checkpointing::parse(Config::parse(yaml));
  };
  EXPECT_EQ(parse("other: 1").kind, Kind::kNone);
  EXPECT_EQ(parse("checkpointing: none").kind, Kind::kNone);
  EXPECT_EQ(parse("checkpointing: mlp").kind, Kind::kMlp);
  EXPECT_EQ(parse("checkpointing: layer").every, 1);
  EXPECT_EQ(parse("checkpointing: every 4").kind, Kind::kLayers);
  EXPECT_EQ(parse("checkpointing: every 4").every, 4);
  for (const char* wrong : {"all", "every", "every 0", "every -1", "every 2 layers", "4"})
    EXPECT_THROW(parse(fmt::format("checkpointing: {}", wrong)), ConfigError) << wrong;
}

}  // namespace
}  // namespace euromodal
