// generator_test.cpp — greedy, penalties and beams against transformers' generate() on a tiny
// random Llama (goldens/llama, goldens/generation.json); sampling, limits and callbacks.
#include "inference/generator.h"

#include <cmath>
#include <map>
#include <set>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/json.h"
#include "inference/batch_engine.h"
#include "inference/scoring.h"
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
    return generate(llama(), {prompt, {}}, options, logits, on_token);
  }
  static GenerateOptions options_of(const Json& json) {
    GenerateOptions options;
    options.stop_ids = model_->config.eos_ids;
    options.max_new_tokens = json.value("max_new_tokens", 20);
    options.beams = json.value("num_beams", 1);
    options.length_penalty = json.value("length_penalty", 1.0);
    options.repetition_penalty = json.value("repetition_penalty", 1.0);
    options.no_repeat_ngram = json.value("no_repeat_ngram_size", 0);
    for (const Json& bias : json.value("sequence_bias", Json::array()))
      options.logit_bias.emplace_back(bias[0][0].get<int64_t>(), bias[1].get<float>());
    return options;
  }
  static TextModel* model_;
  static Json* goldens_;
};
TextModel* GeneratorTest::model_ = nullptr;
Json* GeneratorTest::goldens_ = nullptr;

TEST_F(GeneratorTest, TokensMatchTransformersGreedyPenaltiesAndBeams) {
  ASSERT_EQ((*goldens_)["cases"].size(), 72U);
  for (const Json& golden : (*goldens_)["cases"]) {
    const Generated got =
        run(golden["prompt"].get<std::vector<int64_t>>(), options_of(golden["options"]));
    EXPECT_EQ(got.tokens, golden["tokens"].get<std::vector<int64_t>>())
        << golden["options"].dump() << " after " << golden["prompt"].dump();
  }
}

TEST_F(GeneratorTest, NBestBeamsAndScoresMatchTransformers) {
  ASSERT_EQ((*goldens_)["n_best"].size(), 4U);
  for (const Json& golden : (*goldens_)["n_best"]) {
    const auto want = golden["tokens"].get<std::vector<std::vector<int64_t>>>();
    const auto scores = golden["scores"].get<std::vector<double>>();
    const Generated got =
        run(golden["prompt"].get<std::vector<int64_t>>(), options_of(golden["options"]));
    ASSERT_GE(got.beams.size(), want.size());
    EXPECT_EQ(got.tokens, want[0]);
    for (size_t i = 0; i < want.size(); ++i) {
      EXPECT_EQ(got.beams[i].tokens, want[i]);
      EXPECT_NEAR(got.beams[i].score, scores[i], 1e-5);
    }
  }
}

TEST_F(GeneratorTest, LookupGivesTheSameTokensInFewerSteps) {
  int64_t tokens = 0, steps = 0;
  for (const Json& golden : (*goldens_)["cases"]) {
    GenerateOptions options = options_of(golden["options"]);
    if (options.beams > 1) continue;
    options.max_new_tokens = 40;
    for (const bool greedy : {true, false}) {
      options.greedy = greedy;
      options.temperature = 0.3;
      options.lookup = 0;
      const auto prompt = golden["prompt"].get<std::vector<int64_t>>();
      const Generated plain = run(prompt, options);
      for (const int64_t lookup : {1, 4, 10}) {
        options.lookup = lookup;
        std::vector<int64_t> streamed;
        const Generated fast =
            run(prompt, options, false, [&](int64_t id) { streamed.push_back(id); });
        EXPECT_EQ(fast.tokens, plain.tokens) << "lookup " << lookup << " " << golden.dump();
        EXPECT_EQ(streamed, plain.tokens);
        EXPECT_EQ(fast.finish, plain.finish);
        if (lookup == 4 && greedy) tokens += fast.timings.new_tokens, steps += fast.timings.steps;
      }
    }
  }
  EXPECT_LT(steps, tokens * 9 / 10);  // a tiny random model repeats itself
}

TEST_F(GeneratorTest, LogprobsAreTheModelsOwn) {
  const Json& golden = (*goldens_)["score"];
  const auto ids = golden["ids"].get<std::vector<int64_t>>();
  GenerateOptions options;
  options.max_new_tokens = 6;
  options.logprobs = 3;
  options.repetition_penalty = 2.0;  // rules do not touch what is reported
  const std::vector<int64_t> prompt(ids.begin(), ids.begin() + 5);
  const Generated got = run(prompt, options);
  ASSERT_EQ(got.logprobs.size(), got.tokens.size());
  std::vector<int64_t> all = prompt;
  all.insert(all.end(), got.tokens.begin(), got.tokens.end());
  const TextScore score = score_text(llama(), all);
  for (size_t i = 0; i < got.tokens.size(); ++i) {
    const TokenLogprob& token = got.logprobs[i];
    EXPECT_EQ(token.id, got.tokens[i]);
    EXPECT_NEAR(token.logprob, score.logprobs[prompt.size() - 1 + i], 1e-5);
    ASSERT_EQ(token.top.size(), 3U);
    EXPECT_GE(token.top[0].second, token.top[1].second);
    EXPECT_GE(token.top[0].second, token.logprob);
  }
}

