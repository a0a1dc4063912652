// lora_test.cpp — LoRA on a backbone: what PEFT computes (goldens/peft of make_lora_goldens.py),
// its folders in and out, which linears a config takes, merging, and every fault named.
#include "backbone/lora.h"

#include <cmath>

#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "backbone/llama.h"
#include "backbone/peft_folder.h"
#include "core/files.h"
#include "tests/support/gradcheck.h"
#include "tests/support/small_llama.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;

const fs::path kGoldens = fs::path(EM_TEST_DIR) / "goldens";

/// The Llama of goldens/gqa2_theta1e6.
struct Base {
  at::Tensor ids_T;
  std::unique_ptr<Llama> llama;
  std::vector<NamedTensor> parameters;

  explicit Base(at::ScalarType dtype = at::kFloat) {
    const SafetensorsFile file(kGoldens / "gqa2_theta1e6.safetensors");
    const Json json = read_json(kGoldens / "gqa2_theta1e6.json");
    std::vector<NamedTensor> weights;
    for (const TensorInfo& info : file.infos()) {
      if (info.name.starts_with("weights."))
        weights.push_back({info.name.substr(8), file.tensor(info).clone()});
    }
    ids_T = file.tensor(*file.find("ids")).clone();
    Weights map = Weights::from_tensors(std::move(weights), dtype, "golden");
    llama = std::make_unique<Llama>(LlamaConfig::from_json({json, "golden"}), map.scope());
    map.finish();
    parameters = map.taken();
  }
  const std::vector<Linear>& linears() const { return llama->linears(); }
  at::Tensor logits(const DropoutKeys& dropout = {}) const {
    const c10::NoGradGuard no_grad;
    const Segments rows = Segments::one(ids_T.size(0));
    return llama->logits(llama->forward(llama->embed(ids_T, rows), rows, dropout));
  }
  std::vector<std::string> wrapped() const {
    std::vector<std::string> out;
    for (const Linear& linear : linears()) {
      if (linear.lora() != nullptr) out.push_back(linear.name());
    }
    return out;
  }
  /// A and B drawn: what a trained LoRA looks like.
  void draw() const {
    uint64_t seed = 40;
    for (const NamedTensor& p : lora_parameters(linears()))
      at::Tensor(p.tensor).copy_(randn(p.tensor.sizes(), seed++) * 0.2);
  }
};

void add(const Base& base, const std::string& yaml, uint64_t seed = 1) {
  const Config config = Config::parse("lora: " + yaml);
  add_lora(base.linears(), LoraConfig::parse(config.child("lora")), seed, "backbone");
  config.finish();
}

at::Tensor golden_logits(const std::string& name) {
  const SafetensorsFile file(kGoldens / "peft" / (name + ".safetensors"));
  return file.tensor(*file.find("logits")).clone();
}

class PeftGoldenTest : public testing::TestWithParam<const char*> {};

TEST_P(PeftGoldenTest, LogitsAreThoseOfPeftMergedOrNot) {
  const Base base;
  const at::Tensor plain = base.logits();
  load_peft(kGoldens / "peft" / GetParam(), base.linears());
  const at::Tensor want = golden_logits(GetParam());
  EXPECT_TRUE(tensor_near(base.logits(), want, {.abs = 2e-5, .rel = 2e-5}));
  EXPECT_FALSE(tensor_near(plain, want, {.abs = 1e-2, .rel = 1e-2}));  // it matters
  merge_lora(base.linears());
  EXPECT_FALSE(has_lora(base.linears()));
  EXPECT_TRUE(tensor_near(base.logits(), want, {.abs = 5e-5, .rel = 5e-5}));
}

TEST_P(PeftGoldenTest, SavedAndLoadedAgainGivesTheSameBits) {
  const TempDir dir;
  const Base base, again;
  load_peft(kGoldens / "peft" / GetParam(), base.linears());
  save_peft(dir / "lora", base.linears(), PeftTask::kCausalLm);
  load_peft(dir / "lora", again.linears());
  EXPECT_EQ(base.wrapped(), again.wrapped());
  EXPECT_TRUE(same_bits(base.logits(), again.logits()));
  for (size_t i = 0; i < base.linears().size(); ++i) {
    const Lora *a = base.linears()[i].lora(), *b = again.linears()[i].lora();
    if (a == nullptr) continue;
    EXPECT_EQ(a->scale(), b->scale());
    EXPECT_EQ(a->dropout, b->dropout);
  }
}

