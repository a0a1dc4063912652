// Safetensors: round trips, the bytes that other programs read, and every fault of a header.
#include "backbone/weights/safetensors.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

std::string length_bytes(uint64_t value) {
  std::string out(8, '\0');
  for (int i = 0; i < 8; ++i) out[i] = static_cast<char>(value >> (8 * i));
  return out;
}

std::string container(const std::string& header, const std::string& data = "") {
  return length_bytes(header.size()) + header + data;
}

TEST(SafetensorsTest, RoundTripOfAllDtypesShapesAndMetadata) {
  TempDir dir;
  const std::vector<NamedTensor> tensors = {
      {"half", at::randn({3, 5}).to(at::kHalf)},
      {"u8", at::arange(3, at::kByte)},
      {"bool", at::arange(3) != 1},
      {"f32", at::randn({2, 3, 4})},
      {"f64", at::randn({7}, at::kDouble)},
      {"bf16", at::randn({4, 4}).to(at::kBFloat16).t()},  // not contiguous
      {"i64", at::arange(5, at::kLong) - 2},
      {"i32", at::arange(5, at::kInt)},
      {"i16", at::arange(5, at::kShort)},
      {"i8", at::arange(5, at::kChar)},
      {"scalar", at::scalar_tensor(2.5)},
      {"empty", at::empty({0, 4})},
      {"name with \"quotes\" é", at::ones({1})},
  };
  const auto file = dir / "t.safetensors";
  save_safetensors(file, tensors, {.metadata = {{"format", "pt"}, {"note", "x"}}});
  const SafetensorsFile read(file);
  EXPECT_EQ(read.infos().size(), tensors.size());
  EXPECT_EQ(read.metadata().at("note"), "x");
  for (const NamedTensor& named : tensors) {
    const TensorInfo* info = read.find(named.name);
    ASSERT_NE(info, nullptr) << named.name;
    EXPECT_TRUE(tensor_equal(read.tensor(*info), named.tensor)) << named.name;
    EXPECT_EQ(info->begin % named.tensor.element_size(), 0u) << named.name;
  }
  EXPECT_EQ(read.find("missing"), nullptr);
}

TEST(SafetensorsTest, BytesAreThoseOfTheFormat) {
  TempDir dir;
  const auto file = dir / "t.safetensors";
  save_safetensors(file, {{"w", at::tensor({1.0f, -2.0f})}}, {.metadata = {}});
  std::string header = R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  EXPECT_EQ(read_bytes(file), container(header, std::string("\0\0\x80\x3f\0\0\0\xc0", 8)));
}

TEST(SafetensorsTest, TensorsOutliveTheFileAndWritesStayInMemory) {
  TempDir dir;
  const auto file = dir / "t.safetensors";
  save_safetensors(file, {{"w", at::ones({4})}});
  const std::string before = read_bytes(file);
  at::Tensor w;
  {
    const SafetensorsFile read(file);
    w = read.tensor(*read.find("w"));
  }
  w.mul_(3);
  EXPECT_TRUE(tensor_equal(w, at::full({4}, 3.0f)));
  EXPECT_EQ(read_bytes(file), before);
}

TEST(SafetensorsTest, UnalignedDataIsReadCorrectly) {
  TempDir dir;
  std::string header = R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  while (header.size() % 4 != 1) header += ' ';
  const auto file = dir.write("t.safetensors", container(header, std::string("\0\0\x80\x3f", 4)));
  const SafetensorsFile read(file);
  EXPECT_TRUE(tensor_equal(read.tensor(read.infos()[0]), at::ones({1})));
}

struct Fault {
  const char* name;
  std::string bytes;
  std::vector<std::string> words;
};

class SafetensorsFaultTest : public testing::TestWithParam<Fault> {};

TEST_P(SafetensorsFaultTest, IsACheckpointErrorThatNamesIt) {
  TempDir dir;
  const auto file = dir.write("bad.safetensors", GetParam().bytes);
  try {
    const SafetensorsFile read(file);
    for (const TensorInfo& info : read.infos()) (void)read.tensor(info);
    FAIL() << "accepted";
  } catch (const CheckpointError& e) {
    const std::string message = e.what();
    EXPECT_NE(message.find("bad.safetensors"), std::string::npos) << message;
    for (const std::string& word : GetParam().words)
      EXPECT_NE(message.find(word), std::string::npos) << message;
    EXPECT_LT(message.size(), 1000u);
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
}

std::string one(const std::string& entry, size_t bytes = 8) {
  return container("{\"w\":" + entry + "}", std::string(bytes, '\0'));
}

const char* const kGood = R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})";

