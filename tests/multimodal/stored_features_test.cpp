// stored_features_test.cpp — features in files and in memory, and what is refused.
#include "multimodal/stored_features.h"

#include <gtest/gtest.h>

#include "backbone/weights/safetensors_bytes.h"
#include "tests/support/gradcheck.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

const FeatureIdentity kIdentity{"0123abcd", "last"};

MediaSource source_file(const std::filesystem::path& file) { return {file.string(), {}, false}; }

TEST(StoredFeaturesTest, ReadsWhatItWritesFromFileAndMemory) {
  const TempDir dir;
  const at::Tensor first = randn({9, 4}, 1), second = randn({3, 4}, 2, at::kBFloat16);
  const FeatureFile file = feature_file(
      {{first, {.frames = 2, .height = 2, .width = 2, .prefix = 1}}, {second, {.width = 3}}},
      kIdentity);
  save_safetensors(dir / "f.safetensors", file.tensors, file.options);
  const std::string bytes = safetensors_bytes("f", file.tensors, file.options);
  EXPECT_EQ(bytes, read_bytes(dir / "f.safetensors"));
  for (const MediaSource& source :
       {source_file(dir / "f.safetensors"), MediaSource{"shard.tar:f.safetensors", bytes, true}}) {
    const StoredFeatures got = read_features(source, "features.0", &kIdentity);
    EXPECT_TRUE(tensor_equal(got.rows_LE, first));
    EXPECT_EQ(got.layout, (RowLayout{.frames = 2, .height = 2, .width = 2, .prefix = 1}));
    EXPECT_TRUE(tensor_equal(read_features(source, "features.1", nullptr).rows_LE, second));
  }
}

TEST(StoredFeaturesTest, FaultsAreDataErrorsThatNameTheFile) {
  const TempDir dir;
  const FeatureFile file = feature_file({{randn({3, 4}, 2), {.width = 3}}}, kIdentity);
  const auto path = dir / "f.safetensors";
  const auto fails = [&](const std::string& tensor, const FeatureIdentity& want,
                         std::initializer_list<std::string_view> words) {
    return throws_with<DataError>([&] { read_features(source_file(path), tensor, &want); }, words);
  };
  EXPECT_TRUE(fails("features.0", kIdentity, {"f.safetensors"}));  // missing
  save_safetensors(path, file.tensors, file.options);
  EXPECT_TRUE(fails("features.1", kIdentity, {"f.safetensors", "features.1", "no such tensor"}));
  EXPECT_TRUE(fails("features.0", {"ffff", "last"},
                    {"f.safetensors", "another encoder", "0123abcd", "ffff", "data encode"}));
  EXPECT_TRUE(fails("features.0", {"0123abcd", "-2"}, {"'last'", "'-2'"}));
  save_safetensors(path, file.tensors);
  EXPECT_TRUE(fails("features.0", kIdentity, {"f.safetensors", "metadata", "'encoder'"}));
  SafetensorsOptions wrong = file.options;
  wrong.metadata["layout.features.0"] = "1 1 4 0";
  save_safetensors(path, file.tensors, wrong);
  EXPECT_TRUE(fails("features.0", kIdentity, {"[3, 4]", "4 rows"}));
  wrong.metadata["layout.features.0"] = "1 1 x";
  save_safetensors(path, file.tensors, wrong);
  EXPECT_TRUE(fails("features.0", kIdentity, {"layout", "1 1 x"}));
  dir.write("f.safetensors", "no safetensors");
  EXPECT_TRUE(fails("features.0", kIdentity, {"f.safetensors"}));
}

}  // namespace
}  // namespace euromodal
