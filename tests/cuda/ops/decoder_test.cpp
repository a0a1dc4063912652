// decoder_test.cpp — the device decoder on a small model: the logits of the model's own passes, the
// tokens of a replayed graph and of the same kernels without one, sequences that come and go.
#include "backbone/decoder.h"

#include <c10/core/GradMode.h>

#include "backbone/greedy.h"
#include "backbone/llama.h"
#include "inference/decoding.h"
#include "inference/sampling.h"
#include "tests/cuda/ops/gpu.h"
#include "tests/support/small_llama.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

using testing_support::tensor_near;

struct Model {
  LlamaConfig config;
  std::unique_ptr<Llama> llama;

  explicit Model(at::Device device, at::ScalarType type = at::kBFloat16) {
    config = testing_support::llama_config({1000, 256, 512, 3, 6, 2, 128, 512});
    config.rms_norm_eps = 1e-5;
    Weights weights = Weights::random(3, type);
    llama = std::make_unique<Llama>(config, weights.scope());
    at::manual_seed(4);
    for (const NamedTensor& p : weights.taken())  // what starts at zero or one, too
      p.tensor.add_(at::randn(p.tensor.sizes()).mul_(0.03).to(type));
    move_parameters(weights.taken(), device);
  }
  at::Tensor embed(const std::vector<int64_t>& ids) const {
    return llama->embed(at::tensor(ids, at::kLong),
                        Segments::one(static_cast<int64_t>(ids.size())));
  }
  /// Logits behind ids, by the model itself.
  at::Tensor logits(const std::vector<int64_t>& ids) const {
    const c10::NoGradGuard no_grad;
    const at::Tensor hidden =
        llama->forward(embed(ids), Segments::one(static_cast<int64_t>(ids.size())));
    return llama->logits(hidden.narrow(0, hidden.size(0) - 1, 1)).cpu();
  }
};

std::vector<int64_t> some_ids(int64_t count, int64_t from) {
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back((from + i * 37) % 1000);
  return ids;
}

TEST(DecoderTest, LogitsAreThoseOfTheModel) {
  EM_ON_GPU(device);
  const c10::NoGradGuard no_grad;
  struct Form {
    const char* weights;
    bool fp8_cache;
    double abs;
  };
  for (const Form& form :
       {Form{"bfloat16", false, 0.06}, Form{"bfloat16", true, 0.25}, Form{"float8", false, 0.3},
        Form{"int8", false, 0.15}, Form{"int8-g32-asym", false, 0.15}, Form{"int4", false, 1.2},
        Form{"int4-g32", false, 1.2}, Form{"int4-g32-asym", false, 1.2}}) {
    SCOPED_TRACE(fmt::format("weights {} fp8 cache {}", form.weights, form.fp8_cache));
    const Model model(device);
    std::vector<int64_t> ids = some_ids(70, 11);
    const at::Tensor before = model.logits(ids);
    const auto decoder = make_decoder(*model.llama, {.sequences = 3,
                                                     .max_positions = 256,
                                                     .weights = parse_skinny_form(form.weights),
                                                     .fp8_cache = form.fp8_cache});
    decoder->prefill(1, model.embed(ids), 200);
    // Attention over a prompt sees what is stored, be it rounded; weights in bf16.
    const double abs = form.fp8_cache ? form.abs : 0.03;
    EXPECT_TRUE(tensor_near(decoder->logits(2).narrow(0, 1, 1).cpu(), before, {abs, 0.03}));
    for (int64_t step = 0; step < 5; ++step) {
      const int64_t next = 17 * (step + 1);
      ids.push_back(next);
      decoder->give({-1, next});
      decoder->step(2);
      EXPECT_EQ(decoder->length(1), static_cast<int64_t>(ids.size()));
      EXPECT_TRUE(tensor_near(decoder->logits(2).narrow(0, 1, 1).cpu(), model.logits(ids),
                              {form.abs, 0.05}))
          << "step " << step;
    }
  }
}

std::vector<std::vector<int64_t>> drawn(Decoder& decoder, const Model& model, int64_t steps) {
  decoder.prefill(0, model.embed(some_ids(5, 1)), 100);
  decoder.prefill(1, model.embed(some_ids(64, 2)), 130);
  decoder.prefill(2, model.embed(some_ids(65, 3)), 130);
  std::vector<std::vector<int64_t>> out;
  for (int64_t s = 0; s < steps; ++s) {
    decoder.draw(3);
    decoder.step(3);
    out.push_back(decoder.tokens());
  }
  return out;
}

