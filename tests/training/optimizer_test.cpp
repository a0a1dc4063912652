// optimizer_test.cpp — AdamW and Muon over the flat buffer against torch (make_goldens.py), state
// in and out.
#include "training/optimizer.h"

#include <functional>
#include <map>

#include <ATen/ATen.h>

#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"
#include "training/muon.h"

namespace euromodal {
namespace {

std::map<std::string, at::Tensor> golden(const std::string& name) {
  const SafetensorsFile file(std::filesystem::path(EM_TEST_DIR) / "goldens" / name);
  std::map<std::string, at::Tensor> out;
  for (const TensorInfo& info : file.infos()) out[info.name] = file.tensor(info).clone();
  return out;
}

GroupOptions adamw_group() {
  GroupOptions group;
  group.lr = 3e-3;
  group.weight_decay = 0.1;
  group.patterns = {"*"};
  return group;
}

GroupOptions muon_group() {
  GroupOptions group;
  group.type = GroupOptions::Type::kMuon;
  group.lr = 0.02;
  group.weight_decay = 0.05;
  group.patterns = {"*"};
  return group;
}

/// The gradients of a whole step, as if summed over ranks.
void set_gradient(FlatBuffer& buffer,
                  const std::function<at::Tensor(const FlatSlot&)>& gradient_of) {
  for (FlatBucket& bucket : buffer.buckets()) {
    bucket.gradient = at::zeros({bucket.end - bucket.begin});
    for (const int64_t s : bucket.slots) {
      const FlatSlot& slot = buffer.slots()[static_cast<size_t>(s)];
      buffer.put({slot.name, s, bucket.gradient}, gradient_of(slot));
    }
  }
}

// Ten steps from the golden's start; `scale`: the gradients are stored divided by it.
void replay(const std::string& file, const std::vector<std::string>& names,
            const GroupOptions& group, bool one_by_one) {
  const auto tensors = golden(file);
  std::vector<NamedTensor> trainable;
  for (const std::string& name : names)
    trainable.push_back({name, tensors.at("start." + name).clone()});
  FlatBuffer buffer(trainable, std::vector<int64_t>(names.size(), 0), {group}, {}, {});
  Optimizer optimizer(buffer, {group}, one_by_one);
  const auto world = make_single();
  for (int t = 0; t < 10; ++t) {
    set_gradient(buffer, [&](const FlatSlot& slot) {
      return tensors.at(fmt::format("grad{}.{}", t, slot.name)) * 4.0;
    });
    optimizer.step({1.0}, 0.25, *world);
    for (const NamedTensor& p : trainable)
      ASSERT_TRUE(tensor_near(p.tensor, tensors.at(fmt::format("after{}.{}", t, p.name)),
                              {.abs = 2e-5, .rel = 2e-5}))
          << "step " << t << " " << p.name;
  }
}

TEST(OptimizerTest, AdamWMatchesTorchOverTenSteps) {
  replay("adamw.safetensors", {"w", "b", "c"}, adamw_group(), false);
}

TEST(OptimizerTest, MuonMatchesItsDescriptionOverTenSteps) {
  for (const bool one_by_one : {false, true})
    replay("muon.safetensors", {"wide", "tall", "tall2", "square"}, muon_group(), one_by_one);
}

TEST(OptimizerTest, OrthogonalisedMatricesHaveSingularValuesNearOne) {
  at::Tensor u_BRC = at::randn({3, 24, 10});
  orthogonalise_(u_BRC, 5, false);
  const at::Tensor gram_BCC = at::bmm(u_BRC.transpose(1, 2), u_BRC) / 2.4;  // scale² = R / C
  for (int64_t b = 0; b < 3; ++b) {
    const at::Tensor values = at::diagonal(gram_BCC[b]);
    EXPECT_GT(values.min().item<float>(), 0.3F);
    EXPECT_LT(values.max().item<float>(), 1.6F);
  }
}

TEST(OptimizerTest, StateGoesOutAndInBitForBit) {
  const auto run = [](bool interrupted) {
    const std::vector<GroupOptions> groups = {adamw_group(), muon_group()};
    std::vector<NamedTensor> trainable = {{"m", at::arange(12, at::kFloat).view({3, 4}).div(7)},
                                          {"v", at::arange(5, at::kFloat).div(3)}};
    const auto make = [&] {
      return std::make_unique<FlatBuffer>(trainable, std::vector<int64_t>{1, 0}, groups,
                                          std::vector<NamedTensor>{}, FlatOptions{});
    };
    auto buffer = make();
    auto optimizer = std::make_unique<Optimizer>(*buffer, groups, true);
    const auto world = make_single();
    for (int t = 0; t < 6; ++t) {
      if (interrupted && t == 3) {
        std::vector<NamedTensor> state, kept;
        for (const OwnedTensor& s : optimizer->state())
          state.push_back({s.name, buffer->gather(s, *world).clone()});
        for (const NamedTensor& p : trainable) kept.push_back({p.name, p.tensor.detach().clone()});
        trainable = kept;
        buffer = make();
        optimizer = std::make_unique<Optimizer>(*buffer, groups, true);
        optimizer->load_state(state, 3);
      }
      set_gradient(*buffer,
                   [&](const FlatSlot& slot) { return at::sin(slot.parameter.detach() + t); });
      optimizer->step({1.0 / (t + 1), 1.0 / (t + 1)}, 1.0, *world);
    }
    return at::cat({trainable[0].tensor.detach().view({-1}), trainable[1].tensor.detach()});
  };
  EXPECT_TRUE(tensor_equal(run(true), run(false)));
}

TEST(OptimizerTest, StateOfOtherTensorsIsRefused) {
  const std::vector<NamedTensor> trainable = {{"v", at::zeros({5})}};
  FlatBuffer buffer(trainable, {0}, {adamw_group()}, {}, {});
  Optimizer optimizer(buffer, {adamw_group()}, false);
  EXPECT_TRUE((throws_with<CheckpointError>(
      [&] {
        optimizer.load_state({{"v.exp_avg", at::zeros({5})}}, 1);
      },
      {"v.exp_avg_sq"})));
  EXPECT_TRUE((throws_with<CheckpointError>(
      [&] {
        optimizer.load_state({{"v.exp_avg", at::zeros({4})}, {"v.exp_avg_sq", at::zeros({5})}}, 1);
      },
      {"v.exp_avg", "[4]", "[5]"})));
  EXPECT_TRUE((throws_with<CheckpointError>(
      [&] {
        optimizer.load_state({{"v.exp_avg", at::zeros({5})},
                              {"v.exp_avg_sq", at::zeros({5})},
                              {"z.momentum", at::zeros({5})}},
                             1);
      },
      {"z.momentum"})));
}

}  // namespace
}  // namespace euromodal
