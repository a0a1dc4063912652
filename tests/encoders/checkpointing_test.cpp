// checkpointing_test.cpp — activation checkpointing of encoders: the same bits in every mode, and
// fewer bytes kept for the backward pass.
#include "backbone/nn/checkpointing.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "encoders/encoder.h"
#include "tests/encoders/helpers.h"
#include "tests/support/memory_count.h"

namespace euromodal {
namespace {

using namespace testing_support;
using Kind = Checkpointing::Kind;

class EncoderCheckpointingTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    at::set_num_threads(1);
    encoder_ = load_encoder(golden_dir() / GetParam());
    for (const NamedTensor& p : encoder_->parameters()) p.tensor.set_requires_grad(true);
    for (const int64_t size : {3, 4}) {
      if (encoder_->modality() == Modality::kAudio)
        inputs_.push_back(encoder_->preprocess(formula_sound(size * 4000)));
      else
        inputs_.push_back(encoder_->preprocess(formula_picture(size * 20, size * 16)));
    }
  }
  /// Features, then every gradient.
  std::vector<at::Tensor> step(Checkpointing mode, int64_t* kept = nullptr) {
    encoder_->set_checkpointing(mode);
    for (const NamedTensor& p : encoder_->parameters()) p.tensor.mutable_grad() = at::Tensor();
    const MemoryCount count;
    const at::Tensor rows_LE = encoder_->forward(inputs_, {}).rows_LE;
    if (kept) *kept = count.live();
    torch::autograd::backward({rows_LE}, {at::sin(rows_LE.detach())});
    std::vector<at::Tensor> out{rows_LE.detach()};
    for (const NamedTensor& p : encoder_->parameters()) out.push_back(p.tensor.grad());
    return out;
  }

  std::unique_ptr<Encoder> encoder_;
  std::vector<EncoderInput> inputs_;
};

TEST_P(EncoderCheckpointingTest, EveryModeGivesTheSameBitsAndKeepsLess) {
  int64_t all = 0;
  const std::vector<at::Tensor> want = step({}, &all);
  int64_t before = all;
  for (const Checkpointing mode : {Checkpointing{Kind::kMlp, 1}, Checkpointing{Kind::kLayers, 1},
                                   Checkpointing{Kind::kLayers, 2}}) {
    int64_t kept = 0;
    const std::vector<at::Tensor> got = step(mode, &kept);
    for (size_t i = 0; i < want.size(); ++i) {
      ASSERT_EQ(got[i].defined(), want[i].defined());
      if (!want[i].defined()) continue;
      EXPECT_TRUE(tensor_equal(got[i], want[i])) << i;
    }
    EXPECT_LT(kept, before);
    before = kept;
  }
}

INSTANTIATE_TEST_SUITE_P(Encoders, EncoderCheckpointingTest,
                         testing::Values("siglip", "clip", "whisper"),
                         [](const auto& test) { return std::string(test.param); });

}  // namespace
}  // namespace euromodal