INSTANTIATE_TEST_SUITE_P(Folders, PeftGoldenTest,
                         testing::Values("plain", "patterns", "head", "bare"));

TEST(PeftFolderTest, RanksAndScalesFollowThePatterns) {
  const Base base;
  load_peft(kGoldens / "peft/patterns", base.linears());
  const auto lora = [&](const std::string& end) -> const Lora& {
    for (const Linear& linear : base.linears()) {
      if (linear.name() == "model.layers.1." + end && linear.lora() != nullptr)
        return *linear.lora();
    }
    throw Error("{} has no LoRA", end);
  };
  EXPECT_EQ(lora("self_attn.q_proj").scale(), 8 / std::sqrt(4.0));
  EXPECT_EQ(lora("self_attn.k_proj").scale(), 5 / std::sqrt(4.0));
  EXPECT_EQ(lora("self_attn.o_proj").rank(), 2);
  EXPECT_EQ(lora("self_attn.o_proj").scale(), 3 / std::sqrt(2.0));
  EXPECT_EQ(lora("mlp.up_proj").rank(), 6);
  EXPECT_EQ(base.wrapped().size(), 5U);
}

TEST(PeftFolderTest, WritesWhatPeftReads) {
  const TempDir dir;
  const Base base;
  add(base,
      "{dropout: 0.05, rslora: true, groups: [{rank: 4, alpha: 8, targets: [q_proj, v_proj]}, "
      "{rank: 2, alpha: 6, targets: [down_proj], layers: [1, 1]}]}");
  save_peft(dir / "lora", base.linears(), PeftTask::kCausalLm);
  const Json config = read_json(dir / "lora/adapter_config.json");
  EXPECT_EQ(config["peft_type"], "LORA");
  EXPECT_EQ(config["task_type"], "CAUSAL_LM");
  EXPECT_EQ(config["r"], 4);
  EXPECT_EQ(config["lora_alpha"].dump(), "8");
  EXPECT_EQ(config["use_rslora"], true);
  EXPECT_EQ(config["lora_dropout"], 0.05);
  EXPECT_EQ(config["target_modules"],
            Json::parse(R"(["model.layers.1.mlp.down_proj", "q_proj", "v_proj"])"));
  EXPECT_EQ(config["rank_pattern"].dump(), R"({"^model\\.layers\\.1\\.mlp\\.down_proj":2})");
  EXPECT_EQ(config["alpha_pattern"].dump(), R"({"^model\\.layers\\.1\\.mlp\\.down_proj":6})");
  const SafetensorsFile file(dir / "lora/adapter_model.safetensors");
  EXPECT_EQ(file.infos().size(), 10U);
  const TensorInfo* b = file.find("base_model.model.model.layers.1.mlp.down_proj.lora_B.weight");
  ASSERT_NE(b, nullptr);
  EXPECT_THAT(b->shape, ElementsAre(24, 2));
  // Of an encoder the whole names: its tower may stand beside another in somebody's model.
  save_peft(dir / "encoder", base.linears(), PeftTask::kEncoder);
  EXPECT_EQ(read_json(dir / "encoder/adapter_config.json")["target_modules"].size(), 5U);
}

