// sampled_decoding_test.cpp — generate() through a decoder that draws with DeviceSampler and the
// emulated sample_token kernel gives the tokens of the host's rules, and takes logits to the host
// only for rules that the kernel does not know. The model's passes are those of the CPU.
#include <cmath>
#include <limits>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "backbone/cuda/device_sampler.h"
#include "core/error.h"
#include "inference/generator.h"
#include "tests/support/small_llama.h"

namespace euromodal {
namespace {

constexpr int64_t kVocabulary = 301, kSlots = 3;

// What GraphDecoder does with its tensors, on the CPU; a slot's keys and values in a cache of its
// own.
class EmulatedDecoder final : public Decoder {
 public:
  explicit EmulatedDecoder(const Llama& llama)
      : llama_(llama), sampler_(kSlots, kVocabulary, at::kCPU) {
    logits_SV_ = at::zeros({kSlots, kVocabulary});
    token_S_ = at::zeros({kSlots}, at::kLong);
    active_S_ = at::zeros({kSlots}, at::kInt);
    caches_.resize(kSlots);
  }

  const Llama& llama() const override { return llama_; }
  KvLayout layout() const override { return llama_.cache_layout(); }
  KvCache make_cache() override { return llama_.make_cache(); }
  int64_t free_pages() const override { return 1000; }
  void begin(int64_t slot, KvCache cache, const at::Tensor& hidden_1D,
             int64_t /*longest*/) override {
    sampler_.clear(slot);
    caches_[static_cast<size_t>(slot)] = std::move(cache);
    logits_SV_.narrow(0, slot, 1).copy_(llama_.logits(hidden_1D));
    active_S_[slot].fill_(1);
  }
  KvCache release(int64_t slot) override {
    auto& held = caches_[static_cast<size_t>(slot)];
    KvCache out = held ? std::move(*held) : make_cache();
    held.reset();
    active_S_[slot].fill_(0);
    return out;
  }
  void draw_by(int64_t slot, const SampleParams& rules,
               const std::vector<int64_t>& prompt) override {
    sampler_.set(slot, rules, prompt);
  }
  void draw(int64_t count) override {
    ++draws;
    sampler_.draw(count, logits_SV_, active_S_, token_S_, nullptr);
    count_ = count;
  }
  std::vector<int64_t> tokens() override {
    const int64_t* data = token_S_.const_data_ptr<int64_t>();
    return {data, data + count_};
  }
  void give(const std::vector<int64_t>& tokens) override {
    for (size_t s = 0; s < tokens.size(); ++s) token_S_[static_cast<int64_t>(s)].fill_(tokens[s]);
  }
  void step(int64_t count) override {
    // draw() has read the logits; tokens() still gives what it drew.
    for (int64_t slot = 0; slot < count; ++slot)
      if (caches_[static_cast<size_t>(slot)])
        run(slot, llama_.embed(token_S_.narrow(0, slot, 1).clone(), Segments::one(1)));
  }
  at::Tensor logits(int64_t count) const override {
    ++fetched;
    return logits_SV_.narrow(0, 0, count);
  }
  int64_t length(int64_t slot) const override {
    const auto& cache = caches_[static_cast<size_t>(slot)];
    return cache ? cache->length() : 0;
  }
  int64_t weight_bytes() const override { return 1; }
  int64_t cache_bytes() const override { return 1; }

  const at::Tensor& logprob_S() const { return sampler_.logprob_S(); }
  at::Tensor& logits_SV() { return logits_SV_; }

  int64_t draws = 0;
  mutable int64_t fetched = 0;

 private:
  void run(int64_t slot, const at::Tensor& emb_TD) {
    const at::Tensor hidden_TD = llama_.forward_cached(emb_TD, *caches_[static_cast<size_t>(slot)]);
    logits_SV_.narrow(0, slot, 1)
        .copy_(llama_.logits(hidden_TD.narrow(0, hidden_TD.size(0) - 1, 1)));
  }

