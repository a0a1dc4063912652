// decode_attention_test.cpp — attention over pages on every instruction set that this machine has:
// against its reference, against ATen's attention, and that a row depends on nothing else.
#include "backbone/kernels/decode_attention/decode_attention.h"

#include <cmath>
#include <limits>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "backbone/kernels/decode_attention/decode_attention_ref.h"
#include "backbone/kernels/decode_attention/kv_rows.h"
#include "core/error.h"
#include "tests/support/gradcheck.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
namespace {

using namespace testing_support;

std::vector<CpuIsa> all_isas() {
  std::vector<CpuIsa> out;
  for (int isa = 0; isa <= static_cast<int>(machine_isa()); ++isa)
    out.push_back(static_cast<CpuIsa>(isa));
  return out;
}

/// The second of two layers of one sequence in pages of its own; the first holds what is no number.
struct Paged {
  KvLayout layout;
  std::vector<at::Tensor> memory;
  std::vector<uint8_t*> pages;
  std::vector<const uint8_t*> reads;
  int64_t length;

  Paged(KvType type, at::ScalarType dtype, int64_t kv_heads, int64_t head_dim, int64_t L,
        uint64_t seed, double spread = 1.0)
      : layout{type, 2, kv_heads, head_dim}, length(L) {
    for (int64_t p = 0; p < kv_pages(L); ++p) {
      memory.push_back(at::full({layout.page_bytes()}, 0xFF, at::kByte));
      pages.push_back(memory.back().mutable_data_ptr<uint8_t>());
      reads.push_back(pages.back());
    }
    store_kv_rows(layout, 1, pages, 0, (spread * randn({L, kv_heads, head_dim}, seed)).to(dtype),
                  randn({L, kv_heads, head_dim}, seed + 1, dtype));
  }
  DecodeSequence last(int64_t rows, int64_t row = 0) const { return {reads, length, row, rows}; }
};

struct Case {
  int64_t rows, length, heads, kv_heads, head_dim;
};
constexpr Case kCases[] = {{1, 1, 4, 4, 8},    {1, 63, 4, 2, 64},   {1, 65, 16, 8, 128},
                           {5, 700, 6, 1, 96}, {3, 130, 6, 2, 40},  {16, 1100, 6, 1, 128},
                           {16, 16, 4, 2, 80}, {2, 513, 12, 2, 128}};

struct Types {
  KvType kv;
  at::ScalarType dtype;
};
constexpr Types kTypes[] = {{KvType::kF32, at::kFloat},
                            {KvType::kBf16, at::kBFloat16},
                            {KvType::kF16, at::kHalf},
                            {KvType::kInt8, at::kFloat},
                            {KvType::kInt8, at::kBFloat16}};

at::Tensor decode(const at::Tensor& q, const Paged& kv, const DecodeSequence& sequence,
                  double scale, CpuIsa isa) {
  at::Tensor out = at::empty(q.sizes(), q.options());
  decode_attention(q, kv.layout, 1, {&sequence, 1}, scale, out, isa);
  return out;
}

TEST(DecodeAttentionTest, MatchesTheReference) {
  for (const auto& [kv_type, dtype] : kTypes) {
    for (const Case& c : kCases) {
      const Paged kv(kv_type, dtype, c.kv_heads, c.head_dim, c.length, 3);
      const at::Tensor q = randn({c.rows, c.heads, c.head_dim}, 7, dtype);
      const double scale = 1.0 / std::sqrt(static_cast<double>(c.head_dim));
      const DecodeSequence sequence = kv.last(c.rows);
      const at::Tensor want = decode_attention_ref(q, kv.layout, 1, {&sequence, 1}, scale);
      for (const CpuIsa isa : all_isas()) {
        SCOPED_TRACE(fmt::format("{} kv {} L {} T {} N {}", cpu_isa_name(isa),
                                 static_cast<int>(kv_type), c.length, c.rows, c.head_dim));
        const at::Tensor got = decode(q, kv, sequence, scale, isa);
        const Tolerance tolerance = dtype == at::kFloat  ? Tolerance{2e-6, 2e-6}
                                    : dtype == at::kHalf ? Tolerance{2e-5, 6e-4}
                                                         : Tolerance{2e-5, 4.5e-3};  // one rounding
        EXPECT_TRUE(tensor_near(got.to(at::kDouble), want, tolerance));
      }
    }
  }
}

TEST(DecodeAttentionTest, LargeScoresAreTheReference) {
  const Paged kv(KvType::kF32, at::kFloat, 2, 64, 300, 3, /*spread=*/30.0);
  const at::Tensor q = randn({2, 4, 64}, 7);
  const DecodeSequence sequence = kv.last(2);
  const at::Tensor want = decode_attention_ref(q, kv.layout, 1, {&sequence, 1}, 1.0);
  for (const CpuIsa isa : all_isas()) {
    SCOPED_TRACE(cpu_isa_name(isa));  // scores of some hundreds, rounded at 1e-5 each
    EXPECT_TRUE(tensor_near(decode(q, kv, sequence, 1.0, isa).to(at::kDouble), want,
                            Tolerance{2e-4, 2e-4}));
  }
}

TEST(DecodeAttentionTest, IsAtensAttention) {
  constexpr int64_t T = 4, L = 333, H = 6, K = 2, N = 64;
  const Paged kv(KvType::kF32, at::kFloat, K, N, L, 3);
  const at::Tensor q = randn({T, H, N}, 7);
  const auto [k_LKN, v_LKN] = load_kv_rows(kv.layout, 1, kv.reads, L, at::kFloat);
  const auto heads = [](const at::Tensor& x, int64_t group) {
    return x.transpose(0, 1).repeat_interleave(group, 0).unsqueeze(0);
  };
  const at::Tensor mask = at::full({T, L}, -INFINITY, at::kFloat).triu(L - T + 1);
  const at::Tensor want = at::scaled_dot_product_attention(
      heads(q, 1), heads(k_LKN, H / K), heads(v_LKN, H / K), mask, 0.0, false, 0.125);
  for (const CpuIsa isa : all_isas()) {
    SCOPED_TRACE(cpu_isa_name(isa));
    EXPECT_TRUE(tensor_near(decode(q, kv, kv.last(T), 0.125, isa), want[0].transpose(0, 1),
                            Tolerance{3e-6, 1e-5}));
  }
}

// Several sequences at once, one thread to five, all new rows at once or one after the other.
TEST(DecodeAttentionTest, RowsDependOnNothingElse) {
  const int threads = at::get_num_threads();
  for (const auto& [kv_type, dtype] : kTypes) {
    const Paged a(kv_type, dtype, 2, 64, 1100, 3), b(kv_type, dtype, 2, 64, 70, 5);
    const at::Tensor q = randn({9, 6, 64}, 7, dtype);
    const std::array<DecodeSequence, 2> both = {a.last(6), b.last(3, 6)};
    for (const CpuIsa isa : all_isas()) {
      SCOPED_TRACE(fmt::format("{} kv {}", cpu_isa_name(isa), static_cast<int>(kv_type)));
      const at::Tensor all = at::empty(q.sizes(), q.options());
      decode_attention(q, a.layout, 1, both, 0.125, all, isa);
      for (const int other : {1, 2, 3, 5}) {
        at::set_num_threads(other);
        EXPECT_TRUE(
            at::equal(decode(q.narrow(0, 0, 6), a, a.last(6), 0.125, isa), all.narrow(0, 0, 6)));
      }
      at::set_num_threads(threads);
      for (int64_t t = 0; t < 6; ++t) {
        const DecodeSequence one{a.reads, a.length - 5 + t, 0, 1};
        EXPECT_TRUE(at::equal(decode(q.narrow(0, t, 1), a, one, 0.125, isa), all.narrow(0, t, 1)));
      }
      EXPECT_TRUE(
          at::equal(decode(q.narrow(0, 6, 3), b, b.last(3), 0.125, isa), all.narrow(0, 6, 3)));
    }
  }
}

TEST(DecodeAttentionTest, WhatIsNotFiniteStaysVisible) {
  const Paged kv(KvType::kF32, at::kFloat, 2, 64, 100, 3);
  at::Tensor q = randn({1, 4, 64}, 7);
  q[0][1][5] = std::nanf("");
  for (const CpuIsa isa : all_isas()) {
    const at::Tensor got = decode(q, kv, kv.last(1), 0.125, isa);
    EXPECT_TRUE(got[0][0].isfinite().all().item<bool>()) << cpu_isa_name(isa);
    EXPECT_FALSE(got[0][1].isfinite().any().item<bool>()) << cpu_isa_name(isa);
  }
}

// A row of keys or values that is not finite spoils the rows that see it and no others.
TEST(DecodeAttentionTest, CodesOfWhatIsNotFiniteStayVisible) {
  for (const bool keys : {true, false}) {
    Paged kv(KvType::kInt8, at::kBFloat16, 2, 128, 100, 3);
    const at::Tensor good = randn({1, 2, 128}, 5, at::kBFloat16);
    at::Tensor bad = good.clone();
    bad[0][1][7] = std::numeric_limits<float>::infinity();
    store_kv_rows(kv.layout, 1, kv.pages, 98, keys ? bad : good, keys ? good : bad);
    const at::Tensor q = randn({3, 4, 128}, 7, at::kBFloat16);
    for (const CpuIsa isa : all_isas()) {
      SCOPED_TRACE(fmt::format("{} {}", cpu_isa_name(isa), keys));
      const at::Tensor got = decode(q, kv, kv.last(3), 0.125, isa);  // of positions 97 to 99
      EXPECT_TRUE(got[0].isfinite().all().item<bool>());
      for (int64_t t : {1, 2}) {
        EXPECT_TRUE(got[t].narrow(0, 0, 2).isfinite().all().item<bool>());
        EXPECT_FALSE(got[t].narrow(0, 2, 2).isfinite().any().item<bool>());
      }
    }
  }
}

// Queries and weights of int8 caches are rounded to 16 bits: to the largest of a row, so also where
// rows are tiny or huge.
TEST(DecodeAttentionTest, CodesKeepTheirScale) {
  for (const double size : {1e-6, 1.0, 1e6}) {
    const Paged kv(KvType::kInt8, at::kBFloat16, 2, 128, 300, 3, /*spread=*/1.0 / size);
    const at::Tensor q = (randn({2, 4, 128}, 7) * size).to(at::kBFloat16);
    const DecodeSequence sequence = kv.last(2);
    const at::Tensor want = decode_attention_ref(q, kv.layout, 1, {&sequence, 1}, 0.3);
    for (const CpuIsa isa : all_isas()) {
      SCOPED_TRACE(fmt::format("{} {}", cpu_isa_name(isa), size));
      EXPECT_TRUE(tensor_near(decode(q, kv, sequence, 0.3, isa).to(at::kDouble), want,
                              Tolerance{4e-5, 4.5e-3}));
    }
  }
}

TEST(DecodeAttentionTest, ErrorsNameWhatDoesNotFit) {
  const Paged kv(KvType::kF32, at::kFloat, 2, 64, 100, 3);
  const auto run = [&](const at::Tensor& q, DecodeSequence s) { decode(q, kv, s, 1.0, cpu_isa()); };
  EXPECT_TRUE((throws_with<Error>([&] { run(randn({1, 3, 64}, 1), kv.last(1)); }, {"3", "2"})));
  EXPECT_TRUE((throws_with<Error>([&] { run(randn({1, 4, 32}, 1), kv.last(1)); }, {"q_THN"})));
  EXPECT_TRUE((throws_with<Error>([&] { run(randn({1, 4, 64}, 1), kv.last(2)); }, {"0 to 2"})));
  EXPECT_TRUE((throws_with<Error>(
      [&] {
        run(randn({1, 4, 64}, 1), {kv.reads, 200, 0, 1});
      },
      {"200 positions in 2 pages"})));
}

}  // namespace
}  // namespace euromodal