TEST(DecoderTest, ReplayedGraphsGiveTheSameBitsAsLaunches) {
  EM_ON_GPU(device);
  const Model model(device);
  const auto eager =
      make_decoder(*model.llama, {.sequences = 3, .max_positions = 256, .graphs = false});
  const auto graphs = make_decoder(*model.llama, {.sequences = 3, .max_positions = 256});
  EXPECT_EQ(drawn(*eager, model, 30), drawn(*graphs, model, 30));
  EXPECT_TRUE(eager->logits(3).equal(graphs->logits(3)));
}

TEST(DecoderTest, ASequenceDoesNotDependOnItsNeighbours) {
  EM_ON_GPU(device);
  const Model model(device);
  const auto together = make_decoder(*model.llama, {.sequences = 3, .max_positions = 256});
  const auto all = drawn(*together, model, 20);
  const auto alone = make_decoder(*model.llama, {.sequences = 3, .max_positions = 256});
  alone->prefill(2, model.embed(some_ids(65, 3)), 130);
  for (int64_t s = 0; s < 20; ++s) {
    alone->draw(3);
    alone->step(3);
    EXPECT_EQ(alone->tokens(), (std::vector<int64_t>{-1, -1, all[static_cast<size_t>(s)][2]})) << s;
  }
  together->release(0);  // its pages serve another
  together->prefill(0, model.embed(some_ids(65, 3)), 130);
  for (int64_t s = 0; s < 20; ++s) {
    together->draw(1);
    together->step(1);
    EXPECT_EQ(together->tokens()[0], all[static_cast<size_t>(s)][2]) << s;
  }
}

TEST(DecoderTest, StepsOfManyRowsAreThoseOfTheModel) {
  EM_ON_GPU(device);
  const Model model(device);
  const auto eight = make_decoder(*model.llama, {.sequences = 8, .max_positions = 128});
  for (int64_t slot = 0; slot < 8; ++slot)
    eight->prefill(slot, model.embed(some_ids(10 + slot, slot)), 60);
  eight->give(std::vector<int64_t>(8, 5));
  eight->step(8);
  for (const int64_t slot : {0, 7}) {
    std::vector<int64_t> ids = some_ids(10 + slot, slot);
    ids.push_back(5);
    EXPECT_TRUE(
        tensor_near(eight->logits(8).narrow(0, slot, 1).cpu(), model.logits(ids), {0.06, 0.05}))
        << slot;
  }
  const auto wide = make_decoder(*model.llama, {.sequences = 20, .max_positions = 128});
  for (int64_t slot = 0; slot < 20; ++slot)
    wide->prefill(slot, model.embed(some_ids(10 + slot, slot)), 60);
  std::vector<int64_t> next(20, 5);
  wide->give(next);
  wide->step(20);
  for (const int64_t slot : {0, 13, 19}) {
    std::vector<int64_t> ids = some_ids(10 + slot, slot);
    ids.push_back(5);
    EXPECT_TRUE(
        tensor_near(wide->logits(20).narrow(0, slot, 1).cpu(), model.logits(ids), {0.06, 0.05}))
        << slot;
  }
}

TEST(DecoderTest, PiecesAndKeptBeginningsGiveTheLogitsOfWholePrompts) {
  EM_ON_GPU(device);
  const c10::NoGradGuard no_grad;
  const Model model(device);
  const std::vector<int64_t> ids = some_ids(150, 40);
  for (const bool fp8_cache : {false, true}) {
    SCOPED_TRACE(fp8_cache);
    const double abs = fp8_cache ? 0.15 : 0.03;  // what is stored may round the other way
    const auto decoder = make_decoder(
        *model.llama,
        {.sequences = 2, .max_positions = 256, .cache_tokens = 768, .fp8_cache = fp8_cache});
    const auto pages = decoder->free_pages();
    decoder->prefill(0, model.embed(ids), 200, 512);
    const at::Tensor whole = decoder->logits(1).cpu();
    for (const int64_t piece : {7, 64, 100}) {
      decoder->prefill(1, model.embed(ids), 200, piece);
      EXPECT_TRUE(tensor_near(decoder->logits(2).narrow(0, 1, 1).cpu(), whole, {abs, 0.03}))
          << piece;
    }
    // 75 positions of it in the other slot, the second page copied; both go on.
    decoder->give({5, -1});
    decoder->step(1);
    const KvCache kept = decoder->release(0);
    EXPECT_EQ(kept.length(), 151);
    KvCache begun = kept.clone();
    begun.truncate(75);
    const at::Tensor hidden = Prefill(*model.llama, model.embed(ids), begun).last_row();
    decoder->begin(1, std::move(begun), hidden, 200);
    EXPECT_TRUE(tensor_near(decoder->logits(2).narrow(0, 1, 1).cpu(), whole, {abs, 0.03}));
    decoder->prefill(0, model.embed(ids), 200, 512);
    for (const int64_t next : {9, 30}) {
      decoder->give({next, next});
      decoder->step(2);
    }
    const at::Tensor both = decoder->logits(2).cpu();
    EXPECT_TRUE(tensor_near(both.narrow(0, 1, 1), both.narrow(0, 0, 1), {2 * abs, 0.05}));
    (void)decoder->release(0);
    (void)decoder->release(1);
    EXPECT_EQ(decoder->free_pages(), pages - 3);  // of the kept one
  }
}

