// gguf_model_test.cpp — text models from GGUF files: logits as transformers computes them with the
// weights that gguf reads from the same file (goldens of make_gguf_goldens.py), packed codes bit
// for bit, folders made of them, faults named.
#include "backbone/gguf_model.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backbone/kernels/packed_linear/packed_weight.h"
#include "backbone/packed_model.h"
#include "backbone/weights/tokenizer.h"
#include "core/files.h"
#include "tests/support/gguf_bytes.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;
using testing_support::GgufBytes;

const fs::path kGoldens = fs::path(EM_TEST_DIR) / "goldens/gguf";

at::Tensor golden(const std::string& name) {
  static const SafetensorsFile file(kGoldens / "logits.safetensors");
  const TensorInfo* info = file.find(name);
  check(info != nullptr, "no golden {}", name);
  return file.tensor(*info);
}

TextModel load(const std::string& name, std::optional<at::ScalarType> dtype = at::kFloat) {
  return load_text_model(kGoldens / (name + ".gguf"), dtype);
}

at::Tensor logits_of(const TextModel& model, const at::Tensor& ids_T) {
  const c10::NoGradGuard no_grad;
  const Segments rows = Segments::one(ids_T.size(0));
  return model.llama->logits(model.llama->forward(model.llama->embed(ids_T, rows), rows));
}

double relative_error(const at::Tensor& got, const at::Tensor& want) {
  return ((got - want).norm() / want.norm()).item<double>();
}

const Linear& linear_of(const TextModel& model, const std::string& name) {
  for (const Linear& linear : model.llama->linears()) {
    if (linear.name() == name) return linear;
  }
  throw Error("no linear {}", name);
}

class GgufLogitsTest : public testing::TestWithParam<const char*> {};

TEST_P(GgufLogitsTest, AreThoseOfTransformersWithTheSameWeights) {
  const std::string name = GetParam();
  const TextModel model = load(name);
  EXPECT_FALSE(packed_form(*model.llama).has_value());
  const at::Tensor got = logits_of(model, golden("ids." + name)), want = golden("logits." + name);
  ASSERT_EQ(got.sizes(), want.sizes());
  EXPECT_LE((got - want).abs().max().item<double>(), 2e-5 * want.abs().max().item<double>());
}

INSTANTIATE_TEST_SUITE_P(All, GgufLogitsTest,
                         testing::Values("f32", "f16", "bf16", "k_quants", "llama3", "yarn",
                                         "linear"),
                         [](const auto& info) { return std::string(info.param); });

TEST(GgufModelTest, IsTheFolderBitForBit) {
  const at::Tensor ids = golden("ids.f32");
  for (const auto& [name, dtype] :
       {std::pair{"f32", at::kFloat}, {"bf16", at::kBFloat16}, {"f16", at::kHalf}}) {
    SCOPED_TRACE(name);
    const TextModel folder = load_text_model(kGoldens / "folder", dtype);
    const TextModel file = load(name, std::nullopt);
    EXPECT_EQ(file.llama->dtype(), dtype);
    EXPECT_TRUE(at::equal(logits_of(file, ids), logits_of(folder, ids)));
    ASSERT_EQ(file.parameters.size(), folder.parameters.size());
    EXPECT_EQ(file.config.num_parameters(), folder.config.num_parameters());
    EXPECT_EQ(file.config.eos_ids, folder.config.eos_ids);
    EXPECT_EQ(file.config.bos_id, 1);
  }
}

