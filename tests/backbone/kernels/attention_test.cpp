// attention_test.cpp — packed attention: against its reference, gradients by central differences,
// the bits of a sample whatever its neighbours, grouped heads, the KV cache.
#include "backbone/kernels/attention/attention.h"

#include <gtest/gtest.h>

#include "backbone/kernels/attention/attention_ref.h"
#include "backbone/kernels/attention/blocked_rows.h"
#include "core/error.h"
#include "tests/support/gradcheck.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

struct AttentionCase {
  std::vector<int64_t> lengths;
  int64_t heads, kv_heads, width;
  bool causal;
};

AttentionArgs make_args(const AttentionCase& c, at::ScalarType dtype, uint64_t seed = 1) {
  const int64_t rows = Segments::from_lengths(c.lengths).rows();
  AttentionArgs args{randn({rows, c.heads, c.width}, seed, dtype),
                     randn({rows, c.kv_heads, c.width}, seed + 1, dtype),
                     randn({rows, c.kv_heads, c.width}, seed + 2, dtype), c.causal,
                     1.0 / std::sqrt(static_cast<double>(c.width))};
  for (at::Tensor* t : {&args.q_THN, &args.k_TKN, &args.v_TKN}) t->requires_grad_(true);
  return args;
}

// Short samples, one longer than the short limit, odd widths, empty samples.
const std::vector<AttentionCase> kCases = {
    {{1, 5, 0, 22, 17}, 4, 2, 48, true},
    {{7, 33}, 3, 3, 36, false},
    {{16, 16, 16}, 6, 1, 72, true},
    {{201, 3, 300}, 4, 2, 16, true},
    {{260}, 2, 2, 36, false},
    {{}, 2, 1, 8, true},
    {{0, 0}, 2, 1, 8, false},
    {{64, 64}, 4, 4, 32, false},
    {{191, 192, 193}, 2, 1, 5, true},
};

TEST(AttentionTest, MatchesReferenceForwardAndBackward) {
  for (const AttentionCase& c : kCases) {
    SCOPED_TRACE(fmt::format("H{} K{} N{} causal {} samples {}", c.heads, c.kv_heads, c.width,
                             c.causal, c.lengths.size()));
    const Segments rows = Segments::from_lengths(c.lengths);
    const AttentionArgs got = make_args(c, at::kFloat), want = make_args(c, at::kFloat);
    const at::Tensor y = attention(got, rows), y_ref = attention_ref(want, rows);
    EXPECT_TRUE(tensor_near(y, y_ref, {2e-6, 1e-5}));
    if (rows.rows() == 0) continue;
    const at::Tensor dy = randn(y.sizes(), 9);
    y.backward(dy);
    y_ref.backward(dy);
    EXPECT_TRUE(tensor_near(got.q_THN.grad(), want.q_THN.grad(), {1e-5, 1e-5}));
    EXPECT_TRUE(tensor_near(got.k_TKN.grad(), want.k_TKN.grad(), {1e-5, 1e-5}));
    EXPECT_TRUE(tensor_near(got.v_TKN.grad(), want.v_TKN.grad(), {1e-5, 1e-5}));
  }
}

TEST(AttentionTest, Bf16StaysNearTheReference) {
  for (const AttentionCase& c : kCases) {
    const Segments rows = Segments::from_lengths(c.lengths);
    if (rows.rows() == 0) continue;
    const AttentionArgs got = make_args(c, at::kBFloat16), want = make_args(c, at::kBFloat16);
    const at::Tensor y = attention(got, rows), y_ref = attention_ref(want, rows);
    EXPECT_TRUE(tensor_near(y, y_ref, {2e-2, 2e-2}));
    const at::Tensor dy = randn(y.sizes(), 9, at::kBFloat16);
    y.backward(dy);
    y_ref.backward(dy);
    EXPECT_TRUE(tensor_near(got.q_THN.grad(), want.q_THN.grad(), {6e-2, 4e-2}));
    EXPECT_TRUE(tensor_near(got.k_TKN.grad(), want.k_TKN.grad(), {6e-2, 4e-2}));
    EXPECT_TRUE(tensor_near(got.v_TKN.grad(), want.v_TKN.grad(), {6e-2, 4e-2}));
  }
}

TEST(AttentionTest, GradientsAreThoseOfCentralDifferences) {
  for (const bool causal : {true, false}) {
    const AttentionCase c{{3, 1, 7}, 4, 2, 5, causal};
    const AttentionArgs args = make_args(c, at::kDouble);
    EXPECT_TRUE(gradcheck(
        [&](const std::vector<at::Tensor>& in) {
          return attention({in[0], in[1], in[2], causal, 0.4}, Segments::from_lengths(c.lengths));
        },
        {args.q_THN, args.k_TKN, args.v_TKN}));
  }
}