std::string pair_of(const std::string& second, const std::string& entry, size_t bytes = 8) {
  return container("{\"v\":" + std::string(kGood) + ",\"" + second + "\":" + entry + "}",
                   std::string(bytes, '\0'));
}

std::string nested_objects() {
  std::string text;
  for (int i = 0; i < 100'000; ++i) text += "{\"a\":";
  return container(text);
}

std::vector<Fault> faults() {
  return {
      {"EmptyFile", "", {"truncated"}},
      {"ShorterThanLength", "abc", {"truncated"}},
      {"AbsurdLength", length_bytes(~uint64_t{0}) + "{}", {"header length"}},
      {"LengthBelowLimit", length_bytes(99'999'999) + "{}", {"truncated"}},
      {"HeaderCut", length_bytes(100) + "{\"w\":", {"truncated"}},
      {"NotJson", container("{\"w\":}"), {"not valid JSON"}},
      {"NotAnObject", container("[1]"), {"does not start"}},
      {"EmptyHeader", container(""), {"does not start"}},
      {"TrailingText", container("{} x"), {"not valid JSON"}},
      {"InvalidUtf8", container("{\"\xff\":1}"), {"not valid JSON"}},
      {"DeepLists", container("{\"w\":" + std::string(2'000'000, '[')), {"w", "list"}},
      {"DeepObjects", nested_objects(), {"unknown key a"}},
      {"TwiceTheName", pair_of("v", kGood), {"tensor v is there twice"}},
      {"TwiceTheKey",
       one(R"({"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]})"),
       {"w", "dtype is there twice"}},
      {"UnknownKey",
       one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1})"),
       {"w", "unknown key x"}},
      {"UnknownDtype", one(R"({"dtype":"F31","shape":[2],"data_offsets":[0,8]})"), {"w", "F31"}},
      {"MissingShape", one(R"({"dtype":"F32","data_offsets":[0,8]})"), {"w", "shape"}},
      {"NegativeShape",
       one(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})"),
       {"w", "shape", "-2"}},
      {"FractionalShape",
       one(R"({"dtype":"F32","shape":[2.0],"data_offsets":[0,8]})"),
       {"w", "shape", "2.0"}},
      {"OverflowingShape",
       one(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]})", 0),
       {"w", "overflows"}},
      {"OverflowBesideZero",
       one(R"({"dtype":"F32","shape":[0,4294967296,4294967296],"data_offsets":[0,0]})", 0),
       {"w", "overflows"}},
      {"HugeNumber",
       one(R"({"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,0]})", 0),
       {"w", "18446744073709551615"}},
      {"HugerNumber",
       one(R"({"dtype":"F32","shape":[98446744073709551616],"data_offsets":[0,0]})", 0),
       {"w", "98446744073709551616"}},
      {"ThreeOffsets",
       one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8,8]})"),
       {"w", "data_offsets"}},
      {"OffsetsTurned",
       one(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})"),
       {"w", "data_offsets"}},
      {"SizeDiffers",
       one(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})"),
       {"w", "12 bytes"}},
      {"DataCut", one(kGood, 7), {"w", "truncated"}},
      {"BytesBehind", one(kGood, 9), {"1 bytes behind"}},
      {"Hole", one(R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})"), {"w", "hole"}},
      {"Overlap",
       pair_of("w", R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})"),
       {"v", "w", "overlap"}},
      {"MetadataNumber", container(R"({"__metadata__":{"a":1}})"), {"__metadata__"}},
      {"MetadataTwice", container(R"({"__metadata__":{"a":"1","a":"2"}})"), {"twice"}},
      {"TensorIsAString", container(R"({"w":"x"})"), {"w", "object"}},
      {"BoolByte",
       container(R"({"w":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}})", "\x02"),
       {"w", "BOOL"}},
  };
}