  const Llama& llama_;
  DeviceSampler sampler_;
  at::Tensor logits_SV_, token_S_, active_S_;
  std::vector<std::optional<KvCache>> caches_;
  int64_t count_ = 0;
};

TextModel& model() {
  static TextModel made =
      testing_support::small_llama({kVocabulary, 32, 64, 2, 4, 2, 8, 256}, {.scale = 0.3});
  return made;
}

const std::vector<int64_t> kPrompt = {5, 17, 5, 300, 42, 17, 5};

GenerateOptions sampled(double temperature, uint64_t seed) {
  GenerateOptions options;
  options.max_new_tokens = 24;
  options.greedy = false;
  options.temperature = temperature;
  options.seed = seed;
  return options;
}

std::vector<GenerateOptions> cases() {
  std::vector<GenerateOptions> out;
  for (uint64_t seed = 1; seed <= 2; ++seed) {
    out.push_back(sampled(1.0, seed));
    out.push_back(sampled(0.7, seed));
    out.back().top_k = 20;
    out.push_back(sampled(1.4, seed));
    out.back().top_p = 0.8;
    out.push_back(sampled(1.0, seed));
    out.back().min_p = 0.05;
    out.push_back(sampled(0.9, seed));
    out.back().top_k = 50;
    out.back().top_p = 0.95;
    out.back().min_p = 0.01;
    out.back().repetition_penalty = 1.3;
    out.back().presence_penalty = 0.4;
    out.back().frequency_penalty = 0.2;
  }
  GenerateOptions greedy;
  greedy.max_new_tokens = 24;
  out.push_back(greedy);
  greedy.repetition_penalty = 1.5;
  greedy.frequency_penalty = 0.3;
  out.push_back(greedy);
  return out;
}

TEST(SampledDecodingTest, TokensAreThoseOfTheHostsRules) {
  const auto decoder = std::make_shared<EmulatedDecoder>(*model().llama);
  std::set<std::vector<int64_t>> texts;
  for (GenerateOptions options : cases()) {
    const Generated want = generate(*model().llama, {kPrompt}, options);
    options.decoder = decoder;
    const Generated got = generate(*model().llama, {kPrompt}, options);
    EXPECT_EQ(got.tokens, want.tokens)
        << fmt::format("seed {} temperature {} top-k {} top-p {} min-p {} repetition {}",
                       options.seed, options.temperature, options.top_k, options.top_p,
                       options.min_p, options.repetition_penalty);
    EXPECT_EQ(got.tokens.size(), 24U);
    texts.insert(got.tokens);
  }
  EXPECT_GT(texts.size(), 8U);  // the rules and seeds do matter
  EXPECT_EQ(decoder->fetched, 0);
  EXPECT_EQ(decoder->draws, 24 * static_cast<int64_t>(cases().size()));
}

TEST(SampledDecodingTest, RulesThatTheKernelDoesNotKnowStayOnTheHost) {
  std::vector<GenerateOptions> all(4, sampled(1.0, 9));
  all[0].typical_p = 0.9;
  all[1].no_repeat_ngram = 2;
  all[2].logit_bias = {{7, 4.0}};
  all[3].logprobs = 2;
  for (GenerateOptions options : all) {
    const Generated want = generate(*model().llama, {kPrompt}, options);
    const auto decoder = std::make_shared<EmulatedDecoder>(*model().llama);
    options.decoder = decoder;
    EXPECT_EQ(generate(*model().llama, {kPrompt}, options).tokens, want.tokens);
    EXPECT_EQ(decoder->draws, 0);
    EXPECT_EQ(decoder->fetched, 24);
  }
}

// The prompt of media: its placeholders lie outside the vocabulary, and count for nothing.
TEST(SampledDecodingTest, PlaceholdersCountForNothing) {
  const c10::NoGradGuard no_grad;
  GenerateOptions options = sampled(0.8, 3);
  options.repetition_penalty = 1.4;
  Prompt prompt{kPrompt};
  prompt.emb_TD = model().llama->embed(at::tensor(kPrompt, at::kLong), Segments::one(7));
  prompt.ids[2] = kVocabulary + 12;
  prompt.ids[3] = -1;
  const Generated want = generate(*model().llama, prompt, options);
  options.decoder = std::make_shared<EmulatedDecoder>(*model().llama);
  EXPECT_EQ(generate(*model().llama, prompt, options).tokens, want.tokens);
}

TEST(SampledDecodingTest, SlotsKeepTheirOwnRulesAndDraws) {
  const c10::NoGradGuard no_grad;
  const auto embed = [](const std::vector<int64_t>& ids) {
    return model().llama->embed(at::tensor(ids, at::kLong),
                                Segments::one(static_cast<int64_t>(ids.size())));
  };
  EmulatedDecoder decoder(*model().llama);
  for (const int64_t slot : {0, 2}) decoder.prefill(slot, embed(kPrompt), 64);
  decoder.draw_by(2, {.temperature = 1.0, .top_p = 0.9, .presence = 0.5, .seed = 6}, kPrompt);
  std::vector<int64_t> greedy, drawn;
  for (int64_t i = 0; i < 10; ++i) {
    decoder.draw(3);
    greedy.push_back(decoder.tokens()[0]);
    drawn.push_back(decoder.tokens()[2]);
    EXPECT_EQ(decoder.tokens()[1], 0);  // empty: left alone
    decoder.step(3);
  }
  GenerateOptions options = sampled(1.0, 6);
  options.max_new_tokens = 10;
  options.top_p = 0.9;
  options.presence_penalty = 0.5;
  EXPECT_EQ(drawn, generate(*model().llama, {kPrompt}, options).tokens);
  options = {};
  options.max_new_tokens = 10;
  EXPECT_EQ(greedy, generate(*model().llama, {kPrompt}, options).tokens);

  decoder.prefill(2, embed(kPrompt), 64);  // back to the most likely token
  decoder.draw(3);
  EXPECT_EQ(decoder.tokens()[2], greedy[0]);
}

TEST(SampledDecodingTest, LogitsThatAreNotFiniteShowInTheLogProbability) {
  const c10::NoGradGuard no_grad;
  EmulatedDecoder decoder(*model().llama);
  decoder.prefill(0, model().llama->embed(at::tensor(kPrompt, at::kLong), Segments::one(7)), 64);
  decoder.draw_by(0, {.temperature = 1.0, .top_k = 5, .seed = 1}, {});
  decoder.draw(1);
  EXPECT_TRUE(std::isfinite(decoder.logprob_S()[0].item<float>()));
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    decoder.logits_SV()[0][33].fill_(bad);
    decoder.draw(1);
    EXPECT_FALSE(std::isfinite(decoder.logprob_S()[0].item<float>()));
  }
}

}  // namespace
}  // namespace euromodal