// One prefix per sample; 0 rows: none.
AttentionArgs with_prefix(AttentionArgs args, const std::vector<int64_t>& lengths) {
  uint64_t seed = 30;
  for (const int64_t length : lengths) {
    AttentionPrefix prefix;
    if (length > 0) {
      prefix.k_PKN =
          randn({length, args.k_TKN.size(1), args.k_TKN.size(2)}, ++seed, args.k_TKN.scalar_type());
      prefix.v_PKN = randn(prefix.k_PKN.sizes(), ++seed, args.k_TKN.scalar_type());
    }
    args.prefix.push_back(prefix);
  }
  return args;
}

TEST(AttentionTest, PrefixMatchesReferenceForwardAndBackward) {
  for (const bool causal : {true, false}) {
    // short, long by the prefix, long by itself, without, empty behind a prefix
    const AttentionCase c{{5, 17, 200, 9, 0, 190}, 4, 2, 20, causal};
    const std::vector<int64_t> before = {3, 180, 40, 0, 6, 2};
    const Segments rows = Segments::from_lengths(c.lengths);
    const AttentionArgs got = with_prefix(make_args(c, at::kFloat), before),
                        want = with_prefix(make_args(c, at::kFloat), before);
    const at::Tensor y = attention(got, rows), y_ref = attention_ref(want, rows);
    EXPECT_TRUE(tensor_near(y, y_ref, {2e-6, 1e-5}));
    const at::Tensor dy = randn(y.sizes(), 9);
    y.backward(dy);
    y_ref.backward(dy);
    EXPECT_TRUE(tensor_near(got.q_THN.grad(), want.q_THN.grad(), {1e-5, 1e-5}));
    EXPECT_TRUE(tensor_near(got.k_TKN.grad(), want.k_TKN.grad(), {1e-5, 1e-5}));
    EXPECT_TRUE(tensor_near(got.v_TKN.grad(), want.v_TKN.grad(), {1e-5, 1e-5}));
  }
}

TEST(AttentionTest, PrefixGradientsAreThoseOfCentralDifferences) {
  for (const bool causal : {true, false}) {
    const AttentionCase c{{3, 1, 7}, 4, 2, 5, causal};
    const AttentionArgs args = with_prefix(make_args(c, at::kDouble), {2, 0, 18});
    EXPECT_TRUE(gradcheck(
        [&](const std::vector<at::Tensor>& in) {
          return attention({in[0], in[1], in[2], causal, 0.4, args.prefix},
                           Segments::from_lengths(c.lengths));
        },
        {args.q_THN, args.k_TKN, args.v_TKN}));
  }
}

TEST(AttentionTest, BitsDoNotDependOnTheNeighbours) {
  for (const int64_t length : {1, 13, 22, 70, 192, 193, 250}) {
    const AttentionCase alone{{length}, 4, 2, 36, true};
    const AttentionArgs single = make_args(alone, at::kFloat);
    const at::Tensor y = attention(single, Segments::one(length));
    const at::Tensor dy = randn(y.sizes(), 5);
    y.backward(dy);
    for (const auto& [before, after] : {std::pair<int64_t, int64_t>{0, 9}, {31, 0}, {210, 40}}) {
      AttentionArgs packed = make_args({{before, length, after}, 4, 2, 36, true}, at::kFloat, 77);
      const c10::NoGradGuard no_grad;
      packed.q_THN.narrow(0, before, length).copy_(single.q_THN);
      packed.k_TKN.narrow(0, before, length).copy_(single.k_TKN);
      packed.v_TKN.narrow(0, before, length).copy_(single.v_TKN);
      at::Tensor z;
      {
        const c10::AutoGradMode on(true);
        z = attention(packed, Segments::from_lengths({before, length, after}));
        at::Tensor dz = randn(z.sizes(), 6);
        dz.narrow(0, before, length).copy_(dy);
        z.backward(dz);
      }
      EXPECT_TRUE(same_bits(z.narrow(0, before, length), y)) << length;
      for (const auto& [a, b] : {std::pair{packed.q_THN, single.q_THN},
                                 {packed.k_TKN, single.k_TKN},
                                 {packed.v_TKN, single.v_TKN}})
        EXPECT_TRUE(same_bits(a.grad().narrow(0, before, length), b.grad())) << length;
    }
  }
}