TEST(PeftFolderTest, NamesWhatIsNoPlainLora) {
  const TempDir dir;
  const std::string config = read_bytes(kGoldens / "peft/plain/adapter_config.json");
  const std::string tensors = read_bytes(kGoldens / "peft/plain/adapter_model.safetensors");
  const auto load = [&] { load_peft(dir / "lora", Base().linears()); };
  const auto fails = [&](const std::string& key, const Json& value,
                         std::initializer_list<std::string_view> words) {
    Json changed = Json::parse(config);
    changed[key] = value;
    dir.write("lora/adapter_config.json", changed.dump());
    return throws_with<ConfigError>(load, words);
  };
  EXPECT_TRUE((throws_with<CheckpointError>(load, {"lora", "adapter_config.json"})));
  dir.write("lora/adapter_config.json", config);
  EXPECT_TRUE((throws_with<CheckpointError>(load, {"adapter_model.safetensors"})));
  dir.write("lora/adapter_model.safetensors", tensors);
  EXPECT_NO_THROW(load());
  EXPECT_TRUE(fails("peft_type", "IA3", {"adapter_config.json", "peft_type", "IA3"}));
  EXPECT_TRUE(fails("use_dora", true, {"use_dora", "DoRA", "merge_and_unload"}));
  EXPECT_TRUE(fails("modules_to_save", {"lm_head"}, {"modules_to_save", "lm_head"}));
  EXPECT_TRUE(fails("bias", "lora_only", {"bias", "lora_only"}));
  EXPECT_TRUE(fails("init_lora_weights", "pissa_niter_4", {"init_lora_weights", "pissa"}));
  EXPECT_TRUE(fails("fan_in_fan_out", true, {"fan_in_fan_out"}));
  EXPECT_TRUE(fails("a_key_of_tomorrow", 3, {"a_key_of_tomorrow"}));
  EXPECT_TRUE(fails("alpha_pattern", {{"q_proj(", 3}}, {"alpha_pattern", "q_proj("}));
  dir.write("lora/adapter_config.json", config);
  const auto with = [&](const std::vector<NamedTensor>& list) {
    save_safetensors(dir / "lora/adapter_model.safetensors", list);
  };
  const std::string q = "base_model.model.model.layers.0.self_attn.q_proj.";
  const NamedTensor a{q + "lora_A.weight", at::zeros({2, 24})};
  with({a});
  EXPECT_TRUE((throws_with<CheckpointError>(load, {"layers.0.self_attn.q_proj", "lora_B"})));
  with({a, {q + "lora_B.weight", at::zeros({24, 3})}});
  EXPECT_TRUE((throws_with<CheckpointError>(load, {"q_proj", "[24, 3]"})));
  with({a, {q + "lora_magnitude_vector", at::zeros({24})}});
  EXPECT_TRUE((throws_with<CheckpointError>(load, {"lora_magnitude_vector"})));
  with({{"base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight", at::zeros({2, 24})},
        {"base_model.model.model.layers.7.self_attn.q_proj.lora_B.weight", at::zeros({24, 2})}});
  EXPECT_TRUE((throws_with<CheckpointError>(load, {"layers.7.self_attn.q_proj", "none"})));
}

TEST(PeftFolderTest, ASavedBaseLayerMustBeTheModelsOwn) {
  const Base other;
  for (const NamedTensor& p : other.parameters)
    if (p.name == "lm_head.weight") at::Tensor(p.tensor).mul_(1.5);
  EXPECT_TRUE((throws_with<CheckpointError>(
      [&] { load_peft(kGoldens / "peft/head", other.linears()); }, {"lm_head", "base_layer"})));
}

TEST(LoraTest, TargetsLayersAndGroupsTakeWhatTheyName) {
  const Base named, glob, layers;
  add(named, "{rank: 2, alpha: 4, targets: [q_proj, mlp.down_proj]}");
  EXPECT_THAT(named.wrapped(),
              ElementsAre("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj",
                          "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.down_proj"));
  add(glob, "{rank: 2, alpha: 4, targets: [\"*.1.*_proj\"]}");
  EXPECT_EQ(glob.wrapped().size(), 7U);
  add(layers,
      "{groups: [{rank: 2, alpha: 4, targets: [q_proj], layers: [1, 1]}, {rank: 3, alpha: 3, "
      "targets: [\"*\"]}]}");
  EXPECT_EQ(layers.wrapped().size(), 14U);
  for (const Linear& linear : layers.linears()) {
    if (linear.name() == "lm_head") continue;  // no wildcard takes the head
    const bool first = linear.name() == "model.layers.1.self_attn.q_proj";
    EXPECT_EQ(linear.lora()->rank(), first ? 2 : 3) << linear.name();
    EXPECT_EQ(linear.lora()->scale(), first ? 2.0 : 1.0) << linear.name();
  }
}

