// slot_decoder_test.cpp — the device decoder without its graphs, on the host over the emulated
// kernels: its steps beside the model's own passes, prompts in pieces and whole, beginnings that
// are read again from kept pages and fresh, pages shared, copied and given back.
#include "backbone/cuda/slot_decoder.h"

#include <algorithm>
#include <array>
#include <map>
#include <stdexcept>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "backbone/device_model.h"
#include "backbone/packed_model.h"
#include "core/error.h"
#include "inference/batch_engine.h"
#include "inference/generator.h"
#include "inference/kept_sequences.h"
#include "tests/support/small_llama.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

using testing_support::tensor_near;

constexpr int64_t kVocabulary = 301, kPositions = 512;

struct Model {
  TextModel text;
  /// A cache of float8 goes with heads of 128 numbers.
  explicit Model(bool fp8_cache = false)
      : text(testing_support::small_llama(
            {kVocabulary, 64, 96, 2, 2, 1, fp8_cache ? 128 : 64, kPositions}, {.scale = 0.2})) {
    for (const NamedTensor& p : text.parameters) p.tensor.set_data(p.tensor.to(at::kBFloat16));
  }
  const Llama& llama() const { return *text.llama; }
  at::Tensor embed(const std::vector<int64_t>& ids) const {
    return llama().embed(at::tensor(ids, at::kLong),
                         Segments::one(static_cast<int64_t>(ids.size())));
  }
  at::Tensor logits(const std::vector<int64_t>& ids) const {
    const at::Tensor hidden =
        llama().forward(embed(ids), Segments::one(static_cast<int64_t>(ids.size())));
    return llama().logits(hidden.narrow(0, hidden.size(0) - 1, 1));
  }
};

std::shared_ptr<SlotDecoder> decoder_of(const Llama& llama, DecoderOptions options = {}) {
  return std::make_shared<SlotDecoder>(
      llama, options, Launches{.stream = [] { return cudaStream_t{}; }, .multiprocessors = 3});
}

std::vector<int64_t> some_ids(int64_t count, int64_t from) {
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back((from + i * 37 + i * i) % kVocabulary);
  return ids;
}

/// How many tokens are those of `want`, which has the log-probabilities of the best: all, or up to
/// a choice between two that are equal but for `tie`. What is read in other pieces is rounded in
/// other places, in float8 to steps of a sixteenth.
int64_t same_tokens(const std::vector<int64_t>& got, const Generated& want, double tie) {
  EXPECT_EQ(got.size(), want.tokens.size());
  const auto parted = std::mismatch(got.begin(), got.end(), want.tokens.begin(), want.tokens.end());
  const auto same = parted.first - got.begin();
  if (parted.first == got.end()) return same;
  const TokenLogprob& chosen = want.logprobs.at(static_cast<size_t>(same));
  const auto other = std::find_if(chosen.top.begin(), chosen.top.end(),
                                  [&](const auto& one) { return one.first == *parted.first; });
  EXPECT_TRUE(other != chosen.top.end() && chosen.logprob - other->second < tie)
      << "token " << same << ": " << *parted.first << " in place of " << chosen.id;
  return same;
}

TEST(SlotDecoderTest, StepsAreThoseOfTheModel) {
  const c10::NoGradGuard no_grad;
  struct Form {
    const char* weights;
    bool fp8_cache;
    double abs;
  };
  for (const Form& form :
       {Form{"bfloat16", false, 0.05}, Form{"bfloat16", true, 0.3}, Form{"float8", false, 0.4},
        Form{"int8-g32", false, 0.1}, Form{"int4-g32-asym", false, 1.0}}) {
    SCOPED_TRACE(form.weights);
    const Model model(form.fp8_cache);
    std::vector<int64_t> ids = some_ids(70, 11);
    const at::Tensor before = model.logits(ids);
    const auto decoder = decoder_of(model.llama(), {.sequences = 2,
                                                    .max_positions = 256,
                                                    .weights = parse_skinny_form(form.weights),
                                                    .fp8_cache = form.fp8_cache});
    decoder->prefill(1, model.embed(ids), 100);
    EXPECT_TRUE(tensor_near(decoder->logits(2).narrow(0, 1, 1), before,
                            {form.fp8_cache ? form.abs : 0.05, 0.03}));
    for (const int64_t next : {5, 120, 33}) {
      ids.push_back(next);
      decoder->give({-1, next});
      decoder->step(2);
      EXPECT_EQ(decoder->length(1), static_cast<int64_t>(ids.size()));
      EXPECT_TRUE(
          tensor_near(decoder->logits(2).narrow(0, 1, 1), model.logits(ids), {form.abs, 0.05}));
    }
    EXPECT_EQ(decoder->length(0), 0);
  }
}

