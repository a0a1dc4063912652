// decode_attention_test.cpp — rope_store and decode_attention over shuffled pages: the first
// against rope_ref, the second against attention_ref in double, a step by the second alone against
// both, bit for bit.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "backbone/kernels/attention/attention_ref.h"
#include "backbone/kernels/decode_attention/decode_attention_kernel.h"
#include "backbone/kernels/rope/rope_ref.h"
#include "backbone/kernels/rope_store/rope_store_kernel.h"
#include "tests/support/device_buffer.h"
#include "tests/support/tensor_near.h"

namespace euromodal {
#if defined(EM_EMULATED)
namespace emulation {
void reverse_blocks(bool last_first);  // of emulation.h, which takes the place of CUDA's words
}
#endif
namespace {

using testing_support::DeviceBuffer;
using testing_support::small_sizes;
using testing_support::tensor_near;

struct Shape {
  int64_t H, K, N, page;
  std::vector<int64_t> lengths;
  bool fp8 = false;
};

/// Keys and values of each sequence, and the same in pages that lie in no order.
struct Cache {
  Shape shape;
  std::vector<at::Tensor> k_LKN, v_LKN;
  at::Tensor k_pages, v_pages, table_BP, scale_2;

  explicit Cache(const Shape& given) : shape(given) {
    int64_t most = 1, all = 1;
    for (const int64_t n : shape.lengths) {
      most = std::max(most, (n + shape.page - 1) / shape.page);
      all += (n + shape.page - 1) / shape.page;
    }
    const auto B = static_cast<int64_t>(shape.lengths.size());
    const at::ScalarType type = shape.fp8 ? at::kFloat8_e4m3fn : at::kBFloat16;
    scale_2 = at::tensor({0.5F, 0.25F});
    // What no sequence holds is NaN: it must not be read into a result.
    k_pages = at::full({all, shape.K, shape.page, shape.N}, std::nan("")).to(type);
    v_pages = k_pages.clone();
    table_BP = at::zeros({B, most}, at::kInt);
    const at::Tensor order = at::randperm(all);
    int64_t next = 0;
    for (int64_t b = 0; b < B; ++b) {
      const int64_t length = shape.lengths[static_cast<size_t>(b)];
      const auto drawn = [&](int which) {
        const at::Tensor x = at::randn({length, shape.K, shape.N});
        return shape.fp8 ? (x / scale_2[which].item<float>()).to(type) : x.to(type);
      };
      const at::Tensor k = drawn(0), v = drawn(1);
      const auto bytes = [&](const at::Tensor& x) { return shape.fp8 ? x.view(at::kByte) : x; };
      for (int64_t begin = 0; begin < length; begin += shape.page) {
        const int64_t count = std::min(shape.page, length - begin),
                      page = order[next++].item<int64_t>();
        table_BP[b][begin / shape.page] = page;
        bytes(k_pages)
            .select(0, page)
            .narrow(1, 0, count)
            .copy_(bytes(k).narrow(0, begin, count).transpose(0, 1));
        bytes(v_pages)
            .select(0, page)
            .narrow(1, 0, count)
            .copy_(bytes(v).narrow(0, begin, count).transpose(0, 1));
      }
      const auto wide = [&](const at::Tensor& x, int which) {
        return x.to(at::kFloat).to(at::kDouble) * (shape.fp8 ? scale_2[which].item<double>() : 1.0);
      };
      k_LKN.push_back(wide(k, 0));
      v_LKN.push_back(wide(v, 1));
    }
  }
};

at::Tensor stored(const Cache& cache, const at::Tensor& pages) {
  return cache.shape.fp8 ? pages.view(at::kByte) : pages;
}

/// What does not depend on how queries come in; the launch is of `rows` sequences.
DecodeAttentionArgs arguments(const Cache& cache, const DeviceBuffer& k, const DeviceBuffer& v,
                              const DeviceBuffer& scale, const DeviceBuffer& length,
                              const DeviceBuffer& table, const DeviceBuffer& work,
                              const DeviceBuffer& y, int64_t rows, int splits) {
  const Shape& s = cache.shape;
  DecodeAttentionArgs args;
  args.k_pages = k.data();
  args.v_pages = v.data();
  args.kv_type = s.fp8 ? DType::kFp8E4M3 : DType::kBf16;
  args.kv_scale_2 = s.fp8 ? scale.as<float>() : nullptr;
  args.length_B = length.as<int32_t>();
  args.page_table_BP = table.as<int32_t>();
  args.max_pages = cache.table_BP.size(1);
  args.y_BHN = y.data();
  args.workspace = work.as<float>();
  args.B = rows;
  args.H = s.H;
  args.K = s.K;
  args.N = s.N;
  args.page_size = s.page;
  args.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(s.N)));
  args.splits = splits;
  return args;
}

