// block_hooks_test.cpp — block hooks of the backbone: who is called when, in both directions; and
// weights that are there between the calls only give the same bits.
#include "backbone/nn/block_hooks.h"

#include <array>

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/small_llama.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

using testing_support::tensor_equal;

struct HooksModel {
  TextModel text = testing_support::small_llama({11, 8, 12, 3, 4, 2, 2, 64});
  std::vector<NamedTensor> block(int64_t i) const {
    std::vector<NamedTensor> out;
    for (const NamedTensor& p : text.parameters)
      if (p.name.starts_with(fmt::format("model.layers.{}.", i))) out.push_back(p);
    return out;
  }
  void train(const std::string& part) const {
    for (const NamedTensor& p : text.parameters)
      p.tensor.requires_grad_(p.name.find(part) != std::string::npos);
  }
};

const Segments kHooksRows = Segments::from_lengths({3, 4});

/// Writes down what it is told: "+f0" before the forward pass of block 0, "-b2" after the backward
/// pass of block 2.
struct HooksRecorder final : BlockHooks {
  std::string log;
  void note(const char* what, int64_t block) { log += fmt::format("{}{} ", what, block); }
  void before_forward(int64_t block) override { note("+f", block); }
  void after_forward(int64_t block) override { note("-f", block); }
  void before_backward(int64_t block) override { note("+b", block); }
  void after_backward(int64_t block) override { note("-b", block); }
};

std::string hooks_of_a_step(const HooksModel& model, bool input_trains) {
  const auto recorder = std::make_shared<HooksRecorder>();
  model.text.llama->set_block_hooks(recorder);
  const at::Tensor emb_TD = randn({7, 8}, 5, at::kFloat).requires_grad_(input_trains);
  const at::Tensor h_TD = model.text.llama->forward(emb_TD, kHooksRows);
  recorder->log += "| ";
  if (h_TD.requires_grad()) h_TD.sum().backward();
  return recorder->log;
}

constexpr const char* kHooksForward = "+f0 -f0 +f1 -f1 +f2 -f2 | ";

TEST(BlockHooksTest, BackwardComesDownThroughEveryBlockWithAGraph) {
  const HooksModel model;
  const std::string forward = kHooksForward;
  EXPECT_EQ(hooks_of_a_step(model, true), forward + "+b2 -b2 +b1 -b1 +b0 -b0 ");
  EXPECT_EQ(hooks_of_a_step(model, false), forward);
  // Nothing below the lowest block that trains; the end of the pass closes that block.
  model.train("layers.1.self_attn.o_proj");
  EXPECT_EQ(hooks_of_a_step(model, false), forward + "+b2 -b2 +b1 -b1 ");
  model.train("layers.2.input_layernorm");
  EXPECT_EQ(hooks_of_a_step(model, false), forward + "+b2 -b2 ");
  model.train("model.norm");
  EXPECT_EQ(hooks_of_a_step(model, false), forward);
}

TEST(BlockHooksTest, BlocksThatAreComputedAgainAreAnnounced) {
  const HooksModel model;
  const std::string forward = kHooksForward;
  for (const auto kind : {Checkpointing::Kind::kMlp, Checkpointing::Kind::kLayers}) {
    model.text.llama->set_checkpointing(
        {kind, 1});  // in both the block in question is open already
    EXPECT_EQ(hooks_of_a_step(model, true), forward + "+b2 -b2 +b1 -b1 +b0 -b0 ");
  }
  model.text.llama->set_checkpointing({Checkpointing::Kind::kLayers, 2});
  EXPECT_EQ(hooks_of_a_step(model, true), forward + "+b2 -b2 +b1 +f0 -f0 -b1 +b0 -b0 ");
  model.text.llama->set_checkpointing({Checkpointing::Kind::kLayers, 3});
  EXPECT_EQ(hooks_of_a_step(model, true), forward + "+b2 +f0 -f0 +f1 -f1 -b2 +b1 -b1 +b0 -b0 ");
}

TEST(BlockHooksTest, CachedPassesCallThemToo) {
  const HooksModel model;
  const auto recorder = std::make_shared<HooksRecorder>();
  model.text.llama->set_block_hooks(recorder);
  KvCache cache = model.text.llama->make_cache();
  model.text.llama->forward_cached(randn({2, 8}, 5, at::kFloat), cache);
  EXPECT_EQ(recorder->log + "| ", kHooksForward);
  model.text.llama->set_block_hooks(nullptr);
  model.text.llama->forward_cached(randn({1, 8}, 6, at::kFloat), cache);
  EXPECT_EQ(recorder->log + "| ", kHooksForward);
}

/// The weights of a block exist between the calls only; outside they are empty.
class HooksShard final : public BlockHooks {
 public:
  explicit HooksShard(const HooksModel& model) {
    for (int64_t i = 0; i < 3; ++i) {
      for (const NamedTensor& p : model.block(i))
        kept_[static_cast<size_t>(i)].push_back({p.tensor, p.tensor.detach().clone()});
      drop(i);
    }
  }
  void before_forward(int64_t block) override { fill(block); }
  void after_forward(int64_t block) override { drop(block); }
  void before_backward(int64_t block) override { fill(block); }
  void after_backward(int64_t block) override { drop(block); }

 private:
  void fill(int64_t block) {
    for (auto& [tensor, values] : kept_.at(static_cast<size_t>(block)))
      tensor.set_data(values.clone());
  }
  void drop(int64_t block) {
    for (auto& [tensor, values] : kept_.at(static_cast<size_t>(block)))
      tensor.set_data(at::empty({0}, values.options()));
  }
  std::array<std::vector<std::pair<at::Tensor, at::Tensor>>, 3> kept_;
};

TEST(BlockHooksTest, WeightsThatAreThereBetweenTheCallsOnlyGiveTheSameBits) {
  const HooksModel model;
  const at::Tensor want_TD = randn({7, 8}, 5, at::kFloat).requires_grad_(true),
                   dy_TD = randn({7, 8}, 6, at::kFloat);
  const at::Tensor want_h_TD = model.text.llama->forward(want_TD, kHooksRows);
  want_h_TD.backward(dy_TD);
  model.text.llama->set_block_hooks(std::make_shared<HooksShard>(model));
  using Kind = Checkpointing::Kind;
  for (const Checkpointing mode : {Checkpointing{Kind::kNone, 1},
                                   {Kind::kMlp, 1},
                                   {Kind::kLayers, 1},
                                   {Kind::kLayers, 2},
                                   {Kind::kLayers, 3}}) {
    model.text.llama->set_checkpointing(mode);
    const at::Tensor got_TD = want_TD.detach().clone().requires_grad_(true);
    const at::Tensor got_h_TD = model.text.llama->forward(got_TD, kHooksRows);
    EXPECT_EQ(model.block(1).front().tensor.numel(), 0);
    got_h_TD.backward(dy_TD);
    EXPECT_EQ(model.block(1).front().tensor.numel(), 0);
    EXPECT_TRUE(tensor_equal(got_h_TD, want_h_TD));
    EXPECT_TRUE(tensor_equal(got_TD.grad(), want_TD.grad()));
  }
}

}  // namespace
}  // namespace euromodal