// A model that lies in codes: prompts through widened weights, steps through the codes.
TEST(SlotDecoderTest, ModelsInCodesDecodeAsTheirNumbers) {
  const c10::NoGradGuard no_grad;
  for (const char* word : {"int8-g32", "int4-asym"}) {
    SCOPED_TRACE(word);
    const Model model;
    pack_weights(model.llama(), parse_packed_form(word));
    use_device_codes(model.llama(), at::kCPU);
    std::vector<int64_t> ids = some_ids(20, 3);
    const auto decoder = decoder_of(model.llama(), {.max_positions = 64});
    decoder->prefill(0, model.embed(ids), 40);
    EXPECT_TRUE(tensor_near(decoder->logits(1), model.logits(ids), {0.05, 0.03}));
    for (const int64_t next : {7, 99}) {
      ids.push_back(next);
      decoder->give({next});
      decoder->step(1);
      EXPECT_TRUE(tensor_near(decoder->logits(1), model.logits(ids), {0.06, 0.05}));
    }
  }
}

TEST(SlotDecoderTest, PromptsInPiecesAreThoseReadWhole) {
  const c10::NoGradGuard no_grad;
  const std::vector<int64_t> ids = some_ids(150, 40);
  for (const bool fp8_cache : {false, true}) {
    SCOPED_TRACE(fp8_cache);
    const Model model(fp8_cache);
    const auto decoder = decoder_of(model.llama(), {.fp8_cache = fp8_cache});
    const double tie = fp8_cache ? 0.2 : 0.02;
    GenerateOptions options;
    options.max_new_tokens = 6;
    options.prefill_rows = 512;
    options.logprobs = 3;
    options.decoder = decoder;
    decoder->prefill(0, model.embed(ids), 200, 512);
    const at::Tensor whole = decoder->logits(1).clone();
    (void)decoder->release(0);
    const Generated want = generate(model.llama(), {ids}, options);
    ASSERT_EQ(want.tokens.size(), 6U);
    options.logprobs = -1;
    int64_t same = 0;
    for (const int64_t piece : {7, 64, 100}) {
      decoder->prefill(0, model.embed(ids), 200, piece);
      EXPECT_TRUE(tensor_near(decoder->logits(1), whole, {fp8_cache ? 0.15 : 0.03, 0.03})) << piece;
      (void)decoder->release(0);
      options.prefill_rows = piece;
      same += same_tokens(generate(model.llama(), {ids}, options).tokens, want, tie);
    }
    Prompt rows{ids};
    rows.emb_TD = model.embed(ids);  // as media come
    same += same_tokens(generate(model.llama(), rows, options).tokens, want, tie);
    EXPECT_GE(same, fp8_cache ? 7 : 16) << "of 24";
    EXPECT_EQ(decoder->free_pages(), kPositions / PagedCache::kPage);
  }
}

TEST(SlotDecoderTest, APromptCanBeInterruptedBetweenPieces) {
  const Model model;
  GenerateOptions options;
  options.max_new_tokens = 4;
  options.prefill_rows = 16;
  options.decoder = decoder_of(model.llama());
  int asked = 0;
  options.interrupted = [&] { return ++asked == 2; };
  const Generated out = generate(model.llama(), {some_ids(100, 1)}, options);
  EXPECT_EQ(out.finish, FinishReason::kInterrupted);
  EXPECT_TRUE(out.tokens.empty());
  EXPECT_EQ(options.decoder->free_pages(), kPositions / PagedCache::kPage);
}

