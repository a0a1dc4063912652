// optimizer_test.cpp — AdamW and Muon over the flat buffer against torch (make_goldens.py), the
// norm, state in and out, bf16 parameters with fp32 master values, aliases.
#include "training/optimizer.h"

#include <cmath>
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

// Ten steps from the golden's start; `scale`: the gradients are stored divided by it.
void replay(const std::string& file, const std::vector<std::string>& names,
            const GroupOptions& group, bool one_by_one) {
  const auto tensors = golden(file);
  std::vector<NamedTensor> trainable;
  for (const std::string& name : names)
    trainable.push_back({name, tensors.at("start." + name).clone()});
  FlatBuffer buffer(trainable, std::vector<int64_t>(names.size(), 0), {}, 0);
  Optimizer optimizer(buffer, {group}, one_by_one);
  const auto world = make_single();
  for (int t = 0; t < 10; ++t) {
    buffer.zero_gradient();
    for (const NamedTensor& p : trainable)
      p.tensor.grad().copy_(tensors.at(fmt::format("grad{}.{}", t, p.name)) * 4.0);
    optimizer.step(std::vector<double>(optimizer.groups().size(), 1.0), 0.25, *world);
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
    std::vector<NamedTensor> trainable = {{"m", at::arange(12, at::kFloat).view({3, 4}).div(7)},
                                          {"v", at::arange(5, at::kFloat).div(3)}};
    auto buffer = std::make_unique<FlatBuffer>(trainable, std::vector<int64_t>{1, 0},
                                               std::vector<NamedTensor>{}, 0);
    auto optimizer =
        std::make_unique<Optimizer>(*buffer, std::vector{adamw_group(), muon_group()}, true);
    const auto world = make_single();
    for (int t = 0; t < 6; ++t) {
      if (interrupted && t == 3) {
        std::vector<NamedTensor> state, kept;
        for (const NamedTensor& s : optimizer->state()) state.push_back({s.name, s.tensor.clone()});
        for (const NamedTensor& p : trainable) kept.push_back({p.name, p.tensor.detach().clone()});
        trainable = kept;
        buffer = std::make_unique<FlatBuffer>(trainable, std::vector<int64_t>{1, 0},
                                              std::vector<NamedTensor>{}, 0);
        optimizer =
            std::make_unique<Optimizer>(*buffer, std::vector{adamw_group(), muon_group()}, true);
        optimizer->load_state(state, 3);
      }
      buffer->zero_gradient();
      for (const NamedTensor& p : trainable) p.tensor.grad().copy_(at::sin(p.tensor.detach() + t));
      optimizer->step(std::vector<double>(2, 1.0 / (t + 1)), 1.0, *world);
    }
    return buffer->master_N().clone();
  };
  EXPECT_TRUE(tensor_equal(run(true), run(false)));
}

TEST(OptimizerTest, StateOfOtherTensorsIsRefused) {
  const std::vector<NamedTensor> trainable = {{"v", at::zeros({5})}};
  FlatBuffer buffer(trainable, {0}, {}, 0);
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

TEST(OptimizerTest, NormIsThatOfTheWholeBufferForOddSizes) {
  for (const int64_t n : {1, 17, 16384, 16385, 200001}) {
    const at::Tensor g = at::randn({n});
    EXPECT_NEAR(gradient_norm(g.const_data_ptr<float>(), n),
                g.to(at::kDouble).norm().item<double>(),
                1e-9 * std::sqrt(static_cast<double>(n)) + 1e-9);
  }
}

TEST(FlatBufferTest, BFloat16ParametersKeepFp32MasterValues) {
  at::Tensor low = at::full({4}, 1.0, at::kBFloat16);
  const std::vector<NamedTensor> trainable = {{"low", low}};
  FlatBuffer buffer(trainable, {0}, {}, 0);
  GroupOptions group = adamw_group();
  group.lr = 1e-4;  // far below the spacing of bf16 at 1
  group.weight_decay = 0.0;
  Optimizer optimizer(buffer, {group}, false);
  const auto world = make_single();
  for (int t = 0; t < 60; ++t) {
    buffer.zero_gradient();
    (low * at::ones({4}, at::kBFloat16)).sum().backward();
    buffer.gather_gradient();
    EXPECT_EQ(buffer.gradient()[0], 1.0F);
    optimizer.step(std::vector<double>(optimizer.groups().size(), 1.0), 1.0, *world);
  }
  EXPECT_NEAR(buffer.master()[0], 1.0 - 60e-4, 1e-5);
  EXPECT_EQ(low.scalar_type(), at::kBFloat16);
  EXPECT_LT(low[0].item<float>(), 1.0F);  // the sum of small steps arrived
}

TEST(FlatBufferTest, AliasesGiveTheirGradientToTheParameter) {
  const at::Tensor table = at::arange(6, at::kFloat);
  const at::Tensor alias = table.detach();
  FlatBuffer buffer({{"table", table}}, {0}, {{"table", alias}}, 2);
  (table * 2.0).sum().backward();
  (alias * 3.0).sum().backward();
  EXPECT_EQ(buffer.gradient()[0], 2.0F);
  EXPECT_EQ(buffer.gradient()[6], 3.0F);
  buffer.add_aliases();
  EXPECT_EQ(buffer.gradient()[5], 5.0F);
  EXPECT_EQ(buffer.tail().size(), 2U);
  buffer.master()[1] = 9.0F;  // one storage for both
  EXPECT_EQ(table[1].item<float>(), 9.0F);
  EXPECT_EQ(alias[1].item<float>(), 9.0F);
}

}  // namespace
}  // namespace euromodal
