// frozen_memory_test.cpp — parallel.shard_frozen under mpirun: the same bits with and without it
// (LoRA, several passes, unequal ranks, resume, stages), less memory a rank by what theory says,
// and errors where nothing is frozen or frozen weights lie elsewhere.
#include "training/frozen_memory.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include "core/log.h"
#include "tests/support/program.h"
#include "tests/training/tiny_world.h"
#include "training/dry_run.h"

namespace euromodal {
namespace {

using testing::HasSubstr;

class FrozenMemoryTest : public testing::Test {
 protected:
  FrozenMemoryTest() : world_(dir_) { set_log_level(LogLevel::kError); }
  ~FrozenMemoryTest() override { set_log_level(LogLevel::kInfo); }

  /// Exit code of `train` on a file under mpirun; stderr into `log`.
  int start(int ranks, const std::filesystem::path& file,
            const std::vector<std::string>& set = {}) const {
    std::string line = fmt::format(
        "cd {} && timeout 120 {} --oversubscribe --bind-to none --allow-run-as-root -n {} {} train "
        "--config {}",
        shell_quoted(dir_.path().string()), EM_MPIRUN, ranks, EM_PROGRAM,
        shell_quoted(file.string()));
    for (const std::string& word : set)
      line += (word.starts_with("--") ? " " : " --set ") + shell_quoted(word);
    line += fmt::format(" > {} 2>&1", (dir_ / "log").string());
    const int status = std::system(line.c_str());  // NOLINT: tests
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  std::string log() const { return read_bytes(dir_ / "log"); }

  /// "adapters" for three steps; its state and losses afterwards.
  std::string train(int ranks, const std::string& run, std::vector<std::string> set,
                    bool shared) const {
    set.insert(set.end(), {"steps=3", "log_every=1",
                           fmt::format("parallel.shard_frozen={}", shared ? "true" : "false")});
    EXPECT_EQ(start(ranks, world_.config("adapters", run), set), 0) << log();
    EXPECT_EQ(log().find("shard_frozen: ranks=") != std::string::npos, shared) << log();
    std::string out = world_.state(run, 3);
    for (const Json& row : rows(run)) out += " " + row["loss"].dump();
    return out;
  }

  std::vector<Json> rows(const std::string& run) const {
    std::vector<Json> out;
    std::istringstream lines(read_bytes(world_.path(run) / "metrics.jsonl"));
    for (std::string line; std::getline(lines, line);) out.push_back(parse_json(line, "metrics"));
    return out;
  }

  /// A backbone of 20 million parameters.
  std::string big_backbone() const {
    dir_.write(
        "big.json",
        R"({"model_type": "llama", "vocab_size": 921, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 4,
      "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 4})");
    return fmt::format("{{random: {{config: {}, tokenizer: {}/configs/nano/tokenizer}}}}",
                       (dir_ / "big.json").string(), EM_SOURCE_DIR);
  }

  TempDir dir_;
  TinyWorld world_;
};

// Frozen and cast to bf16, so that none of it is in a mapped file.
const std::vector<std::string> kCast = {"objective.model.dtype=bfloat16"};
const std::vector<std::string> kLora = {
    "objective.model.backbone.lora={rank: 3, alpha: 6, dropout: 0.1, targets: [q_proj, v_proj, "
    "down_proj]}",
    "objective.model.image.encoder.lora={rank: 2, alpha: 4, targets: [fc1, out_proj]}",
    "objective.model.merge_lora=true", "trainable=[\"*.lora_*\"]",
    "optimizer=[{params: [\"*\"], type: adamw, lr: 0.02, betas: [0.9, 0.95], eps: 1.0e-8, "
    "weight_decay: 0.0}]"};

std::vector<std::string> joined(std::vector<std::string> a, const std::vector<std::string>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

TEST_F(FrozenMemoryTest, ChangesNoBitOfTheResult) {
  world_.models();
  const std::vector<std::string> fast = {"run.deterministic=false"},
                                 // Passes of one or two samples: their number differs by rank.
      passes = {"batch.max_tokens=24", "batch.samples=7"};
  struct Case {
    const char* name;
    int ranks;
    std::vector<std::string> set;
  };
  const Case cases[] = {{"mapped", 2, {}},
                        {"cast", 3, joined(kCast, passes)},
                        {"fast", 2, joined(joined(kCast, fast), passes)},
                        {"lora", 2, joined(kCast, kLora)},
                        {"four", 4, joined(joined(kCast, kLora), fast)},
                        {"alone", 1, kCast}};
  for (const Case& c : cases) {
    const std::string name = c.name;
    EXPECT_EQ(train(c.ranks, name + "_shared", c.set, true),
              train(c.ranks, name + "_whole", c.set, false))
        << name;
    for (const auto& file :
         std::filesystem::recursive_directory_iterator(world_.path(name + "_whole") / "model")) {
      if (file.path().extension() != ".safetensors") continue;
      const auto inside = std::filesystem::relative(file.path(), world_.path(name + "_whole"));
      EXPECT_EQ(hash_hex(read_bytes(world_.path(name + "_shared") / inside)),
                hash_hex(read_bytes(file.path())))
          << name << " " << inside;
    }
  }
}

TEST_F(FrozenMemoryTest, ResumesWithAndWithoutOnAnyNumberOfRanks) {
  world_.models();
  const auto set = joined(joined(kCast, kLora), {"checkpoint.every=1", "checkpoint.keep=9"});
  train(3, "whole", set, true);
  const std::string whole = world_.state("whole", 3);
  for (const bool shared : {true, false}) {
    const std::string run = shared ? "to_shared" : "to_whole";
    const std::string from = (world_.path("whole") / "checkpoints" / "step-00000001").string();
    train(2, run, joined(set, {"--resume=" + from}), shared);
    EXPECT_EQ(world_.state(run, 3), whole) << run;
  }
}

TEST_F(FrozenMemoryTest, StagesTakeTheirTurns) {
  world_.models();
  for (const bool shared : {true, false}) {
    const std::string run = shared ? "stages_shared" : "stages_whole";
    const std::string text = world_.yaml("adapters", run) +
                             "parallel: {shard_frozen: " + (shared ? "true" : "false") +
                             "}\nstages:\n"
                             "  - {name: pictures, steps: 2, trainable: [\"adapter.image.*\"]}\n"
                             "  - {name: sounds, steps: 2, trainable: [\"adapter.audio.*\"]}\n";
    const auto file = dir_ / (run + ".yaml");
    // Patterns of groups that match nothing would be errors.
    std::string one = text;
    const auto at = one.find("optimizer:"), end = one.find("schedule:");
    one.replace(at, end - at,
                "optimizer: [{params: [\"*\"], type: adamw, lr: 0.02, betas: [0.9, 0.95], eps: "
                "1.0e-8, weight_decay: 0.0}]\n");
    write_text_atomic(file, one);
    ASSERT_EQ(start(2, file, kCast), 0) << log();
  }
  for (const char* stage : {"pictures", "sounds"})
    EXPECT_EQ(world_.state(std::string("stages_shared/") + stage, 2),
              world_.state(std::string("stages_whole/") + stage, 2))
        << stage;
}

TEST_F(FrozenMemoryTest, MemoryOfARankFallsAsPredicted) {
  world_.models();
  const std::string backbone = "objective.model.backbone=" + big_backbone();
  for (const int ranks : {2, 4}) {
    const auto pss = [&](bool shared) {
      const std::string run = fmt::format("big_{}_{}", ranks, shared);
      train(ranks, run, {backbone}, shared);
      return rows(run).back()["memory_pss_mb"].get<double>();
    };
    const Json plan = dry_run(Config::load(world_.config("adapters", "planned"),
                                           {backbone, "parallel.shard_frozen=true"}),
                              ranks)["shard_frozen"];
    const double shared = plan["shared"].get<double>(),
                 saved = plan["saved_per_rank"][std::to_string(ranks)].get<double>() / (1 << 20);
    EXPECT_GT(shared, 4 * 19e6);
    EXPECT_NEAR(saved, shared / (1 << 20) * (ranks - 1) / ranks, 0.1);
    const double whole = pss(false), once = pss(true);
    EXPECT_NEAR(whole - once, saved, 0.1 * saved) << ranks << " ranks: " << whole << ", " << once;
    RecordProperty(fmt::format("pss_mb_{}_ranks", ranks), fmt::format("{} -> {}", whole, once));
    fmt::print("{} ranks: memory_pss_mb {:.1f} -> {:.1f}, predicted {:.1f} less\n", ranks, whole,
               once, saved);
  }
}

TEST_F(FrozenMemoryTest, WhatCannotBeSharedIsRefused) {
  ASSERT_EQ(start(2, world_.config("text", "full"), {"parallel.shard_frozen=true"}), 1) << log();
  EXPECT_THAT(log(), HasSubstr("shard_frozen shares what is frozen, but 'trainable' takes every "
                               "tensor"));
}

TEST(FrozenTensorsTest, MappedTrainedAndTiedTensorsAreCountedOnce) {
  const TempDir dir;
  const at::Tensor stored = at::ones({4, 8}), a = at::ones({3, 5}), b = at::ones({7});
  save_safetensors(dir / "a.safetensors", {{"m", stored}});
  const SafetensorsFile file(dir / "a.safetensors");
  const at::Tensor mapped = file.tensor(*file.find("m"));
  EXPECT_TRUE(in_mapped_file(mapped));
  EXPECT_TRUE(in_mapped_file(mapped.narrow(0, 1, 2)));
  EXPECT_FALSE(in_mapped_file(mapped.clone()));
  const FrozenTensors frozen = frozen_tensors(
      {{"m", mapped}, {"a", a}, {"tied", a}, {"view", a.detach()}, {"trained", b}, {"b", b}},
      {{"trained", b}});
  ASSERT_EQ(frozen.own.size(), 2U);
  EXPECT_EQ(frozen.own[0].name, "a");
  EXPECT_EQ(frozen.own[1].name, "view");
  EXPECT_EQ(frozen.own_bytes, 64);
  EXPECT_EQ(frozen.mapped_bytes, 4 * 8 * 4);
}

}  // namespace
}  // namespace euromodal