// Turns of a conversation, and requests of one beginning: as much is read as is new, and the tokens
// are those of prompts that were read whole.
TEST(SlotDecoderTest, ReusedBeginningsGiveTheTokensOfFreshOnes) {
  const c10::NoGradGuard no_grad;
  for (const bool fp8_cache : {false, true}) {
    SCOPED_TRACE(fp8_cache);
    const Model model(fp8_cache);
    const double tie = fp8_cache ? 0.2 : 0.02;
    GenerateOptions reused;
    reused.max_new_tokens = 4;
    reused.prefill_rows = 32;
    GenerateOptions fresh = reused;
    fresh.logprobs = 3;
    fresh.decoder = decoder_of(model.llama(), {.fp8_cache = fp8_cache});
    reused.decoder = decoder_of(model.llama(), {.fp8_cache = fp8_cache});
    reused.kept = std::make_shared<KeptSequences>(
        reused.decoder->layout(), KeptLimits{.bytes = reused.decoder->cache_bytes()});
    std::vector<int64_t> talk = some_ids(90, 5);
    int64_t known = 0, same = 0;
    for (int64_t turn = 0; turn < 3; ++turn) {
      const Generated want = generate(model.llama(), {talk}, fresh),
                      got = generate(model.llama(), {talk}, reused);
      same += same_tokens(got.tokens, want, tie);
      EXPECT_EQ(got.timings.reused_tokens, known) << "turn " << turn;
      EXPECT_EQ(want.timings.reused_tokens, 0);
      known = static_cast<int64_t>(talk.size() + got.tokens.size()) - 1;  // the last was not read
      talk.insert(talk.end(), got.tokens.begin(), got.tokens.end());
      const auto more = some_ids(23, turn);
      talk.insert(talk.end(), more.begin(), more.end());
    }
    // Another request of the same beginning, which ends inside a page, and one of its own.
    std::vector<int64_t> other(talk.begin(), talk.begin() + 75);
    other.push_back((talk[75] + 1) % kVocabulary);
    const Generated got = generate(model.llama(), {other}, reused);
    EXPECT_EQ(got.timings.reused_tokens, 75);
    same += same_tokens(got.tokens, generate(model.llama(), {other}, fresh), tie);
    EXPECT_EQ(generate(model.llama(), {some_ids(60, 200)}, reused).timings.reused_tokens, 0);
    // The first talk is still what it was.
    const Generated again = generate(model.llama(), {talk}, reused);
    EXPECT_EQ(again.timings.reused_tokens, known);
    same += same_tokens(again.tokens, generate(model.llama(), {talk}, fresh), tie);
    EXPECT_GE(same, fp8_cache ? 8 : 14) << "of 20";
  }
}

// A beginning that ends inside a page, in two slots: each writes behind it, and neither sees what
// the other wrote, nor does the kept one.
TEST(SlotDecoderTest, SlotsOfOneBeginningDoNotSeeEachOther) {
  const c10::NoGradGuard no_grad;
  const Model model;
  const std::vector<int64_t> ids = some_ids(70, 21);
  const auto shared = decoder_of(model.llama(), {.sequences = 2, .cache_tokens = 6 * 64});
  KvCache kept = shared->make_cache();
  const at::Tensor hidden = Prefill(model.llama(), model.embed(ids), kept).last_row();
  EXPECT_EQ(shared->free_pages(), 4);
  shared->begin(0, kept.clone(), hidden, 90);
  shared->begin(1, kept.clone(), hidden, 90);
  EXPECT_EQ(shared->free_pages(), 2);  // each has a second page of its own
  const std::array<std::vector<int64_t>, 2> next = {{{5, 9, 200}, {120, 44, 3}}};
  for (size_t i = 0; i < 3; ++i) {
    shared->give({next[0][i], next[1][i]});
    shared->step(2);
  }
  const auto alone = decoder_of(model.llama(), {.sequences = 2});
  for (const int64_t slot : {0, 1}) {
    alone->prefill(slot, model.embed(ids), 90);
    for (const int64_t id : next[static_cast<size_t>(slot)]) {
      alone->give(slot == 0 ? std::vector<int64_t>{id, -1} : std::vector<int64_t>{-1, id});
      alone->step(2);
    }
    EXPECT_TRUE(shared->logits(2).narrow(0, slot, 1).equal(alone->logits(2).narrow(0, slot, 1)))
        << slot;
    (void)alone->release(slot);
  }
  // What was kept goes on as it would have.
  (void)shared->release(0);
  (void)shared->release(1);
  shared->begin(0, std::move(kept), hidden, 90);
  alone->prefill(0, model.embed(ids), 90);
  for (const auto& decoder : {shared, alone}) {
    decoder->give({77});
    decoder->step(1);
  }
  EXPECT_TRUE(shared->logits(1).equal(alone->logits(1)));
  EXPECT_TRUE(throws_with<Error>([&] { shared->begin(1, alone->make_cache(), hidden, 90); },
                                 {"make_cache"}));
}

// A reader that fails in the middle of an answer leaves no pages behind.
TEST(SlotDecoderTest, AnAnswerThatAnErrorEndsGivesItsPagesBack) {
  const Model model;
  GenerateOptions options;
  options.max_new_tokens = 5;
  options.decoder = decoder_of(model.llama(), {.max_positions = 256});
  const Prompt prompt{some_ids(200, 6)};
  const auto want = generate(model.llama(), prompt, options).tokens;
  EXPECT_THROW(generate(model.llama(), prompt, options, /*want_logits=*/false,
                        [](int64_t) { throw std::runtime_error("gone"); }),
               std::runtime_error);
  EXPECT_EQ(generate(model.llama(), prompt, options).tokens, want);
}