at::Tensor attend(const Cache& cache, const at::Tensor& q_BHN, int splits, int64_t rows) {
  const Shape& s = cache.shape;
  at::Tensor lengths = at::tensor(s.lengths, at::kLong).to(at::kInt);
  const DeviceBuffer q(q_BHN.narrow(0, 0, rows)), k(stored(cache, cache.k_pages)),
      v(stored(cache, cache.v_pages)), table(cache.table_BP), length(lengths), scale(cache.scale_2),
      work = DeviceBuffer::zeros(
          {static_cast<int64_t>(decode_attention_workspace(rows, s.H, s.N, splits))}, at::kFloat),
      y = DeviceBuffer::poisoned({rows, s.H, s.N}, at::kBFloat16);
  DecodeAttentionArgs args = arguments(cache, k, v, scale, length, table, work, y, rows, splits);
  args.q_BHN = q.data();
  args.dependent = splits % 2 == 0;
  EXPECT_EQ(decode_attention(args, nullptr), cudaSuccess);
  // The workspace serves again, and calls of fewer rows leave it fit.
  const DeviceBuffer again = DeviceBuffer::poisoned({rows, s.H, s.N}, at::kBFloat16);
  args.y_BHN = again.data();
  args.B = 1;
  EXPECT_EQ(decode_attention(args, nullptr), cudaSuccess);
  const at::Tensor first = y.tensor();
  EXPECT_TRUE(again.tensor().narrow(0, 0, 1).equal(first.narrow(0, 0, 1)));
  args.B = rows;
  EXPECT_EQ(decode_attention(args, nullptr), cudaSuccess);
  EXPECT_TRUE(again.tensor().equal(first));
  return first;
}

at::Tensor want(const Cache& cache, const at::Tensor& q_BHN) {
  std::vector<at::Tensor> out;
  for (size_t b = 0; b < cache.k_LKN.size(); ++b) {
    const at::Tensor q_1HN = q_BHN.narrow(0, static_cast<int64_t>(b), 1).to(at::kDouble);
    const int64_t length = cache.k_LKN[b].size(0);
    if (length == 0) {
      out.push_back(at::zeros_like(q_1HN));
      continue;
    }
    const AttentionArgs args{
        q_1HN,
        cache.k_LKN[b].narrow(0, length - 1, 1),
        cache.v_LKN[b].narrow(0, length - 1, 1),
        true,
        1.0 / std::sqrt(static_cast<double>(q_BHN.size(2))),
        {{cache.k_LKN[b].narrow(0, 0, length - 1), cache.v_LKN[b].narrow(0, 0, length - 1)}}};
    out.push_back(attention_ref(args, Segments::one(1)));
  }
  return at::cat(out);
}

TEST(DecodeAttentionTest, MatchesAttentionOverShuffledPages) {
  EM_NEEDS_GPU();
  std::vector<Shape> shapes{{4, 4, 64, 16, {1, 15, 16, 17, 0, 40}},
                            {6, 1, 128, 16, {33, 70}},
                            {4, 2, 128, 64, {63, 64, 65, 200}},
                            {12, 1, 64, 32, {50}},
                            {6, 2, 128, 16, {1, 31, 0, 130}, true},
                            {3, 1, 128, 128, {129, 5}},
                            {10, 1, 64, 16, {700}},
                            {2, 1, 128, 64, {3400, 1000}}};
  if (!small_sizes()) {
    shapes.push_back({48, 8, 128, 64, {4097, 1, 32768, 777}});
    shapes.push_back({48, 8, 128, 64, {4097, 1, 12345, 777}, true});
  }
  for (const Shape& shape : shapes) {
    at::manual_seed(7);
    const Cache cache(shape);
    const auto B = static_cast<int64_t>(shape.lengths.size());
    const at::Tensor q = at::randn({B, shape.H, shape.N}).to(at::kBFloat16),
                     expected = want(cache, q);
    for (const int splits : {1, 2, 5, 27}) {
      SCOPED_TRACE(fmt::format("H {} K {} N {} page {} fp8 {} splits {}", shape.H, shape.K, shape.N,
                               shape.page, shape.fp8, splits));
      const at::Tensor got = attend(cache, q, splits, B);
      EXPECT_TRUE(tensor_near(got, expected, {.abs = 8e-3, .rel = 2e-2}));
      EXPECT_TRUE(got.narrow(0, 0, 1).equal(attend(cache, q, splits, 1))) << "a row alone";
    }
  }
}

