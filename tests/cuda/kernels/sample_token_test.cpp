// sample_token_test.cpp — tokens drawn by the kernel against the host's rules
// (inference/sampling.h) with the same numbers: every rule alone and all together, rows of random,
// tied, equal, banned and far-off logits, vocabularies for one block and for a team of eight, and
// greedy's ties.
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbone/kernels/sample_token/sample_token_kernel.h"
#include "core/rng.h"
#include "inference/sampling.h"
#include "tests/support/device_buffer.h"

namespace euromodal {
namespace {

using testing_support::DeviceBuffer;
using testing_support::small_sizes;

constexpr float kInf = std::numeric_limits<float>::infinity();

// What a row of the batch brings.
struct Row {
  std::vector<float> logits;
  SampleParams params;
  std::vector<int64_t> prompt, drawn;
  int64_t step = 0;
};

struct Drawn {
  int64_t token = -1;
  float logprob = 0.0F;
  int64_t step = 0;
};

// choose_token() of inference/decoding.cpp behind its penalties.
Drawn host_draw(const Row& row) {
  std::vector<float> logits = row.logits, plain = row.logits;
  const SampleParams& p = row.params;
  std::vector<int64_t> seen = row.prompt;
  seen.insert(seen.end(), row.drawn.begin(), row.drawn.end());
  penalize_repetition(logits, seen, p.repetition);
  penalize_presence(logits, row.drawn, p.presence, p.frequency);
  Drawn out;
  if (p.temperature == 0.0) {
    out.token = most_likely(logits);
  } else {
    apply_temperature(logits, p.temperature);
    keep_top_k(logits, p.top_k);
    keep_top_p(logits, p.top_p);
    keep_min_p(logits, p.min_p);
    Rng rng = Rng(p.seed).fork("sample", static_cast<uint64_t>(row.step));
    out.token = draw_token(logits, rng);
  }
  log_softmax(plain);
  out.logprob = plain[static_cast<size_t>(out.token)];
  out.step = row.step + 1;
  return out;
}

at::Tensor bytes_of(const std::vector<SampleParams>& params) {
  const auto size = static_cast<int64_t>(params.size() * sizeof(SampleParams));
  at::Tensor out = at::empty({size}, at::kByte);
  std::memcpy(out.mutable_data_ptr(), params.data(), static_cast<size_t>(size));
  return out;
}

struct DeviceDraw {
  std::vector<Drawn> rows;
  at::Tensor counts_BV;
};

DeviceDraw device_draw(const std::vector<Row>& rows, const std::vector<int32_t>& active = {}) {
  const auto B = static_cast<int64_t>(rows.size()),
             V = static_cast<int64_t>(rows.front().logits.size());
  at::Tensor logits_BV = at::empty({B, V}), counts_BV = at::zeros({B, V}, at::kInt),
             step_B = at::empty({B}, at::kLong);
  std::vector<SampleParams> params;
  for (int64_t b = 0; b < B; ++b) {
    const Row& row = rows[static_cast<size_t>(b)];
    std::copy(row.logits.begin(), row.logits.end(), logits_BV.mutable_data_ptr<float>() + b * V);
    int32_t* counts = counts_BV.mutable_data_ptr<int32_t>() + b * V;
    for (const int64_t id : row.prompt) counts[id] |= kSampleInPrompt;
    for (const int64_t id : row.drawn) ++counts[id];
    step_B[b].fill_(row.step);
    params.push_back(row.params);
  }
  const DeviceBuffer logits(logits_BV), counts(counts_BV), step(step_B), with(bytes_of(params)),
      token = DeviceBuffer::poisoned({B}, at::kLong),
      logprob = DeviceBuffer::poisoned({B}, at::kFloat),
      workspace =
          DeviceBuffer::poisoned({static_cast<int64_t>(sample_token_workspace(B, V))}, at::kByte);
  SampleTokenArgs args;
  args.logits_BV = logits.as<float>();
  args.params_B = with.as<SampleParams>();
  args.counts_BV = counts.as<int32_t>();
  args.step_B = step.as<int64_t>();
  args.token_B = token.as<int64_t>();
  args.logprob_B = logprob.as<float>();
  std::optional<DeviceBuffer> flags;
  if (!active.empty()) {
    flags.emplace(at::tensor(active, at::kInt));
    args.active_B = flags->as<int32_t>();
  }
  args.B = B;
  args.V = V;
  args.workspace = workspace.data();
  EXPECT_EQ(sample_token(args, nullptr), cudaSuccess);
  const at::Tensor tokens = token.tensor(), logprobs = logprob.tensor(), steps = step.tensor();
  DeviceDraw out;
  for (int64_t b = 0; b < B; ++b)
    out.rows.push_back(
        {tokens[b].item<int64_t>(), logprobs[b].item<float>(), steps[b].item<int64_t>()});
  EXPECT_TRUE(logits.tensor().equal(logits_BV));
  out.counts_BV = counts.tensor();
  return out;
}

enum class Kind { kNormal, kTied, kEqual, kBanned, kPeaked, kFar };

std::vector<float> logits_of(Kind kind, int64_t V, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> out(static_cast<size_t>(V));
  for (float& x : out) {
    x = static_cast<float>(3.0 * rng.normal());
    switch (kind) {
      case Kind::kTied:
        x = std::round(x);
        break;
      case Kind::kEqual:
        x = -1.5F;
        break;
      case Kind::kBanned:
        if (rng.uniform() < 0.6) x = -kInf;
        break;
      case Kind::kPeaked:
        x *= 6.0F;
        break;
      case Kind::kFar:
        x = x * 0.01F + 4000.0F;
        break;
      case Kind::kNormal:
        break;
    }
  }
  if (kind == Kind::kBanned) out[static_cast<size_t>(V / 2)] = 0.25F;
  if (kind == Kind::kFar) out[0] = -1e30F;
  return out;
}

std::vector<SampleParams> rules() {
  return {
      {},
      {.temperature = 1.0},
      {.temperature = 0.7, .top_k = 1},
      {.temperature = 1.3, .top_k = 7},
      {.temperature = 1.0, .top_k = 40, .top_p = 0.9},
      {.temperature = 0.8, .top_p = 0.95},
      {.temperature = 1.0, .top_p = 0.3},
      {.temperature = 1.0, .top_p = 0.0},
      {.temperature = 2.5, .top_p = 0.9999},
      {.temperature = 1.0, .min_p = 0.05},
      {.temperature = 0.05, .top_k = 300, .top_p = 0.5, .min_p = 0.1},
      {.temperature = 1.0, .repetition = 1.3},
      {.temperature = 0.0, .repetition = 1.5, .presence = 0.4, .frequency = 0.3},
      {.temperature = 1.1,
       .top_k = 50,
       .top_p = 0.8,
       .min_p = 0.02,
       .repetition = 1.1,
       .presence = -0.5,
       .frequency = 0.1},
  };
}

void expect_same(const std::vector<Row>& rows) {
  const DeviceDraw got = device_draw(rows);
  for (size_t b = 0; b < rows.size(); ++b) {
    const Row& row = rows[b];
    const Drawn want = host_draw(row);
    SCOPED_TRACE(fmt::format("row {} step {}: T {}, k {}, p {}, min {}, seed {}", b, row.step,
                             row.params.temperature, row.params.top_k, row.params.top_p,
                             row.params.min_p, row.params.seed));
    EXPECT_EQ(got.rows[b].token, want.token);
    EXPECT_EQ(got.rows[b].step, want.step);
    EXPECT_NEAR(got.rows[b].logprob, want.logprob, 1e-5 * (1.0 + std::abs(want.logprob)));
    const int64_t seen = std::count(row.drawn.begin(), row.drawn.end(), want.token);
    EXPECT_EQ(
        got.counts_BV[static_cast<int64_t>(b)][want.token].item<int64_t>() & (kSampleInPrompt - 1),
        seen + 1);
  }
}

TEST(SampleTokenKernelTest, DrawsWhatTheHostDraws) {
  EM_NEEDS_GPU();
  std::vector<int64_t> widths{1, 2, 37, 1000, 2101};
  if (!small_sizes()) widths.insert(widths.end(), {32768, 128000, 128003});
  for (const int64_t V : widths) {
    for (const Kind kind :
         {Kind::kNormal, Kind::kTied, Kind::kEqual, Kind::kBanned, Kind::kPeaked, Kind::kFar}) {
      SCOPED_TRACE(fmt::format("V {} kind {}", V, static_cast<int>(kind)));
      std::vector<Row> rows;
      for (const SampleParams& rule : rules()) {
        const auto number = static_cast<uint64_t>(rows.size());
        Row row{logits_of(kind, V, number + 17 * static_cast<uint64_t>(V)),
                rule,
                {},
                {},
                static_cast<int64_t>(3 * number)};
        row.params.seed = 0x9E3779B97F4A7C15ULL * (number + 1);
        Rng rng(number);
        for (int i = 0; i < 12; ++i) row.prompt.push_back(rng.below(V));
        for (int i = 0; i < 12; ++i) row.drawn.push_back(rng.below(std::min<int64_t>(V, 9)));
        rows.push_back(std::move(row));
      }
      expect_same(rows);
    }
  }
}

// The end of the rule lies among more equals than the list of candidates holds: keys are bisected.
TEST(SampleTokenKernelTest, ManyEqualsAtTheEndOfARule) {
  EM_NEEDS_GPU();
  const int64_t V = 5000;
  std::vector<Row> rows;
  for (const int steps : {1, 2, 5}) {  // values that the row has
    for (const SampleParams& rule :
         std::vector<SampleParams>{{.temperature = 1.0, .top_p = 0.37},
                                   {.temperature = 1.0, .top_k = 1234},
                                   {.temperature = 1.0, .top_k = 2222, .top_p = 0.6}}) {
      Row row{std::vector<float>(static_cast<size_t>(V)), rule, {}, {}, steps};
      for (int64_t v = 0; v < V; ++v)
        row.logits[static_cast<size_t>(v)] = 0.125F * static_cast<float>((v * 7 + 3) % steps);
      row.params.seed = 11;
      rows.push_back(row);
    }
  }
  expect_same(rows);
}

// Of 64 equals p = 0.25 keeps the 16 with the highest ids, whatever number is drawn; top-k keeps
// all equals of the k-th.
TEST(SampleTokenKernelTest, TiesAreKeptAsTheRulesSay) {
  EM_NEEDS_GPU();
  std::vector<Row> rows;
  for (int64_t step = 0; step < 60; ++step)
    rows.push_back({std::vector<float>(64, 2.0F),
                    {.temperature = 1.0, .top_p = 0.25, .seed = 5},
                    {},
                    {},
                    step});
  const DeviceDraw got = device_draw(rows);
  int64_t least = 63;
  for (const Drawn& row : got.rows) least = std::min(least, row.token);
  EXPECT_GE(least, 48);
  EXPECT_LE(least, 52);  // 60 draws of 16 reach the lower quarter
  for (Row& row : rows) row.params = {.temperature = 1.0, .top_k = 3, .seed = 5};
  least = 63;
  for (const Drawn& row : device_draw(rows).rows) least = std::min(least, row.token);
  EXPECT_LT(least, 16);
  expect_same(rows);
}

TEST(SampleTokenKernelTest, GreedyTakesTheLowestOfEquals) {
  EM_NEEDS_GPU();
  for (const int64_t V : {10, 3000}) {
    std::vector<float> logits(static_cast<size_t>(V), -2.0F);
    logits[3] = logits[static_cast<size_t>(V - 1)] = 0.0F;
    logits[2] = -0.0F;  // equal to 0
    EXPECT_EQ(device_draw({{logits, {}, {}, {}, 0}}).rows[0].token, 2);
    std::fill(logits.begin(), logits.end(), -kInf);
    EXPECT_EQ(device_draw({{logits, {}, {}, {}, 0}}).rows[0].token, 0);
    EXPECT_EQ(device_draw({{logits, {.temperature = 1.0}, {}, {}, 0}}).rows[0].token, 0);
  }
}

TEST(SampleTokenKernelTest, RowsThatAreNotActiveAreLeftAlone) {
  EM_NEEDS_GPU();
  const Row row{logits_of(Kind::kNormal, 700, 1), {.temperature = 1.0, .seed = 3}, {}, {}, 4};
  const DeviceDraw got = device_draw({row, row, row}, {1, 0, 1});
  EXPECT_EQ(got.rows[0].token, host_draw(row).token);
  EXPECT_EQ(got.rows[1].token, -1);  // the poison
  EXPECT_EQ(got.rows[1].step, 4);
  EXPECT_EQ(got.rows[2].step, 5);
  EXPECT_EQ(got.counts_BV[1].sum().item<int64_t>(), 0);
}

// Wider than shared memory: the row lies in the workspace.
TEST(SampleTokenKernelTest, RowsWiderThanSharedMemory) {
  EM_NEEDS_GPU();
  const int64_t V = 262144;
  EXPECT_GT(sample_token_workspace(1, V), 0U);
  std::vector<Row> rows;
  for (const SampleParams& rule : std::vector<SampleParams>{
           {.temperature = 1.0, .seed = 2}, {.temperature = 1.0, .top_k = 50, .top_p = 0.9}})
    rows.push_back({logits_of(Kind::kNormal, V, 4), rule, {}, {}, 0});
  expect_same(rows);
}

TEST(SampleTokenKernelTest, TheDrawnTokensFollowTheDistribution) {
  EM_NEEDS_GPU();
  const std::vector<float> logits{0.0F, std::log(2.0F), std::log(5.0F)};
  std::vector<Row> rows;
  const int64_t draws = 800;
  for (int64_t step = 0; step < draws; ++step)
    rows.push_back({logits, {.temperature = 1.0, .seed = 8}, {}, {}, step});
  std::array<double, 3> counts{};
  for (const Drawn& row : device_draw(rows).rows) ++counts.at(static_cast<size_t>(row.token));
  const double chi2 = std::pow(counts[0] - draws / 8.0, 2) / (draws / 8.0) +
                      std::pow(counts[1] - draws / 4.0, 2) / (draws / 4.0) +
                      std::pow(counts[2] - draws * 0.625, 2) / (draws * 0.625);
  EXPECT_LT(chi2, 13.8);  // 0.1 %, two degrees of freedom
}

TEST(SampleTokenKernelTest, SizesThatItRefuses) {
  EM_NEEDS_GPU();
  SampleTokenArgs args;
  EXPECT_EQ(sample_token(args, nullptr), cudaSuccess);  // no rows
  args.B = 1;
  EXPECT_EQ(sample_token(args, nullptr), cudaErrorInvalidValue);
  args.V = int64_t{1} << 29;  // needs a workspace
  EXPECT_EQ(sample_token(args, nullptr), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace euromodal