TEST(SlotDecoderTest, KeptPagesGoWhereTheyAreNeeded) {
  const Model model;
  GenerateOptions options;
  options.max_new_tokens = 3;
  options.decoder = decoder_of(model.llama(), {.max_positions = 256, .cache_tokens = 256});
  options.kept = std::make_shared<KeptSequences>(
      options.decoder->layout(), KeptLimits{.bytes = options.decoder->cache_bytes()});
  const auto take = [&](int64_t count, int64_t from) {
    return generate(model.llama(), {some_ids(count, from)}, options).timings.reused_tokens;
  };
  EXPECT_EQ(take(100, 1), 0);
  EXPECT_EQ(take(60, 2), 0);
  EXPECT_EQ(options.kept->count(), 2);
  EXPECT_EQ(take(61, 2), 60);  // used last, now
  EXPECT_EQ(take(100, 3), 0);  // two pages: those of the first
  EXPECT_EQ(take(62, 2), 61);
  EXPECT_EQ(take(100, 1), 0);
  EXPECT_EQ(take(250, 9), 0);  // everything
  EXPECT_EQ(options.kept->count(), 1);
  EXPECT_EQ(take(251, 9), 250);
  EXPECT_TRUE(throws_with<Error>([&] { generate(model.llama(), {some_ids(300, 4)}, options); },
                                 {"cache", "full", "256"}));
  EXPECT_EQ(take(20, 4), 0);  // and goes on
}

// Requests of a file: slots are shared, common beginnings are read once, each keeps its own rules.
TEST(SlotDecoderTest, ABatchGivesEachRequestItsOwnTokens) {
  const Model model;
  std::vector<BatchRequest> requests;
  for (int64_t i = 0; i < 6; ++i) {
    BatchRequest request;
    request.number = i;
    request.prompt_ids = some_ids(70, 8);  // in common
    const auto own = some_ids(5 + 9 * i, 100 + i);
    request.prompt_ids.insert(request.prompt_ids.end(), own.begin(), own.end());
    request.options.max_new_tokens = 3 + i;
    if (i == 1 || i == 4) {
      request.options.greedy = false;
      request.options.temperature = 0.8;
      request.options.top_k = 20;
      request.options.seed = static_cast<uint64_t>(i);
    }
    if (i == 2) {  // what the device does not know: it would have drawn another
      request.options.logit_bias = {{9, 50.0}};
      request.options.logprobs = 0;
    }
    requests.push_back(std::move(request));
  }
  std::map<int64_t, std::vector<int64_t>> want;
  std::vector<TokenLogprob> want_logprobs;
  for (const BatchRequest& request : requests) {
    GenerateOptions alone = request.options;
    alone.decoder = decoder_of(model.llama());
    const Generated out = generate(model.llama(), {request.prompt_ids}, alone);
    want[request.number] = out.tokens;
    if (request.number == 2) want_logprobs = out.logprobs;
    EXPECT_EQ(static_cast<int64_t>(want[request.number].size()), 3 + request.number);
  }
  const auto decoder = decoder_of(model.llama(), {.sequences = 3, .cache_tokens = 20 * 64});
  const auto kept = std::make_shared<KeptSequences>(decoder->layout(),
                                                    KeptLimits{.bytes = decoder->cache_bytes()});
  BatchEngine engine(model.llama(), {.sequences = 3, .pass_rows = 48}, decoder);
  for (BatchRequest request : requests) {
    request.options.kept = kept;
    engine.add(std::move(request));
  }
  std::map<int64_t, std::vector<int64_t>> got;
  int64_t reused = 0;
  while (engine.busy()) {
    engine.step([&](int64_t number, Generated result) {
      reused += result.timings.reused_tokens;
      if (number == 2) {
        ASSERT_EQ(result.logprobs.size(), want_logprobs.size());
        for (size_t i = 0; i < want_logprobs.size(); ++i)
          EXPECT_NEAR(result.logprobs[i].logprob, want_logprobs[i].logprob, 0.02) << i;
      }
      got[number] = std::move(result.tokens);
    });
  }
  EXPECT_EQ(got, want);
  EXPECT_EQ(reused, 5 * 70);  // the first one read it
  while (kept->forget_oldest()) {
  }
  EXPECT_EQ(decoder->free_pages(), 20);
  EXPECT_TRUE(throws_with<DataError>(
      [&] {
        BatchRequest request;
        request.prompt_ids = some_ids(500, 1);
        BatchEngine small(model.llama(), {.sequences = 1},
                          decoder_of(model.llama(), {.cache_tokens = 256}));
        small.add(std::move(request));
      },
      {"256"}));
}