TEST(LoraTest, TheHeadIsTakenByItsNameAndOnlyWhereItIsNoTable) {
  const Base head;
  add(head, "{rank: 2, alpha: 4, targets: [lm_head]}");
  EXPECT_THAT(head.wrapped(), ElementsAre("lm_head"));
  const at::Tensor plain = Base().logits();
  EXPECT_TRUE(tensor_near(head.logits(), plain, {1e-6, 1e-6}));
  head.draw();
  const at::Tensor with = head.logits();
  EXPECT_FALSE(tensor_near(with, plain, {1e-2, 1e-2}));
  merge_lora(head.linears());
  EXPECT_TRUE(tensor_near(head.logits(), with, {1e-4, 1e-4}));
  LlamaConfig tied = testing_support::llama_config({11, 8, 12, 1, 2, 1, 4, 16});
  tied.tie_embeddings = true;
  const TextModel table = random_text_model(tied, 1);
  const Config config = Config::parse("lora: {rank: 2, alpha: 4, targets: [lm_head]}");
  EXPECT_TRUE((throws_with<ConfigError>(
      [&] { configure_lora(config, table.llama->linears(), 1, "backbone"); },
      {"lm_head", "embedding table"})));
}

TEST(LoraTest, StartsAsTheModelWasAndFromTheSeedAlone) {
  const Base base, same, other;
  const at::Tensor plain = base.logits();
  const std::string yaml = "{rank: 4, alpha: 8, targets: [\"*\"]}";
  add(base, yaml);
  add(same, "{rank: 4, alpha: 8, targets: [q_proj, \"*\"]}");
  add(other, yaml, 2);
  EXPECT_TRUE(tensor_near(base.logits(), plain, {.abs = 1e-6, .rel = 1e-6}));
  const auto a = lora_parameters(base.linears()), b = lora_parameters(same.linears()),
             c = lora_parameters(other.linears());
  ASSERT_EQ(a.size(), 28U);
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].name, b[i].name);
    EXPECT_TRUE(same_bits(a[i].tensor, b[i].tensor));
    const bool is_a = a[i].name.ends_with("lora_A.weight");
    EXPECT_NE(tensor_equal(a[i].tensor, c[i].tensor), is_a) << a[i].name;
    if (!is_a) continue;
    // uniform in ±1/sqrt(inputs): its deviation is that over sqrt(3)
    const double bound = 1.0 / std::sqrt(static_cast<double>(a[i].tensor.size(1)));
    EXPECT_LE(a[i].tensor.abs().max().item<double>(), bound);
    EXPECT_NEAR(a[i].tensor.square().mean().sqrt().item<double>(), bound / std::sqrt(3.0),
                0.15 * bound);
  }
}

TEST(LoraTest, PackedEqualsOneByOneBitForBitWithDropout) {
  const auto gradients = [](bool packed) {
    const Base base;
    add(base, "{rank: 4, alpha: 8, dropout: 0.2, targets: [\"*\"]}");
    base.draw();
    std::vector<NamedTensor> parameters = lora_parameters(base.linears());
    for (NamedTensor& p : parameters) p.tensor.requires_grad_(true);
    const std::vector<int64_t> lengths = {17, 1, 32};
    const Segments all = Segments::from_lengths(lengths, /*per_sample=*/true);
    const at::Tensor dy_TD = randn({50, 24}, 3);
    std::vector<at::Tensor> out;
    const auto run = [&](const Segments& rows, int64_t begin, const DropoutKeys& keys) {
      const at::Tensor ids_T = base.ids_T.narrow(0, begin, rows.rows());
      const at::Tensor h_TD = base.llama->forward(base.llama->embed(ids_T, rows), rows, keys);
      h_TD.backward(dy_TD.narrow(0, begin, rows.rows()).contiguous());
      out.push_back(h_TD.detach());
    };
    if (packed) {
      run(all, 0, {5, 6, 7});
    } else {
      for (int64_t s = 0; s < 3; ++s)
        run(Segments::from_lengths({all.length(s)}, true), all.begin(s),
            {5 + static_cast<uint64_t>(s)});
    }
    out = {at::cat(out)};
    for (const NamedTensor& p : parameters) out.push_back(p.tensor.grad());
    return out;
  };
  const auto whole = gradients(true), single = gradients(false);
  for (size_t i = 0; i < whole.size(); ++i) EXPECT_TRUE(same_bits(whole[i], single[i])) << i;
}