TEST(AttentionTest, TakesViewsOfAFusedProduct) {
  const at::Tensor qkv = randn({30, 8, 12}, 3);
  const AttentionArgs views{qkv.narrow(1, 0, 4), qkv.narrow(1, 4, 2), qkv.narrow(1, 6, 2), true,
                            0.3};
  const AttentionArgs copies{views.q_THN.contiguous(), views.k_TKN.contiguous(),
                             views.v_TKN.contiguous(), true, 0.3};
  const Segments rows = Segments::from_lengths({11, 19});
  EXPECT_TRUE(same_bits(attention(views, rows), attention(copies, rows)));
}

TEST(AttentionTest, CachedRowsAreTheLastRowsOfTheWholeSequence) {
  for (const int64_t length : {1, 7, 40, 230}) {
    for (const int64_t now : {int64_t{1}, int64_t{3}, length}) {
      if (now > length) continue;
      const AttentionArgs args = make_args({{length}, 6, 2, 48, true}, at::kFloat);
      const c10::NoGradGuard no_grad;
      const at::Tensor want = attention_ref(args, Segments::one(length));
      const at::Tensor got = attention_cached(args.q_THN.narrow(0, length - now, now), args.k_TKN,
                                              args.v_TKN, args.scale);
      EXPECT_TRUE(tensor_near(got, want.narrow(0, length - now, now), {2e-6, 1e-5}));
    }
  }
}

TEST(AttentionTest, BlockedRowsAreTheReferencesOnEveryInstructionSet) {
  struct Case {
    int64_t length, now, heads, kv_heads, width;
  };
  const c10::NoGradGuard no_grad;
  for (const Case& c : {Case{17, 17, 4, 2, 64},
                        {100, 33, 6, 1, 40},
                        {513, 513, 4, 2, 128},
                        {1100, 70, 16, 8, 128},
                        {1025, 600, 3, 3, 80},
                        {64, 64, 2, 1, 33}}) {
    AttentionArgs args = make_args({{c.length}, c.heads, c.kv_heads, c.width, true}, at::kFloat);
    for (at::Tensor* x : {&args.q_THN, &args.k_TKN, &args.v_TKN})
      *x = x->detach().mul(2.0).to(at::kBFloat16);
    const AttentionArgs wide{args.q_THN.to(at::kDouble), args.k_TKN.to(at::kDouble),
                             args.v_TKN.to(at::kDouble), true, args.scale};
    const at::Tensor want = attention_ref(wide, Segments::one(c.length))
                                .narrow(0, c.length - c.now, c.now),
                     q_THN = args.q_THN.narrow(0, c.length - c.now, c.now);
    for (int isa = 0; isa <= static_cast<int>(machine_isa()); ++isa) {
      const auto blocked = [&](const at::Tensor& q) {
        return attention_blocked(q, args.k_TKN, args.v_TKN, args.scale, static_cast<CpuIsa>(isa));
      };
      const at::Tensor got = blocked(q_THN);
      // Shares and the result are rounded to bf16: 2^-9 of values of a few.
      EXPECT_TRUE(tensor_near(got.to(at::kDouble), want, {2e-2, 8e-3}))
          << c.length << " positions, isa " << isa;
      // A row does not depend on what goes with it, nor on later positions.
      const int64_t some = c.now / 2;
      EXPECT_TRUE(same_bits(attention_blocked(q_THN.narrow(0, 0, some),
                                              args.k_TKN.narrow(0, 0, c.length - c.now + some),
                                              args.v_TKN.narrow(0, 0, c.length - c.now + some),
                                              args.scale, static_cast<CpuIsa>(isa)),
                            got.narrow(0, 0, some)))
          << c.length << " positions, isa " << isa;
      EXPECT_TRUE(same_bits(blocked(q_THN.narrow(0, c.now - some, some)),
                            got.narrow(0, c.now - some, some)));
    }
    EXPECT_TRUE(same_bits(attention_cached(q_THN, args.k_TKN, args.v_TKN, args.scale),
                          attention_blocked(q_THN, args.k_TKN, args.v_TKN, args.scale)));
  }
}

TEST(AttentionTest, RefusesWrongShapes) {
  const AttentionArgs args = make_args({{4}, 4, 2, 8, true}, at::kFloat);
  EXPECT_TRUE(
      (throws_with<Error>([&] { attention(args, Segments::one(3)); }, {"attention", "3", "4"})));
  AttentionArgs wrong = args;
  wrong.k_TKN = wrong.v_TKN = randn({4, 3, 8}, 1);
  EXPECT_TRUE(
      (throws_with<Error>([&] { attention(wrong, Segments::one(4)); }, {"4 query heads", "3"})));
}

}  // namespace
}  // namespace euromodal