// More rows than the kernel takes: in codes as several launches, with the bits of few rows.
TEST(SlotDecoderTest, ManySequencesInCodes) {
  const c10::NoGradGuard no_grad;
  const Model model;
  pack_weights(model.llama(), parse_packed_form("int8-g32"));
  use_device_codes(model.llama(), at::kCPU);
  const auto many = decoder_of(model.llama(), {.sequences = 18, .max_positions = 64}),
             one = decoder_of(model.llama(), {.max_positions = 64});
  for (int64_t slot = 0; slot < 18; ++slot)
    many->prefill(slot, model.embed(some_ids(5 + slot, slot)), 40);
  many->give(std::vector<int64_t>(18, 5));
  many->step(18);
  for (const int64_t slot : {0, 15, 16, 17}) {
    one->prefill(0, model.embed(some_ids(5 + slot, slot)), 40);
    one->give({5});
    one->step(1);
    EXPECT_TRUE(many->logits(18).narrow(0, slot, 1).equal(one->logits(1))) << slot;
  }
}

TEST(SlotDecoderTest, PagesTakeAShareOfWhatIsFree) {
  const Model model;
  const auto pages = [&](int64_t bytes) {
    return SlotDecoder(model.llama(), {.sequences = 4, .cache_share = 0.5},
                       Launches{.stream = [] { return cudaStream_t{}; },
                                .multiprocessors = 3,
                                .free_memory = [bytes] { return bytes; }})
        .free_pages();
  };
  constexpr int64_t kPageBytes = 2 * 2 * 64 * 64 * 2;  // layers, keys and values
  EXPECT_EQ(pages(20 * kPageBytes), 10);
  EXPECT_EQ(pages(int64_t{1} << 40), 4 * kPositions / 64);
  EXPECT_TRUE(throws_with<Error>([&] { pages(kPageBytes); }, {"no memory", "keys and values"}));
}

TEST(PagedCacheTest, HoldsWhatACacheOfTheCpuHolds) {
  const LlamaConfig config = testing_support::llama_config({10, 8, 8, 2, 2, 3, 16, 512});
  for (const bool fp8 : {false, true}) {
    const auto store = std::make_shared<PagedCache>(
        config, 1, 512, 640, fp8 ? at::kFloat8_e4m3fn : at::kBFloat16, at::kCPU);
    const auto stored = [&](const at::Tensor& x) {
      return fp8 ? x.to(at::kFloat8_e4m3fn).to(at::kBFloat16) : x;
    };
    EXPECT_EQ(store->free_pages(), 10);
    {
      KvCache paged(store), plain(2, 3, 16, at::kBFloat16);
      uint64_t seed = 0;
      const auto append = [&](KvCache& a, KvCache& b, int64_t rows) {
        for (const int64_t layer : {0, 1}) {
          const at::Tensor k = testing_support::randn({rows, 3, 16}, ++seed, at::kBFloat16),
                           v = k * 2;
          a.append(layer, k, v);
          b.append(layer, stored(k), stored(v));
        }
      };
      const auto same = [&](const KvCache& a, const KvCache& b) {
        ASSERT_EQ(a.length(), b.length());
        for (const int64_t layer : {0, 1}) {
          EXPECT_TRUE(a.layer(layer).first.equal(b.layer(layer).first));
          EXPECT_TRUE(a.layer(layer).second.equal(b.layer(layer).second));
        }
      };
      for (const int64_t rows : {1, 62, 1, 70, 10}) append(paged, plain, rows);  // 144
      same(paged, plain);
      EXPECT_EQ(store->free_pages(), 7);
      KvCache branch = paged.clone(), plain_branch = plain.clone();
      EXPECT_EQ(store->free_pages(), 7);
      branch.truncate(100);
      plain_branch.truncate(100);
      EXPECT_EQ(branch.pages_to_reserve(100), 3);  // the second page is shared, two are new
      append(branch, plain_branch, 100);
      EXPECT_EQ(store->free_pages(), 4);
      EXPECT_EQ(branch.numbers()[0], paged.numbers()[0]);
      EXPECT_NE(branch.numbers()[1], paged.numbers()[1]);
      append(paged, plain, 5);
      same(paged, plain);
      same(branch, plain_branch);
      branch.reserve(200);  // 400 positions: seven pages
      EXPECT_EQ(store->free_pages(), 1);
      EXPECT_TRUE(throws_with<Error>([&] { paged.reserve(300); }, {"full", "640"}));
      same(branch, plain_branch);
    }
    EXPECT_EQ(store->free_pages(), 10);
  }
}

}  // namespace
}  // namespace euromodal