TEST_F(GeneratorTest, ScoresAndEmbeddingsMatchTransformers) {
  const Json& golden = (*goldens_)["score"];
  const auto ids = golden["ids"].get<std::vector<int64_t>>();
  const TextScore score = score_text(llama(), ids);
  const auto want = golden["logprobs"].get<std::vector<double>>();
  ASSERT_EQ(score.logprobs.size(), want.size());
  double sum = 0.0;
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_NEAR(score.logprobs[i], want[i], 2e-5);
    sum += want[i];
  }
  EXPECT_NEAR(score.perplexity(), std::exp(-sum / static_cast<double>(want.size())), 1e-3);
  const auto mean = golden["mean"].get<std::vector<double>>();
  const at::Tensor embedding_D = embed_text(llama(), ids);
  for (size_t d = 0; d < mean.size(); ++d)
    EXPECT_NEAR(embedding_D[static_cast<int64_t>(d)].item<float>(), mean[d], 2e-5);
}

TEST_F(GeneratorTest, WindowsScoreEveryTokenOnceWithTheContextTheyHave) {
  std::vector<int64_t> ids = {1};
  for (int64_t i = 0; i < 99; ++i) ids.push_back(8 + (i * i + 3 * i) % 80);
  const TextScore score = score_text(llama(), ids, {.window = 40, .stride = 30});
  ASSERT_EQ(score.logprobs.size(), 99U);
  const TextScore first = score_text(llama(), {ids.begin(), ids.begin() + 40});
  const TextScore second = score_text(llama(), {ids.begin() + 30, ids.begin() + 70});
  for (size_t i = 0; i < 39; ++i) EXPECT_NEAR(score.logprobs[i], first.logprobs[i], 1e-5);
  for (size_t i = 39; i < 69; ++i) EXPECT_NEAR(score.logprobs[i], second.logprobs[i - 30], 1e-5);
  EXPECT_TRUE(throws_with<DataError>([] { (void)score_text(llama(), {1}); }, {"at least 2"}));
  EXPECT_TRUE(throws_with<ConfigError>([&] { (void)score_text(llama(), ids, {.window = 65}); },
                                       {"65", "64", "max_position"}));
}

TEST_F(GeneratorTest, BiasStopRulesAndConstraints) {
  GenerateOptions options;
  options.max_new_tokens = 10;
  options.logit_bias = {{42, 1000.0}};
  EXPECT_EQ(run({1, 9}, options).tokens, std::vector<int64_t>(10, 42));
  options.ends_text = [](std::span<const int64_t> tokens) { return tokens.size() == 3; };
  const Generated stopped = run({1, 9}, options);
  EXPECT_EQ(stopped.tokens.size(), 3U);
  EXPECT_EQ(stopped.finish, FinishReason::kStop);
  options.beams = 2;
  EXPECT_EQ(run({1, 9}, options).tokens.size(), 3U);
  options.logit_bias = {{96, 1.0}};
  EXPECT_TRUE(throws_with<DataError>([&] { (void)run({1, 9}, options); }, {"96"}));
}

TEST_F(GeneratorTest, ABatchGivesWhatEachPromptGivesAlone) {
  for (const BatchLimits limits :
       {BatchLimits{.sequences = 1, .pass_rows = 4}, BatchLimits{.sequences = 3, .pass_rows = 5},
        BatchLimits{.sequences = 8, .pass_rows = 64, .cache_tokens = 90}}) {
    BatchEngine engine(llama(), limits);
    std::map<int64_t, Generated> got;
    std::vector<Generated> want;
    for (const Json& golden : (*goldens_)["cases"]) {
      GenerateOptions options = options_of(golden["options"]);
      if (options.beams > 1) continue;
      const auto number = static_cast<int64_t>(want.size());
      options.greedy = number % 2 == 0;
      options.seed = static_cast<uint64_t>(number);
      options.logprobs = 0;
      const auto prompt = golden["prompt"].get<std::vector<int64_t>>();
      want.push_back(run(prompt, options));
      engine.add({number, prompt, options});
    }
    const auto all = static_cast<int64_t>(want.size());
    GenerateOptions none;
    none.max_new_tokens = 0;
    engine.add({all, {1, 2}, none});
    while (engine.busy())
      engine.step([&](int64_t number, Generated one) {
        EXPECT_TRUE(got.emplace(number, std::move(one)).second) << number << " came twice";
      });
    ASSERT_EQ(got.size(), want.size() + 1);
    for (int64_t i = 0; i < all; ++i) {
      EXPECT_EQ(got[i].tokens, want[static_cast<size_t>(i)].tokens) << i;
      EXPECT_EQ(got[i].finish, want[static_cast<size_t>(i)].finish);
      EXPECT_EQ(got[i].logprobs.size(), got[i].tokens.size());
    }
    EXPECT_TRUE(got[all].tokens.empty());
  }
  BatchEngine small(llama(), {.sequences = 2, .pass_rows = 8, .cache_tokens = 20});
  EXPECT_TRUE(throws_with<DataError>([&] { small.add({0, {1, 2, 3}, {}}); }, {"65", "20"}));
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
  // Also between the pieces of a prompt.
  options.prefill_rows = 1;
  options.interrupted = [] { return true; };
  const Generated nothing = run({1, 30, 40}, options);
  EXPECT_TRUE(nothing.tokens.empty());
  EXPECT_EQ(nothing.finish, FinishReason::kInterrupted);
}

}  // namespace
}  // namespace euromodal