TEST(DecoderTest, SaysWhatDoesNotFit) {
  EM_ON_GPU(device);
  const Model model(device);
  const auto small =
      make_decoder(*model.llama, {.sequences = 2, .max_positions = 128, .cache_tokens = 128});
  small->prefill(0, model.embed(some_ids(5, 1)), 100);
  EXPECT_THROW(small->prefill(1, model.embed(some_ids(5, 1)), 100), Error);
  EXPECT_THROW(make_decoder(*model.llama, {.sequences = 100}), Error);
}

TEST(DecoderTest, GreedyTokensAreThoseOfTheModelsOwnPasses) {
  EM_ON_GPU(device);
  const Model model(device);
  const auto decoder = make_decoder(*model.llama, {.sequences = 1, .max_positions = 256});
  const std::vector<int64_t> prompt = some_ids(40, 9);
  const auto want = greedy_decode(*model.llama, model.embed(prompt), 24, {});
  decoder->prefill(0, model.embed(prompt), 100);
  int64_t same = 0;
  std::vector<int64_t> got;
  for (int64_t s = 0; s < 24; ++s) {
    decoder->draw(1);
    decoder->step(1);
    got.push_back(decoder->tokens()[0]);
  }
  while (same < 24 && got[static_cast<size_t>(same)] == want[static_cast<size_t>(same)]) ++same;
  // Near ties of a random model may fall either way; then the texts part.
  EXPECT_GE(same, 8) << fmt::format("{} against {}", fmt::join(got, " "), fmt::join(want, " "));
}

// The tokens of the host's rules on the same logits; graphs, neighbours with rules of their own.
TEST(DecoderTest, DrawsWhatTheHostDraws) {
  EM_ON_GPU(device);
  const Model model(device);
  const auto decoder = make_decoder(*model.llama, {.sequences = 2, .max_positions = 256});
  const std::vector<int64_t> prompt = some_ids(40, 9);
  GenerateOptions options;
  options.greedy = false;
  options.temperature = 0.9;
  options.top_k = 60;
  options.top_p = 0.95;
  options.repetition_penalty = 1.2;
  options.frequency_penalty = 0.1;
  options.seed = 5;
  Sequence sequence = Sequence::of_prompt(prompt, options);
  decoder->prefill(0, model.embed(prompt), 100);
  decoder->prefill(1, model.embed(prompt), 100);
  decoder->draw_by(1,
                   {.temperature = options.temperature,
                    .top_k = options.top_k,
                    .top_p = options.top_p,
                    .repetition = options.repetition_penalty,
                    .frequency = options.frequency_penalty,
                    .seed = options.seed},
                   prompt);
  for (int64_t s = 0; s < 30; ++s) {
    const at::Tensor logits_2V = decoder->logits(2).cpu();
    const float* data = logits_2V.const_data_ptr<float>();
    std::vector<float> first(data, data + 1000), second(data + 1000, data + 2000);
    decoder->draw(2);
    decoder->step(2);
    apply_rules(second, sequence, options);
    const int64_t want = choose_token(second, options, s);
    EXPECT_EQ(decoder->tokens(), (std::vector<int64_t>{most_likely(first), want})) << s;
    sequence.append(want, options);
  }
}

TEST(DecoderTest, CpuAndGpuGiveTheSameGreedyTokens) {
  EM_ON_GPU(device);
  const Model here(at::kCPU, at::kFloat), there(device, at::kFloat);
  const std::vector<int64_t> prompt = some_ids(33, 21);
  EXPECT_EQ(greedy_decode(*here.llama, here.embed(prompt), 32, {}),
            greedy_decode(*there.llama, there.embed(prompt), 32, {}));
}

}  // namespace
}  // namespace euromodal