TEST(GgufModelTest, CodesAreTakenAsTheyAre) {
  for (const auto& [name, form] : {std::pair{"q8_0", PackedForm{WeightForm::kInt8, 32}},
                                   {"q4_0", PackedForm{WeightForm::kInt4, 32}}}) {
    SCOPED_TRACE(name);
    const std::string prefix = std::string(name) + ".";
    const TextModel model = load(name);
    for (const std::string key : {"self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj"}) {
      const Linear& linear = linear_of(model, "model.layers.1." + key);
      ASSERT_NE(linear.packed(), nullptr);
      EXPECT_EQ(linear.packed()->form, form);
      EXPECT_TRUE(at::equal(unpack_weight(*linear.packed(), at::kFloat), golden(prefix + key)));
    }
    const Linear& head = model.llama->head();
    ASSERT_NE(head.packed(), nullptr);
    EXPECT_EQ(head.packed()->form, form);  // also int4: nothing is rounded again
    EXPECT_TRUE(at::equal(unpack_weight(*head.packed(), at::kFloat), golden(prefix + "lm_head")));
    // The rest is the rounding of activations to int8.
    EXPECT_LE(relative_error(logits_of(model, golden("ids." + prefix.substr(0, 4))),
                             golden("logits." + prefix.substr(0, 4))),
              0.03);
    const TextModel standard = load(name, std::nullopt);
    EXPECT_EQ(standard.llama->dtype(), at::kBFloat16);
  }
}

TEST(GgufModelTest, TiedHeadTakesTheCodesOfTheEmbedding) {
  const TextModel model = load("chat", std::nullopt);
  ASSERT_TRUE(model.config.tie_embeddings);
  ASSERT_NE(model.llama->head().packed(), nullptr);
  EXPECT_EQ(model.llama->head().packed()->form, (PackedForm{WeightForm::kInt8, 32}));
  EXPECT_TRUE(at::equal(unpack_weight(*model.llama->head().packed(), at::kBFloat16),
                        model.llama->embedding_VD()));
  EXPECT_LE(relative_error(logits_of(model, golden("ids.chat")), golden("logits.chat")), 0.03);
}

TEST(GgufModelTest, MixedFormsArePackedAndSaved) {
  // K-quants are packed as bfloat16 where nothing else is asked for.
  const TextModel k = load("k_quants", std::nullopt);
  pack_plain_weights(*k.llama, PackedForm{});
  EXPECT_EQ(packed_form(*k.llama), PackedForm{});
  EXPECT_LE(relative_error(logits_of(k, golden("ids.k_quants")), golden("logits.k_quants")), 0.03);

  const TempDir dir;
  for (const std::string name : {"chat", "q4_0", "k_quants"}) {
    SCOPED_TRACE(name);
    const TextModel model = load(name, std::nullopt);
    pack_plain_weights(*model.llama, PackedForm{WeightForm::kInt8, 128});
    save_packed_model(kGoldens / (name + ".gguf"), dir / name, model);
    EXPECT_EQ(fs::exists(dir / name / "tokenizer.json"), name == "chat");
    const TextModel again = load_text_model(dir / name, std::nullopt);
    const at::Tensor ids = golden("ids." + name);
    EXPECT_TRUE(at::equal(logits_of(again, ids), logits_of(model, ids)));
    EXPECT_EQ(linear_bytes(*again.llama), linear_bytes(*model.llama));
    EXPECT_EQ(again.config.eos_ids, model.config.eos_ids);
  }
  EXPECT_EQ(Tokenizer::load(dir / "chat")->encode("the <s> cat", EncodeMode::kFull),
            Tokenizer::load(kGoldens / "chat.gguf")->encode("the <s> cat", EncodeMode::kFull));
}

TEST(GgufModelTest, FrequenciesSurviveInConfigJson) {
  const TempDir dir;
  const TextModel model = load("llama3");
  save_text_model(dir / "folder", model.config, model.parameters);
  const TextModel again = load_text_model(dir / "folder", std::nullopt);
  EXPECT_EQ(again.config.rope.divisors, model.config.rope.divisors);
  const at::Tensor ids = golden("ids.llama3");
  EXPECT_TRUE(at::equal(logits_of(again, ids), logits_of(model, ids)));
}

TEST(GgufModelTest, FolderWithOneFileIsThatFile) {
  const TempDir dir;
  fs::create_directories(dir / "one");
  fs::copy_file(kGoldens / "f32.gguf", dir / "one" / "a.gguf");
  EXPECT_EQ(LlamaConfig::load(dir / "one").hidden_size, 32);
  fs::copy_file(kGoldens / "bf16.gguf", dir / "one" / "b.gguf");
  EXPECT_TRUE((throws_with<ConfigError>([&] { LlamaConfig::load(dir / "one"); },
                                        {"one", "config.json", ".gguf"})));
}