INSTANTIATE_TEST_SUITE_P(All, SafetensorsFaultTest, testing::ValuesIn(faults()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(SafetensorsTest, MissingFileAndFolderAreNamed) {
  TempDir dir;
  EXPECT_TRUE((throws_with<CheckpointError>([&] { SafetensorsFile{dir / "no"}; }, {"no", "read"})));
  EXPECT_TRUE(
      (throws_with<CheckpointError>([&] { SafetensorsFile{dir.path()}; }, {"regular file"})));
}

TEST(SafetensorsTest, WriterRefusesWhatNobodyCouldRead) {
  TempDir dir;
  const auto file = dir / "t.safetensors";
  const at::Tensor x = at::ones({1});
  EXPECT_TRUE((throws_with<CheckpointError>(
      [&] {
        save_safetensors(file, {{"a", x}, {"a", x}});
      },
      {"tensor a", "twice"})));
  EXPECT_TRUE((throws_with<CheckpointError>(
      [&] {
        save_safetensors(file, {{"a\xff", x}});
      },
      {"UTF-8"})));
  EXPECT_TRUE((throws_with<CheckpointError>(
      [&] {
        save_safetensors(file, {{"z", x.to(at::kComplexFloat)}});
      },
      {"dtype"})));
  EXPECT_FALSE(std::filesystem::exists(file));
}

TEST(ModelFolderTest, ShardsAndIndexRoundTrip) {
  TempDir dir;
  std::vector<NamedTensor> tensors;
  for (int i = 0; i < 5; ++i) tensors.push_back({fmt::format("layer.{}", i), at::randn({8})});
  save_model_tensors(dir.path(), tensors, {.shard_bytes = 64});
  EXPECT_TRUE(std::filesystem::exists(dir / "model-00001-of-00003.safetensors"));
  const auto read = load_model_tensors(dir.path());
  ASSERT_EQ(read.size(), 5u);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(read[i].name, tensors[i].name);
    EXPECT_TRUE(tensor_equal(read[i].tensor, tensors[i].tensor));
  }
  EXPECT_EQ(list_model_tensors(dir.path())[4].file.filename(), "model-00003-of-00003.safetensors");
}

TEST(ModelFolderTest, IndexFaultsNameShardAndTensor) {
  const auto index = [](const std::string& map) { return "{\"weight_map\":" + map + "}"; };
  const std::string name = "model.safetensors.index.json";
  TempDir dir;
  const auto load = [&] { (void)load_model_tensors(dir.path()); };
  EXPECT_TRUE((throws_with<CheckpointError>(load, {"not a model folder"})));
  save_safetensors(dir / "a.safetensors", {{"x", at::ones({2})}, {"y", at::ones({2})}});
  dir.write(name, index(R"({"x":"a.safetensors","y":"b.safetensors"})"));
  EXPECT_TRUE((throws_with<CheckpointError>(load, {"shard b.safetensors", "tensor y"})));
  dir.write(name, index(R"({"x":"a.safetensors"})"));
  EXPECT_TRUE((throws_with<CheckpointError>(load, {"a.safetensors", "tensor y", "not in"})));
  dir.write(name, index(R"({"x":"a.safetensors","y":"a.safetensors","z":"a.safetensors"})"));
  EXPECT_TRUE((throws_with<CheckpointError>(load, {"a.safetensors", "tensor z is missing"})));
  dir.write(name, index(R"({"x":"a.safetensors","x":"a.safetensors","y":"a.safetensors"})"));
  EXPECT_TRUE((throws_with<CheckpointError>(load, {name, "tensor x is there twice"})));
  dir.write(name, index(R"({"x":"../a.safetensors"})"));
  EXPECT_TRUE((throws_with<CheckpointError>(load, {name, "plain file name"})));
  dir.write(name, "{\"weight_map\":{\"x\":");
  EXPECT_TRUE((throws_with<CheckpointError>(load, {name, "JSON"})));
  dir.write(name, "{}");
  EXPECT_TRUE((throws_with<CheckpointError>(load, {name, "weight_map"})));
  dir.write(name, index(R"({"x":"a.safetensors","y":"a.safetensors"})"));
  EXPECT_EQ(load_model_tensors(dir.path()).size(), 2u);
  EXPECT_TRUE((throws_with<CheckpointError>([&] { (void)load_model_tensors(dir / "nowhere"); },
                                            {"nowhere", "no such folder"})));
}

TEST(ParseDtypeTest, WordsOfConfigJson) {
  EXPECT_EQ(parse_dtype("float32"), at::kFloat);
  EXPECT_EQ(parse_dtype("torch.bfloat16"), at::kBFloat16);
  EXPECT_EQ(parse_dtype("float16"), at::kHalf);
  EXPECT_EQ(parse_dtype("float64"), at::kDouble);
  EXPECT_TRUE((throws_with<ConfigError>([] { (void)parse_dtype("int3"); }, {"int3"})));
}

}  // namespace
}  // namespace euromodal