// 132 multiprocessors of two blocks; a round of a block is 128 keys.
TEST(DecodeAttentionTest, SplitsFillTheDeviceOnceInEvenRounds) {
  EXPECT_EQ(decode_attention_splits(1, 8, 1, 132), 1);
  EXPECT_EQ(decode_attention_splits(1, 8, 2048, 132), 16);
  EXPECT_EQ(decode_attention_splits(1, 8, 4096, 132), 32);
  EXPECT_EQ(decode_attention_splits(1, 8, 4225, 132), 17);   // two rounds each
  EXPECT_EQ(decode_attention_splits(1, 8, 32768, 132), 32);  // eight rounds each
  EXPECT_EQ(decode_attention_splits(1, 1, 32768, 132), 43);
  EXPECT_EQ(decode_attention_splits(16, 8, 4096, 132), 2);
  EXPECT_EQ(decode_attention_splits(64, 8, 1024, 132), 1);
}

struct Stored {
  at::Tensor q, k_pages, v_pages;
};

Stored store(const RopeStoreArgs& given, const at::Tensor& qkv, const RopeTable& rope,
             const at::Tensor& position, const at::Tensor& rope_position,
             const at::Tensor& sequence, const at::Tensor& table, int64_t pages) {
  RopeStoreArgs args = given;
  const DeviceBuffer x(qkv), cos(rope.cos_PN), sin(rope.sin_PN), at(position),
      angles(rope_position.defined() ? rope_position : position), of(sequence), rows(table),
      q = DeviceBuffer::poisoned({args.T, args.H, args.N}, at::kBFloat16),
      k = DeviceBuffer::zeros({pages, args.K, args.page_size, args.N}, at::kBFloat16),
      v = DeviceBuffer::zeros({pages, args.K, args.page_size, args.N}, at::kBFloat16);
  args.qkv_TO = x.data();
  args.q_THN = q.data();
  args.k_pages = k.data();
  args.v_pages = v.data();
  args.cos_PN = cos.as<float>();
  args.sin_PN = sin.as<float>();
  args.position_T = at.as<int32_t>();
  if (rope_position.defined()) args.rope_position_3T = angles.as<int32_t>();
  args.sequence_T = of.as<int32_t>();
  args.page_table_SP = rows.as<int32_t>();
  args.max_pages = table.size(1);
  EXPECT_EQ(rope_store(args, nullptr), cudaSuccess);
  return {q.tensor(), k.tensor(), v.tensor()};
}

// What a step of all sequences leaves: attention of their last positions, and the pages.
struct Step {
  at::Tensor y_BHN, k_pages, v_pages;
};

