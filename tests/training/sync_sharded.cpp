// sync_sharded.cpp — see sync_sharded.h.
#include "tests/training/sync_sharded.h"

#include <memory>
#include <vector>

#include <ATen/ATen.h>

#include "backbone/float8_model.h"
#include "tests/support/small_llama.h"
#include "tests/training/host_device_collectives.h"
#include "training/sharded_blocks.h"

namespace euromodal {

namespace {

/// Values of a pass through `text` and gradients of its input and of what trains.
std::vector<at::Tensor> sync_block_pass(const TextModel& text, int64_t rows, uint64_t seed) {
  const at::Tensor emb_TD =
      testing_support::randn({rows, text.config.hidden_size}, seed, at::kFloat)
          .requires_grad_(true);
  const at::Tensor h_TD = text.llama->forward(emb_TD, Segments::one(rows));
  h_TD.square().sum().backward();
  std::vector<at::Tensor> out = {h_TD.detach(), emb_TD.grad()};
  for (const NamedTensor& p : text.parameters) {
    if (!p.tensor.grad().defined()) continue;
    out.push_back(p.tensor.grad().clone());
    p.tensor.mutable_grad().reset();
  }
  return out;
}

}  // namespace

void sync_sharded(Collectives& world) {
  world.set_phase("sharded", 60.0);
  constexpr int64_t kBlocks = 5;
  using Kind = Checkpointing::Kind;
  for (const auto& [lazy, float8] : {std::pair{false, false}, {true, false}, {false, true}}) {
    for (const Checkpointing mode : {Checkpointing{Kind::kNone, 1},
                                     {Kind::kMlp, 1},
                                     {Kind::kLayers, 1},
                                     {Kind::kLayers, 2},
                                     {Kind::kLayers, 5}}) {
      TextModel text = testing_support::small_llama({11, 24, 36, kBlocks, 3, 1, 8, 64});
      if (float8) round_blocks_to_float8(text);
      text.llama->set_checkpointing(mode);
      std::vector<NamedTensor> parameters, trainable;
      for (const NamedTensor& p : text.parameters) {
        parameters.push_back({"backbone." + p.name, p.tensor});
        const bool trains = p.name.find(float8 ? "layers.3.input_layernorm"
                                               : "layers.3.self_attn.k_proj") != std::string::npos;
        p.tensor.requires_grad_(trains);
        if (trains) trainable.push_back(parameters.back());
      }
      const int64_t passes = 1 + world.rank();
      std::vector<at::Tensor> expected;
      for (int64_t i = 0; i < passes; ++i)
        for (const at::Tensor& t : sync_block_pass(text, 3 + i, static_cast<uint64_t>(i)))
          expected.push_back(t);
      const auto blocks = frozen_blocks(parameters, trainable, kBlocks);
      int64_t whole = 0;
      std::vector<at::Tensor> before;
      for (const auto& block : blocks) {
        for (const NamedTensor& p : block) {
          whole += static_cast<int64_t>(p.tensor.nbytes());
          before.push_back(p.tensor.clone());
        }
      }
      const auto sharded = std::make_shared<ShardedBlocks>(
          blocks, world.node().rank(), world.node().size(), at::kCPU, [&](int64_t bytes) {
            return std::make_unique<HostPeerSlices>(world.node(), bytes, lazy);
          });
      text.llama->set_block_hooks(sharded);
      check(blocks[2].front().tensor.numel() == 0, "a block is whole without being used");
      double held = static_cast<double>(sharded->own_bytes());
      world.all_reduce_sum(&held, 1);
      const auto padded = static_cast<double>(whole + 256 * static_cast<int64_t>(before.size()));
      check(held >= static_cast<double>(whole) && held <= padded, "the ranks hold {} bytes of {}",
            held, whole);
      check(world.size() == 1 || static_cast<double>(sharded->own_bytes()) < 0.7 * held,
            "one rank holds {} bytes of {}", sharded->own_bytes(), held);
      std::vector<at::Tensor> got;
      for (int64_t i = 0; i < passes; ++i)
        for (const at::Tensor& t : sync_block_pass(text, 3 + i, static_cast<uint64_t>(i)))
          got.push_back(t);
      check(got.size() == expected.size(), "{} tensors", got.size());
      for (size_t i = 0; i < got.size(); ++i)
        check(sync_same_bits(got[i].contiguous(), expected[i].contiguous()),
              "sharded blocks: tensor {} differs", i);
      // Late are the first of all, the first of a pass behind one that ended at the bottom with
      // another block at hand, and where recomputation jumps down.
      const int64_t jumps = mode.kind == Kind::kLayers && mode.every > 1 ? 4 : 1;
      check(sharded->late() <= passes * jumps && sharded->uses() >= 2 * passes * kBlocks,
            "{} of {} blocks were late", sharded->late(), sharded->uses());
      text.llama->set_block_hooks(nullptr);
      sharded->give_back();
      size_t at = 0;
      for (const auto& block : blocks)
        for (const NamedTensor& p : block)
          check(sync_same_bits(p.tensor, before[at++]), "{} came back changed", p.name);
    }
  }
}

}  // namespace euromodal