TEST(LoraTest, DropoutIsForKeysOnly) {
  const Base base;
  add(base, "{rank: 4, alpha: 8, dropout: 0.5, targets: [\"*\"]}");
  base.draw();
  const at::Tensor plain = base.logits();
  EXPECT_FALSE(tensor_near(base.logits({9}), plain, {1e-2, 1e-2}));
  EXPECT_TRUE(same_bits(base.logits(), plain));
}

TEST(LoraTest, MergingRoundsOnceAndMergedWeightsComeBack) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const Base base(dtype);
    add(base, "{rank: 4, alpha: 6, targets: [q_proj]}");
    base.draw();
    const Linear q = base.linears().front();
    const at::Tensor before = q.weight_OI().clone();
    const at::Tensor want = (before.to(at::kFloat) +
                             1.5 * q.lora()->b_OR.to(at::kFloat).mm(q.lora()->a_RI.to(at::kFloat)))
                                .to(dtype);
    {
      const MergedWeights merged(base.linears());
      EXPECT_TRUE(tensor_near(q.weight_OI(), want));
    }
    EXPECT_TRUE(same_bits(q.weight_OI(), before));
    EXPECT_NE(q.lora(), nullptr);
    merge_lora(base.linears());
    EXPECT_TRUE(tensor_near(q.weight_OI(), want));
    EXPECT_EQ(q.lora(), nullptr);
  }
}

TEST(LoraTest, NamesWhatIsWrongInTheYaml) {
  const auto fails = [](const std::string& yaml, std::initializer_list<std::string_view> words) {
    return throws_with<ConfigError>([&] { add(Base(), yaml); }, words);
  };
  EXPECT_TRUE(fails("{rank: 0, alpha: 1, targets: [q_proj]}", {"lora.rank", "0"}));
  EXPECT_TRUE(fails("{rank: 2, alpha: 0, targets: [q_proj]}", {"lora.alpha", "0"}));
  EXPECT_TRUE(fails("{rank: 2, alpha: 1, targets: []}", {"lora.targets"}));
  EXPECT_TRUE(fails("{alpha: 1, targets: [q_proj]}", {"lora.rank", "missing"}));
  EXPECT_TRUE(fails("{rank: 2, alpha: 1, dropout: 1.0, targets: [q_proj]}", {"lora.dropout", "1"}));
  EXPECT_TRUE(
      fails("{rank: 2, alpha: 1, targets: [q_proj, query]}", {"\"query\"", "q_proj", "no linear"}));
  EXPECT_TRUE(fails("{rank: 2, alpha: 1, targets: [proj]}", {"\"proj\""}));  // no end of a name
  EXPECT_TRUE(fails("{rank: 2, alpha: 1, targets: [q_proj], layers: [2, 5]}",
                    {"\"q_proj\"", "in these layers"}));
  EXPECT_TRUE(fails("{rank: 2, alpha: 1, targets: [q_proj], layers: [1, 0]}", {"lora.layers"}));
  EXPECT_TRUE(fails("{groups: []}", {"lora.groups"}));
  EXPECT_TRUE(fails(fmt::format("{{peft: {}, rank: 2}}", (kGoldens / "peft/plain").string()),
                    {"lora.rank", "unknown key"}));
  EXPECT_TRUE((throws_with<Error>(
      [] {
        const Base base;
        add(base, "{rank: 2, alpha: 1, targets: [q_proj]}");
        add(base, "{rank: 2, alpha: 1, targets: [q_proj]}");
      },
      {"q_proj", "already"})));
}

}  // namespace
}  // namespace euromodal