// By rope_store and decode_attention, or by decode_attention alone; the last positions come with
// qkv_BO, and their places in the pages are not yet written.
Step step(const Cache& cache, const at::Tensor& qkv_BO, const RopeTable& rope, int splits,
          bool alone) {
  const Shape& s = cache.shape;
  const auto B = static_cast<int64_t>(s.lengths.size());
  const at::Tensor lengths = at::tensor(s.lengths, at::kLong).to(at::kInt),
                   filled = at::nonzero(lengths).view({-1});
  const DeviceBuffer all(qkv_BO), some(qkv_BO.index_select(0, filled)), cos(rope.cos_PN),
      sin(rope.sin_PN), k(stored(cache, cache.k_pages)), v(stored(cache, cache.v_pages)),
      table(cache.table_BP), length(lengths), scale(cache.scale_2),
      position((lengths.index_select(0, filled) - 1).to(at::kInt)), sequence(filled.to(at::kInt)),
      turned = DeviceBuffer::poisoned({filled.size(0), s.H, s.N}, at::kBFloat16),
      work = DeviceBuffer::zeros(
          {static_cast<int64_t>(decode_attention_workspace(B, s.H, s.N, splits))}, at::kFloat),
      y = DeviceBuffer::poisoned({B, s.H, s.N}, at::kBFloat16);
  at::Tensor q_BHN = at::zeros({B, s.H, s.N}, at::kBFloat16);
  if (!alone) {
    RopeStoreArgs args;
    args.qkv_TO = some.data();
    args.q_THN = turned.data();
    args.k_pages = k.data();
    args.v_pages = v.data();
    args.kv_type = s.fp8 ? DType::kFp8E4M3 : DType::kBf16;
    args.kv_scale_2 = s.fp8 ? scale.as<float>() : nullptr;
    args.cos_PN = cos.as<float>();
    args.sin_PN = sin.as<float>();
    args.position_T = position.as<int32_t>();
    args.sequence_T = sequence.as<int32_t>();
    args.page_table_SP = table.as<int32_t>();
    args.max_pages = cache.table_BP.size(1);
    args.T = filled.size(0);
    args.H = s.H;
    args.K = s.K;
    args.N = s.N;
    args.page_size = s.page;
    EXPECT_EQ(rope_store(args, nullptr), cudaSuccess);
    q_BHN.index_copy_(0, filled, turned.tensor());
  }
  const DeviceBuffer q(q_BHN);
  DecodeAttentionArgs args = arguments(cache, k, v, scale, length, table, work, y, B, splits);
  if (alone) {
    args.qkv_BO = all.data();
    args.cos_PN = cos.as<float>();
    args.sin_PN = sin.as<float>();
  } else {
    args.q_BHN = q.data();
  }
  args.dependent = true;
  EXPECT_EQ(decode_attention(args, nullptr), cudaSuccess);
  return {y.tensor(), k.tensor(), v.tensor()};
}

TEST(DecodeAttentionTest, AStepAloneHasTheBitsOfRopeStoreBefore) {
  EM_NEEDS_GPU();
  std::vector<Shape> shapes{
      {6, 1, 128, 16, {33, 1, 0, 70, 16}}, {20, 2, 128, 64, {64, 65, 300}},
      {12, 1, 64, 32, {17, 700}},          {6, 2, 128, 16, {1, 31, 0, 130}, true},
      {20, 2, 128, 64, {128, 129}, true},  {4, 4, 64, 16, {1, 15, 16, 17, 0, 40}}};
  if (!small_sizes()) {
    shapes.push_back({48, 8, 128, 64, {4097, 1, 20000, 777}});
    shapes.push_back({48, 8, 128, 64, {4097, 1, 12345, 777}, true});
  }
  for (const Shape& shape : shapes) {
    at::manual_seed(9);
    Cache cache(shape);
    const auto B = static_cast<int64_t>(shape.lengths.size());
    int64_t longest = 1;
    for (int64_t b = 0; b < B; ++b) {
      const int64_t length = shape.lengths[static_cast<size_t>(b)], at = (length - 1) % shape.page;
      longest = std::max(longest, length);
      if (length == 0) continue;
      const auto page = cache.table_BP[b][(length - 1) / shape.page].item<int64_t>();
      for (const at::Tensor& pages :
           {cache.k_pages, cache.v_pages})  // nobody may use what is there
        stored(cache, pages).select(0, page).select(1, at).view(at::kByte).fill_(0xff);
    }
    const RopeTable rope =
        rope_table({.head_dim = shape.N, .max_positions = longest}, longest, longest);
    const at::Tensor qkv = at::randn({B, (shape.H + 2 * shape.K) * shape.N}).to(at::kBFloat16);
    for (const int splits : {1, 2, 5}) {
      SCOPED_TRACE(fmt::format("H {} K {} N {} page {} fp8 {} splits {}", shape.H, shape.K, shape.N,
                               shape.page, shape.fp8, splits));
      const Step want = step(cache, qkv, rope, splits, /*alone=*/false),
                 got = step(cache, qkv, rope, splits, /*alone=*/true);
      EXPECT_TRUE(got.y_BHN.view(at::kShort).equal(want.y_BHN.view(at::kShort)));
      EXPECT_TRUE(got.k_pages.view(at::kByte).equal(want.k_pages.view(at::kByte)));
      EXPECT_TRUE(got.v_pages.view(at::kByte).equal(want.v_pages.view(at::kByte)));
      EXPECT_TRUE(got.y_BHN.isfinite().all().item<bool>());
#if defined(EM_EMULATED)  // where no block has stored what another would find
      emulation::reverse_blocks(true);
      const Step backwards = step(cache, qkv, rope, splits, /*alone=*/true);
      emulation::reverse_blocks(false);
      EXPECT_TRUE(backwards.y_BHN.view(at::kShort).equal(want.y_BHN.view(at::kShort)));
      EXPECT_TRUE(backwards.k_pages.view(at::kByte).equal(want.k_pages.view(at::kByte)));
#endif
    }
  }
}

