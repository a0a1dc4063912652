// prefix_test.cpp — constant rows at the head of samples: the same values and gradients as without,
// the same bits from the cache and however samples are packed, and no work on what is constant.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "backbone/llama.h"
#include "backbone/prefix_cache.h"
#include "tests/support/flop_count.h"
#include "tests/support/gradcheck.h"
#include "tests/support/small_llama.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

using testing_support::FlopCount;

constexpr int64_t kD = 16, kF = 40, kH = 4, kK = 2, kN = 4, kLayers = 3;

TextModel prefix_model() {
  return testing_support::small_llama({11, kD, kF, kLayers, kH, kK, kN, 512});
}

/// A pack: constant rows that depend on the key alone, then rows that train.
struct PrefixPack {
  Segments rows;
  std::vector<ConstantPrefix> prefixes;
  at::Tensor emb_TD;
};

struct PrefixSample {
  int64_t length;
  ConstantPrefix prefix;
  uint64_t seed;
};

// Two that share a prefix, one without, one that is nothing but constants, one kept by nobody, and
// long ones.
const std::vector<PrefixSample> kSamples = {
    {9, {4, "a"}, 1}, {7, {4, "a"}, 2},    {6, {0, ""}, 3},      {5, {5, ""}, 4},
    {8, {2, ""}, 5},  {230, {31, "b"}, 6}, {260, {210, "c"}, 7}, {11, {5, "d"}, 8}};

PrefixPack prefix_pack(const std::vector<PrefixSample>& samples, bool per_sample) {
  PrefixPack out;
  std::vector<int64_t> lengths;
  std::vector<at::Tensor> rows;
  for (const PrefixSample& s : samples) {
    const uint64_t key =
        s.prefix.key.empty() ? 70 + s.seed : static_cast<uint64_t>(s.prefix.key[0]);
    rows.push_back(randn({s.prefix.length, kD}, 1000 + key));
    rows.push_back(randn({s.length - s.prefix.length, kD}, s.seed));
    lengths.push_back(s.length);
    out.prefixes.push_back(s.prefix);
  }
  out.rows = Segments::from_lengths(lengths, per_sample);
  out.emb_TD = at::cat(rows).requires_grad_(true);
  return out;
}

/// Hidden rows, gradients of the rows behind the prefixes, then of the parameters that train.
std::vector<at::Tensor> prefix_step(const TextModel& model, const PrefixPack& pack,
                                    PrefixCache* cache) {
  pack.emb_TD.mutable_grad() = at::Tensor();
  for (const NamedTensor& p : model.parameters) p.tensor.mutable_grad() = at::Tensor();
  const at::Tensor h_TD = cache != nullptr
                              ? model.llama->forward(pack.emb_TD, pack.rows, pack.prefixes, *cache)
                              : model.llama->forward(pack.emb_TD, pack.rows);
  std::vector<at::Tensor> dy;
  for (int64_t s = 0; s < pack.rows.count(); ++s)
    dy.push_back(
        randn({pack.rows.length(s), kD}, 500 + static_cast<uint64_t>(pack.rows.length(s))));
  h_TD.backward(at::cat(dy));
  std::vector<at::Tensor> out{h_TD.detach()}, grads;
  for (int64_t s = 0; s < pack.rows.count(); ++s)
    grads.push_back(pack.emb_TD.grad().slice(
        0, pack.rows.begin(s) + pack.prefixes[static_cast<size_t>(s)].length, pack.rows.cu[s + 1]));
  out.push_back(at::cat(grads));
  for (const NamedTensor& p : model.parameters)
    if (p.tensor.requires_grad()) out.push_back(p.tensor.grad());
  return out;
}

void prefix_train(const TextModel& model, const std::string& part) {
  for (const NamedTensor& p : model.parameters)
    p.tensor.requires_grad_(!part.empty() && p.name.find(part) != std::string::npos);
}

TEST(PrefixTest, ValuesAndGradientsAreThoseWithoutIt) {
  const TextModel model = prefix_model();
  struct Case {
    const char* trains;
    int64_t kept;  // states: 0 where the lowest block trains
  };
  for (const Case& c : {Case{"", 4},
                        {"layers.2.", 4},
                        {"layers.1.mlp.down_proj", 4},
                        {"model.norm", 4},
                        {"layers.0.self_attn.v_proj", 0},
                        {"embed_tokens", 0}}) {
    prefix_train(model, c.trains);
    for (const bool per_sample : {false, true}) {
      const PrefixPack pack = prefix_pack(kSamples, per_sample);
      PrefixCache cache(1 << 20);
      const auto want = prefix_step(model, pack, nullptr), got = prefix_step(model, pack, &cache),
                 again = prefix_step(model, pack, &cache);
      EXPECT_EQ(cache.size(), c.kept);
      ASSERT_EQ(got.size(), want.size());
      for (size_t i = 0; i < want.size(); ++i) {
        if (!want[i].defined()) continue;  // the embedding table: its rows came from elsewhere
        EXPECT_TRUE(tensor_near(got[i], want[i], {2e-5, 1e-4})) << c.trains << " " << i;
        // from the cache: fewer rows in one product, unless products run sample by sample
        if (per_sample)
          EXPECT_TRUE(same_bits(again[i], got[i])) << c.trains << " " << i;
        else
          EXPECT_TRUE(tensor_near(again[i], got[i], {2e-5, 1e-4})) << c.trains << " " << i;
      }
    }
  }
}

