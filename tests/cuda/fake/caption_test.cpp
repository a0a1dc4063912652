// caption_test.cpp — captions on the stand-in for a GPU: what `caption --device cuda` does with
// pictures, stored features and text in the dtype of the model's files, token by token as the CPU.
#include "inference/caption.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbone/device_model.h"
#include "tests/support/fake_gpu.h"
#include "tests/support/temp.h"
#include "training/data/dataset.h"
#include "training/data/encode_dataset.h"

namespace euromodal {
namespace {

const std::filesystem::path kModel = EM_SOURCE_DIR "/tests/multimodal/goldens/llava";

/// Greedy answers to all records of a data set.
std::vector<std::vector<int64_t>> answers(const MultimodalModel& model, const Dataset& data) {
  GenerateOptions options;
  options.max_new_tokens = 12;
  options.stop_ids = model.backbone().config().eos_ids;
  std::vector<std::vector<int64_t>> out;
  for (int64_t i = 0; i < data.size(); ++i) {
    const Sample sample = data.get(i);
    out.push_back(
        caption(model, caption_record(model, sample.record, sample.media), options).tokens);
  }
  return out;
}

class CaptionOnDeviceTest : public testing::Test {
 protected:
  CaptionOnDeviceTest() {
    std::string lines;
    for (int i = 0; i < 3; ++i) {
      std::string pixels = "P6\n20 14\n255\n";
      for (int p = 0; p < 20 * 14 * 3; ++p)
        pixels += static_cast<char>((p * (7 + i) + 40 * i) % 251);
      const std::string name = fmt::format("{}.ppm", i);
      dir_.write(name, pixels);
      lines += R"({"id": "p)" + std::to_string(i) +
               R"(", "messages": [{"role": "user", "parts": [{"kind": "image", "uri": ")" + name +
               R"("}, "\nwhat?"]}, {"role": "assistant", "parts": ["this"]}]})" + "\n";
    }
    lines +=
        R"({"id": "t", "messages": [{"role": "user", "parts": ["what else?"]}, {"role": "assistant", "parts": ["that"]}]})"
        "\n";
    records_ = dir_.write("records.jsonl", lines);
  }
  TempDir dir_;
  std::filesystem::path records_;
};

TEST_F(CaptionOnDeviceTest, AnswersAreThoseOfTheCpu) {
  const auto host = MultimodalModel::load(kModel, std::nullopt),
             device = MultimodalModel::load(kModel, std::nullopt);
  move_model(device->backbone(), device->parameters(), testing_support::fake_gpu());
  ASSERT_TRUE(device->backbone().embedding_VD().is_cuda());

  const auto media = Dataset::open(records_);
  const auto want = answers(*host, *media);
  ASSERT_EQ(want.size(), 4U);
  EXPECT_NE(want[0], want[1]);
  EXPECT_EQ(answers(*device, *media), want);

  const std::vector<FeatureSource> sources = {
      {&host->encoder(Modality::kImage), host->feature_identity(Modality::kImage)}};
  encode_dataset(*media, sources, {.output = dir_ / "features"});
  const auto features = Dataset::open(dir_ / "features");
  EXPECT_EQ(answers(*host, *features), want);
  EXPECT_EQ(answers(*device, *features), want);
}

}  // namespace
}  // namespace euromodal
