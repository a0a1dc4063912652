// generator_test.cpp — greedy, penalties and beams against transformers' generate() on a tiny
// random Llama (goldens/llama, goldens/generation.json); sampling, limits and callbacks.
#include "inference/generator.h"

#include <set>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/json.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

class GeneratorTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    model_ = new TextModel(load_text_model(EM_TEST_DIR "/goldens/llama", std::nullopt));
    goldens_ = new Json(read_json(EM_TEST_DIR "/goldens/generation.json"));
  }
  static void TearDownTestSuite() {
    delete model_;
    delete goldens_;
  }
  static const Llama& llama() { return *model_->llama; }
  static Generated run(const std::vector<int64_t>& prompt, GenerateOptions options,
                       bool logits = false, const std::function<void(int64_t)>& on_token = {}) {
    const auto rows = Segments::one(static_cast<int64_t>(prompt.size()));
    return generate(llama(), prompt, llama().embed(at::tensor(prompt, at::kLong), rows), options,
                    logits, on_token);
  }
  static GenerateOptions options_of(const Json& json) {
    GenerateOptions options;
    options.stop_ids = model_->config.eos_ids;
    options.max_new_tokens = json.value("max_new_tokens", 20);
    options.beams = json.value("num_beams", 1);
    options.length_penalty = json.value("length_penalty", 1.0);
    options.repetition_penalty = json.value("repetition_penalty", 1.0);
    options.no_repeat_ngram = json.value("no_repeat_ngram_size", 0);
    return options;
  }
  static TextModel* model_;
  static Json* goldens_;
};
TextModel* GeneratorTest::model_ = nullptr;
Json* GeneratorTest::goldens_ = nullptr;

TEST_F(GeneratorTest, TokensMatchTransformersGreedyPenaltiesAndBeams) {
  ASSERT_EQ((*goldens_)["cases"].size(), 54U);
  for (const Json& golden : (*goldens_)["cases"]) {
    const Generated got =
        run(golden["prompt"].get<std::vector<int64_t>>(), options_of(golden["options"]));
    EXPECT_EQ(got.tokens, golden["tokens"].get<std::vector<int64_t>>())
        << golden["options"].dump() << " after " << golden["prompt"].dump();
  }
}

TEST_F(GeneratorTest, PromptLogitsMatchTransformers) {
  const Json& golden = (*goldens_)["logits"];
  GenerateOptions options;
  options.max_new_tokens = 0;
  const Generated got = run(golden["prompt"].get<std::vector<int64_t>>(), options, true);
  EXPECT_TRUE(got.tokens.empty());
  const auto rows = golden["logits"].get<std::vector<std::vector<float>>>();
  at::Tensor want_TV = at::empty(
      {static_cast<int64_t>(rows.size()), static_cast<int64_t>(rows[0].size())}, at::kFloat);
  for (size_t t = 0; t < rows.size(); ++t) want_TV[static_cast<int64_t>(t)] = at::tensor(rows[t]);
  EXPECT_TRUE(
      testing_support::tensor_near(got.prompt_logits_TV, want_TV, {.abs = 2e-5, .rel = 1e-5}));
}

TEST_F(GeneratorTest, OneBeamIsGreedyAndTheCallbackSeesEveryToken) {
  GenerateOptions options;
  options.max_new_tokens = 12;
  std::vector<int64_t> streamed;
  const Generated got =
      run({1, 30, 40}, options, false, [&](int64_t id) { streamed.push_back(id); });
  EXPECT_EQ(got.tokens.size(), 12U);
  EXPECT_EQ(streamed, got.tokens);
  EXPECT_EQ(got.timings.prompt_tokens, 3);
  EXPECT_EQ(got.timings.new_tokens, 12);
}

TEST_F(GeneratorTest, SeedsDecideSampling) {
  GenerateOptions options;
  options.greedy = false;
  options.temperature = 1.5;
  options.max_new_tokens = 16;
  std::set<std::vector<int64_t>> all;
  for (uint64_t seed = 0; seed < 4; ++seed) {
    options.seed = seed;
    const auto first = run({1, 9, 10}, options).tokens;
    EXPECT_EQ(first, run({1, 9, 10}, options).tokens);
    all.insert(first);
  }
  EXPECT_EQ(all.size(), 4U);
  options.top_k = 1;  // one token is left: greedy
  const auto narrow = run({1, 9, 10}, options).tokens;
  options.greedy = true;
  EXPECT_EQ(narrow, run({1, 9, 10}, options).tokens);
}

TEST_F(GeneratorTest, PromptThatIsTooLongNamesBothNumbers) {
  std::vector<int64_t> prompt(65, 9);
  EXPECT_TRUE(throws_with<DataError>([&] { (void)run(prompt, {}); }, {"65", "64", "max_position"}));
  EXPECT_TRUE(
      throws_with<DataError>([] { check_prompt_length(0, model_->config); }, {"no tokens"}));
  EXPECT_TRUE(throws_with<DataError>([] { check_token_ids({1, 96}, model_->config); }, {"96"}));
  EXPECT_TRUE(throws_with<DataError>([] { check_token_ids({-1}, model_->config); }, {"-1"}));
}

TEST_F(GeneratorTest, EndsWhereThePositionsEnd) {
  std::vector<int64_t> prompt(60, 9);
  GenerateOptions options;
  options.max_new_tokens = 100;
  EXPECT_EQ(run(prompt, options).tokens.size(), 5U);  // positions 60 to 63, and what follows them
  options.beams = 2;
  EXPECT_EQ(run(prompt, options).tokens.size(), 5U);
}

TEST_F(GeneratorTest, AnInterruptEndsTheText) {
  GenerateOptions options;
  options.max_new_tokens = 30;
  int64_t asked = 0;
  options.interrupted = [&] { return ++asked > 4; };
  EXPECT_EQ(run({1, 30, 40}, options).tokens.size(), 4U);
}

}  // namespace
}  // namespace euromodal