TEST(RopeStoreTest, RotatesAndFilesByPosition) {
  EM_NEEDS_GPU();
  at::manual_seed(11);
  const int64_t T = 7, H = 6, K = 2, N = 64, P = 4;
  RopeStoreArgs args;
  args.T = T;
  args.H = H;
  args.K = K;
  args.N = N;
  args.page_size = P;
  const at::Tensor qkv = at::randn({T, (H + 2 * K) * N}).to(at::kBFloat16);
  const RopeTable rope = rope_table({.head_dim = N, .max_positions = 64}, 40, 64);
  const at::Tensor position = at::tensor({0, 5, 9, 3, 11, 2, 7}, at::kInt),
                   sequence = at::tensor({0, 1, 0, 2, 2, 1, 0}, at::kInt);
  const at::Tensor table = at::randperm(9).to(at::kInt).view({3, 3});
  const Stored got = store(args, qkv, rope, position, {}, sequence, table, 9);
  const at::Tensor x = qkv.view({T, H + 2 * K, N});
  const at::Tensor turned =
      rope_ref(x.narrow(1, 0, H + K).contiguous(), rope, position.to(at::kLong));
  EXPECT_TRUE(got.q.equal(turned.narrow(1, 0, H)));
  for (int64_t t = 0; t < T; ++t) {
    const auto p = position[t].item<int64_t>(),
               page = table[sequence[t].item<int64_t>()][p / P].item<int64_t>();
    EXPECT_TRUE(got.k_pages[page].select(1, p % P).equal(turned[t].narrow(0, H, K))) << t;
    EXPECT_TRUE(got.v_pages[page].select(1, p % P).equal(x[t].narrow(0, H + K, K))) << t;
  }
}

TEST(RopeStoreTest, MropeTakesEachFrequencyFromItsAxis) {
  EM_NEEDS_GPU();
  at::manual_seed(12);
  const int64_t T = 3, N = 64;
  for (const bool interleaved : {false, true}) {
    RopeStoreArgs args;
    args.T = T;
    args.H = 2;
    args.K = 1;
    args.N = N;
    args.page_size = 16;
    args.mrope.sizes[0] = 12;
    args.mrope.sizes[1] = args.mrope.sizes[2] = 10;
    args.mrope.interleaved = interleaved;
    const at::Tensor qkv = at::randn({T, 4 * N}).to(at::kBFloat16);
    const RopeTable rope = rope_table({.head_dim = N, .max_positions = 64}, 40, 64);
    const at::Tensor axes =
        at::tensor({5, 6, 7, 20, 21, 22, 31, 30, 29}, at::kInt).view({3, 3}).contiguous();
    const at::Tensor place = at::tensor({0, 1, 2}, at::kInt);
    const Stored got = store(args, qkv, rope, place, axes, at::zeros({T}, at::kInt),
                             at::zeros({1, 1}, at::kInt), 1);
    // A table of one row a token, each frequency from the row of its axis.
    RopeTable mixed{at::empty({T, N}), at::empty({T, N})};
    for (int64_t i = 0; i < N / 2; ++i) {
      int64_t axis = i < 12 ? 0 : i < 22 ? 1 : 2;
      if (interleaved) axis = i % 3 == 1 && i < 30 ? 1 : i % 3 == 2 && i < 30 ? 2 : 0;
      for (const int64_t n : {i, i + N / 2}) {
        for (int64_t t = 0; t < T; ++t) {
          mixed.cos_PN[t][n] = rope.cos_PN[axes[axis][t].item<int64_t>()][n];
          mixed.sin_PN[t][n] = rope.sin_PN[axes[axis][t].item<int64_t>()][n];
        }
      }
    }
    const at::Tensor turned =
        rope_ref(qkv.view({T, 4, N}).narrow(1, 0, 2).contiguous(), mixed, at::arange(T));
    EXPECT_TRUE(got.q.equal(turned)) << (interleaved ? "interleaved" : "in sections");
  }
}

}  // namespace
}  // namespace euromodal