/// q8_0.gguf as `llama-gguf-split --split --split-max-tensors 8` cut it.
TEST(GgufModelTest, PartsAreTheWholeFile) {
  const TextModel whole = load("q8_0");
  const auto same = [&](const fs::path& path) {
    const TextModel model = load_text_model(path, at::kFloat);
    ASSERT_EQ(model.parameters.size(), whole.parameters.size());
    for (size_t i = 0; i < whole.parameters.size(); ++i) {
      EXPECT_EQ(model.parameters[i].name, whole.parameters[i].name);
      EXPECT_TRUE(at::equal(model.parameters[i].tensor, whole.parameters[i].tensor))
          << whole.parameters[i].name;
    }
  };
  for (const int part : {1, 2, 3})
    same(kGoldens / "parts" / fmt::format("q8_0-{:05}-of-00003.gguf", part));
  same(kGoldens / "parts");
}

TEST(GgufModelTest, FaultsOfPartsAreNamed) {
  const TempDir dir;
  const auto part = [&](int number) { return dir / fmt::format("m-{:05}-of-00003.gguf", number); };
  const auto copy = [&](int from, int to) {
    fs::copy_file(kGoldens / "parts" / fmt::format("q8_0-{:05}-of-00003.gguf", from), part(to),
                  fs::copy_options::overwrite_existing);
  };
  const auto fails = [&](const std::string& file, std::initializer_list<std::string_view> words) {
    EXPECT_TRUE(throws_with<CheckpointError>([&] { GgufFile{fs::path(file)}; }, words));
  };
  copy(1, 1);
  copy(3, 3);
  fails(part(3), {"part 2 of 3 is missing", "m-00002-of-00003.gguf"});
  copy(3, 2);
  fails(part(1), {"m-00002-of-00003.gguf", "part 3 of 3", "split.no", "2 of 3"});
  fs::copy_file(part(1), dir / "model.gguf");
  fails(dir / "model.gguf", {"model.gguf", "3 parts", "split.count", "NAME-00001-of-00003.gguf"});
  fails(part(1), {"m-00002"});
  EXPECT_TRUE((throws_with<CheckpointError>([&] { GgufFile(read_bytes(part(1)), "bytes"); },
                                            {"bytes", "3 parts", "split.count"})));
  // Two files of two tensors: one twice, and one fewer than announced.
  const auto two = [&](uint32_t number, const std::string& name, uint32_t announced) {
    GgufBytes bytes;
    bytes.u32("split.count", 2).u32("split.no", number).u32("split.tensors.count", announced);
    dir.write(fmt::format("t-{:05}-of-00002.gguf", number + 1), bytes.tensor(name, {8}).finish());
  };
  two(0, "a", 2);
  two(1, "a", 2);
  fails(dir / "t-00002-of-00002.gguf", {"t-00001-of-00002.gguf", "tensor a", "two parts"});
  two(1, "b", 3);
  EXPECT_EQ(GgufFile(fs::path(dir / "t-00002-of-00002.gguf")).header().tensors[1].part, 1U);
  two(0, "a", 3);
  fails(dir / "t-00001-of-00002.gguf", {"split.tensors.count", "3", "2 tensors"});
}

/// A whole small config; what a test adds comes behind and must be new.
GgufBytes small_config(const std::string& without = "") {
  GgufBytes out;
  if (without != "architecture") out.text("general.architecture", "llama");
  for (const auto& [key, value] : {std::pair{"llama.context_length", 64U},
                                   {"llama.embedding_length", 32U},
                                   {"llama.block_count", 1U},
                                   {"llama.feed_forward_length", 32U},
                                   {"llama.attention.head_count", 4U}})
    if (key != without) out.u32(key, value);
  return out.f32("llama.attention.layer_norm_rms_epsilon", 1e-5F);
}