TEST(PrefixTest, BitsDoNotDependOnPackingNorOnTheCache) {
  const TextModel model = prefix_model();
  prefix_train(model, "layers.2.self_attn");
  PrefixCache cache(1 << 20), none(0);
  const PrefixPack pack = prefix_pack(kSamples, true);
  const auto want = prefix_step(model, pack, &cache);
  EXPECT_TRUE(same_bits(prefix_step(model, pack, &none)[0], want[0]));
  EXPECT_EQ(none.size(), 0);
  int64_t behind = 0;
  for (size_t s = 0; s < kSamples.size(); ++s) {
    const PrefixPack alone = prefix_pack({kSamples[s]}, true);
    const auto got = prefix_step(model, alone, s % 2 == 0 ? &cache : &none);
    const auto row = static_cast<int64_t>(s);
    EXPECT_TRUE(same_bits(got[0], want[0].narrow(0, pack.rows.begin(row), pack.rows.length(row))))
        << s;
    EXPECT_TRUE(same_bits(got[1], want[1].narrow(0, behind, got[1].size(0)))) << s;
    behind += got[1].size(0);
  }
}

TEST(PrefixTest, CheckpointingGivesTheSameBits) {
  const TextModel model = prefix_model();
  prefix_train(model, "layers.2.");
  const PrefixPack pack = prefix_pack(kSamples, false);
  const auto step = [&](Checkpointing mode) {
    model.llama->set_checkpointing(mode);
    PrefixCache cache(1 << 20);
    return prefix_step(model, pack, &cache);
  };
  using Kind = Checkpointing::Kind;
  const auto want = step({});
  for (const Checkpointing mode :
       {Checkpointing{Kind::kMlp, 1}, {Kind::kLayers, 1}, {Kind::kLayers, 2}}) {
    const auto got = step(mode);
    for (size_t i = 0; i < want.size(); ++i) EXPECT_TRUE(same_bits(got[i], want[i])) << i;
  }
}

TEST(PrefixTest, NoWorkIsDoneOnWhatIsConstant) {
  const TextModel model = prefix_model();
  const PrefixPack pack = prefix_pack({{9, {4, "a"}, 1}, {7, {4, "a"}, 2}, {6, {6, ""}, 3}}, false);
  const auto flops = [&](PrefixCache* cache) {
    const FlopCount count;
    prefix_step(model, pack, cache);
    return count.flops();
  };
  // A frozen model: forward, and the gradient of the input: twice the weights' products.
  const int64_t row = 2 * kLayers * kD * (2 * kH * kN + 2 * kK * kN + 3 * kF);
  EXPECT_EQ(flops(nullptr), 2 * 22 * row);
  PrefixCache cache(1 << 20);
  EXPECT_EQ(flops(&cache), 2 * (5 + 3) * row + (4 + 6) * row);  // the shared prefix once
  EXPECT_EQ(flops(&cache), 2 * (5 + 3) * row + 6 * row);        // and never again
}

TEST(PrefixTest, TheCacheIsBoundedAndForgetsWhenSomethingTrains) {
  const auto state = [](int64_t rows) {
    auto out = std::make_shared<PrefixState>();
    out->x_PD = at::zeros({rows, 25}, at::kFloat);  // 100 bytes a row
    return out;
  };
  PrefixCache cache(1000);
  cache.set_blocks(2);
  cache.insert("a", state(4));
  cache.insert("b", state(4));
  cache.insert("", state(1));
  cache.insert("huge", state(11));
  EXPECT_EQ(cache.size(), 2);
  EXPECT_NE(cache.find("a"), nullptr);
  cache.insert("c", state(3));  // b was not used for the longest time
  EXPECT_EQ(cache.find("b"), nullptr);
  EXPECT_NE(cache.find("a"), nullptr);
  EXPECT_EQ(cache.bytes(), 700);
  cache.set_blocks(2);
  EXPECT_EQ(cache.size(), 2);
  cache.set_blocks(1);
  EXPECT_EQ(cache.size(), 0);
  EXPECT_EQ(cache.bytes(), 0);
}

}  // namespace
}  // namespace euromodal