TEST(GgufModelTest, FaultsAreNamed) {
  const TempDir dir;
  const auto fails = [&]<typename E>(E*, GgufBytes bytes,
                                     std::initializer_list<std::string_view> words,
                                     bool embedding = true) {
    if (embedding) bytes.tensor("token_embd.weight", {32, 8});
    dir.write("m.gguf", bytes.finish());
    const auto load = [&] { load_text_model(dir / "m.gguf", std::nullopt); };
    EXPECT_TRUE(throws_with<E>(load, words));
    EXPECT_TRUE(throws_with<E>(load, {"m.gguf"}));
  };
  ConfigError* config = nullptr;
  CheckpointError* checkpoint = nullptr;
  fails(config, small_config("architecture").text("general.architecture", "qwen2"),
        {"general.architecture", "qwen2", "llama"});
  fails(config, small_config("architecture"), {"general.architecture", "''"});
  fails(config, small_config().u32("llama.expert_count", 8), {"llama.expert_count", "8"});
  fails(checkpoint, small_config("llama.block_count"), {"llama.block_count", "missing"});
  fails(config, small_config("llama.block_count").u32("llama.block_count", 0),
        {"llama.block_count", "above 0"});
  fails(config, small_config().u32("llama.attention.head_count_kv", 3), {"head_count_kv", "3"});
  fails(config, small_config().u32("llama.attention.value_length", 4), {"value_length", "4"});
  fails(config, small_config().u32("llama.rope.dimension_count", 4), {"dimension_count", "4", "8"});
  fails(config, small_config().text("llama.rope.scaling.type", "longrope"),
        {"rope.scaling.type", "longrope", "yarn"});
  fails(config, small_config().f32("llama.rope.scaling.factor", 0.5F), {"scaling.factor", "0.5"});
  fails(config, small_config().u32("llama.vocab_size", 9), {"llama.vocab_size", "9", "8 rows"});
  fails(checkpoint, small_config(), {"token_embd.weight", "vocabulary alone"}, false);
  fails(checkpoint, small_config(), {"output_norm.weight", "missing"});
  fails(checkpoint, small_config().tensor("output_norm.weight", {31}),
        {"output_norm.weight", "[31]", "expected [32]"});
  fails(checkpoint, small_config().tensor("rope_freqs.weight", {5}),
        {"rope_freqs.weight", "[5]", "[4]"});
  fails(checkpoint,
        small_config()
            .tensor("output_norm.weight", {32})
            .tensor("blk.0.attn_norm.weight", {32}, {.type = 24}),
        {"blk.0.attn_norm.weight", "I8", "F32, F16"});

  // A whole model with one tensor more, and one with a scale that is no number.
  std::string bytes = read_bytes(kGoldens / "f32.gguf");
  const auto replace = [&](std::string text, const std::string& from, const std::string& to) {
    text.replace(text.find(from), from.size(), to);
    dir.write("m.gguf", text);
  };
  replace(bytes, "blk.1.attn_k.weight", "blk.9.attn_k.weight");
  EXPECT_TRUE((throws_with<CheckpointError>([&] { load_text_model(dir / "m.gguf", at::kFloat); },
                                            {"blk.1.attn_k.weight", "missing"})));
  const std::string length("\x0D\0\0\0\0\0\0\0", 8);  // not the end of attn_output.weight
  replace(bytes, length + "output.weight", length + "outpux.weight");
  EXPECT_TRUE((throws_with<CheckpointError>([&] { load_text_model(dir / "m.gguf", at::kFloat); },
                                            {"unexpected", "outpux.weight"})));
  bytes = read_bytes(kGoldens / "q8_0.gguf");
  const GgufHeader header = parse_gguf_header(bytes, "q8_0.gguf");
  for (const GgufTensor& tensor : header.tensors) {
    if (tensor.name == "blk.0.attn_v.weight") bytes[header.data_begin + tensor.begin + 1] = 0x7E;
  }
  dir.write("m.gguf", bytes);
  EXPECT_TRUE((throws_with<CheckpointError>([&] { load_text_model(dir / "m.gguf", at::kFloat); },
                                            {"blk.0.attn_v.weight", "finite"})));
}

}  // namespace
}  // namespace euromodal
