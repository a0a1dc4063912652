// decode_pass.cpp — see decode_pass.h.
#include "backbone/decode_pass.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <memory>
#include <vector>

#include <ATen/ATen.h>

#include "backbone/kernels/decode_attention/decode_plan.h"
#include "backbone/kernels/decode_attention/kv_rows.h"
#include "backbone/kernels/norm_rows.h"
#include "backbone/kernels/packed_linear/packed_product.h"
#include "backbone/kernels/rope/rope_rows.h"
#include "backbone/kernels/swiglu/swiglu_rows.h"
#include "backbone/kernels/team.h"
#include "core/error.h"

namespace euromodal {

namespace {

constexpr int64_t kProducts = 4;  // of a block: q, k, v; o; gate, up; down

bool plain(const at::Tensor& t, at::ScalarType dtype) {
  return !t.defined() || (t.scalar_type() == dtype && t.is_contiguous() && t.is_cpu());
}

bool block_fits(const LlamaBlock& b, at::ScalarType dtype) {
  for (const Linear* linear : b.linears()) {
    if (linear->packed() == nullptr || !plain(linear->bias_O(), dtype)) return false;
    if (linear->packed()->form.form == WeightForm::kBf16 && dtype != at::kBFloat16) return false;
  }
  const auto alike = [](const Linear& one, const Linear& other) {
    return one.packed()->form == other.packed()->form;
  };
  return alike(b.q, b.k) && alike(b.q, b.v) && alike(b.gate, b.up) &&
         plain(b.input_norm_D, dtype) && plain(b.post_norm_D, dtype);
}

/// The sequences of a pass, and where their new rows go.
struct DecodeRows {
  std::vector<DecodeSequence> sequences;
  std::vector<int64_t> positions;  // of each row
  std::vector<uint8_t*> pages;     // in which it goes
};

DecodeRows decode_rows(const Segments& rows, std::span<KvCache* const> caches) {
  DecodeRows out;
  for (int64_t s = 0; s < rows.count(); ++s) {
    KvCache& cache = *caches[static_cast<size_t>(s)];
    const int64_t before = cache.length(), count = rows.length(s);
    cache.reserve(count);
    out.sequences.push_back({cache.pages(), before + count, rows.begin(s), count});
    for (int64_t p = before; p < before + count; ++p) {
      out.positions.push_back(p);
      out.pages.push_back(cache.own_page(p / kPagePositions));
    }
  }
  return out;
}

/// Pieces of one allocation, each beginning in a line of the cache of its own.
class Memory {
 public:
  template <typename T>
  void want(T*& piece, int64_t count) {
    wanted_.push_back({reinterpret_cast<void**>(&piece), bytes_});
    bytes_ += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
  }
  void allocate() {
    held_ = at::empty({bytes_}, at::kByte);
    for (const auto& [piece, at] : wanted_) *piece = held_.mutable_data_ptr<uint8_t>() + at;
  }

 private:
  std::vector<std::pair<void**, int64_t>> wanted_;
  int64_t bytes_ = 0;
  at::Tensor held_;
};

template <typename E>
class DecodePass {
 public:
  DecodePass(const LlamaPassShared& shared, const DecodeRows& rows, const DecodePlan& plan,
             const KvLayout& layout, const at::Tensor& x_TD)
      : shared_(shared),
        c_(shared.config),
        rows_(rows),
        plan_(plan),
        layout_(layout),
        T_(x_TD.size(0)),
        x_TD_(x_TD.mutable_data_ptr<E>()),
        threads_(team_size()),
        shares_(static_cast<size_t>(kProducts * c_.num_layers * threads_)),
        attended_(std::make_unique<std::atomic<int64_t>[]>(static_cast<size_t>(c_.num_layers))) {
    const int64_t H = c_.num_heads, K = c_.num_kv_heads, N = c_.head_dim;
    memory_.want(h_TD_, T_ * std::max(c_.hidden_size, H * N));
    memory_.want(q_THN_, T_ * H * N);
    memory_.want(k_TKN_, T_ * K * N);
    memory_.want(v_TKN_, T_ * K * N);
    memory_.want(gate_TF_, T_ * c_.intermediate_size);
    memory_.want(up_TF_, T_ * c_.intermediate_size);
    memory_.want(workspace_, plan.floats());
    int64_t bytes = 0;
    for (const LlamaBlock& b : shared.blocks) {
      for (const Linear* linear : b.linears())
        bytes = std::max(bytes, inputs(nullptr, *linear).bytes());
    }
    memory_.want(ready_, bytes);
    memory_.allocate();
  }

  void run(const Team& team) const {
    for (int64_t i = 0; i < c_.num_layers; ++i) block(team, i);
  }

 private:
  PackedInputs<E> inputs(const E* x_TI, const Linear& linear) const {
    return {x_TI, T_, *linear.packed(), kernels_.widened};
  }
  static typename PackedProduct<E>::Output output(const Linear& linear, E* y_TO,
                                                  const E* add_TO = nullptr) {
    const at::Tensor& bias_O = linear.bias_O();
    return {linear.packed(), bias_O.defined() ? bias_O.const_data_ptr<E>() : nullptr, y_TO, add_TO};
  }

  template <size_t kCount>
  void product(const Team& team, int64_t index, const PackedInputs<E>& ready,
               const std::array<typename PackedProduct<E>::Output, kCount>& outputs) const {
    const PackedProduct<E> product(ready.rows(), T_, outputs, kernels_);
    product.work(
        {&shares_[static_cast<size_t>(index * threads_)], static_cast<size_t>(team.size())},
        team.rank());
    team.meet();
  }

  /// Rows of x normed and made ready for `linear`.
  PackedInputs<E> normed(const Team& team, const at::Tensor& weight_D, const Linear& linear) const {
    PackedInputs<E> out = inputs(h_TD_, linear);
    out.use(ready_);
    team.share(T_, [&](int64_t begin, int64_t end) {
      rms_norm_rows(RmsNormRows<E>{x_TD_, weight_D.const_data_ptr<E>(), h_TD_, begin, end,
                                   c_.hidden_size, c_.rms_norm_eps});
      out.prepare(begin * out.row_pieces(), end * out.row_pieces());
    });
    return out;
  }

  /// Rotates queries and keys; keys and values go into the caches.
  void enter(const Team& team, int64_t layer) const {
    const int64_t K = c_.num_kv_heads, N = c_.head_dim, group = c_.num_heads / K;
    team.share(T_ * K, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t row = i / K, head = i % K;
        const int64_t position = rows_.positions[static_cast<size_t>(row)];
        const auto rotate = [&](E* x, int64_t heads) {
          rope_rows(RopeRows<E>{x, heads * N, N, x, shared_.table.cos_PN.const_data_ptr<float>(),
                                shared_.table.sin_PN.const_data_ptr<float>(), &position, 0, 1,
                                heads, N, /*inverse=*/false});
        };
        rotate(q_THN_ + i * group * N, group);
        rotate(k_TKN_ + i * N, 1);
        store_kv_row(layout_, layer, head, rows_.pages[static_cast<size_t>(row)],
                     position % kPagePositions, k_TKN_ + i * N, v_TKN_ + i * N);
      }
    });
  }

  void block(const Team& team, int64_t layer) const {
    const LlamaBlock& b = shared_.blocks[static_cast<size_t>(layer)];
    const int64_t HN = c_.num_heads * c_.head_dim, F = c_.intermediate_size;
    const int64_t first = kProducts * layer;
    product(team, first, normed(team, b.input_norm_D, b.q),
            std::array{output(b.q, q_THN_), output(b.k, k_TKN_), output(b.v, v_TKN_)});
    enter(team, layer);
    plan_.work(attended_[static_cast<size_t>(layer)], team.rank(), layer, q_THN_, HN, workspace_);
    team.meet();
    team.share(plan_.joins(),
               [&](int64_t begin, int64_t end) { plan_.join(begin, end, workspace_, h_TD_, HN); });
    PackedInputs<E> mixed = inputs(h_TD_, b.o);
    mixed.use(ready_);
    team.share(T_ * mixed.row_pieces(),
               [&](int64_t begin, int64_t end) { mixed.prepare(begin, end); });
    product(team, first + 1, mixed, std::array{output(b.o, x_TD_, x_TD_)});

    product(team, first + 2, normed(team, b.post_norm_D, b.gate),
            std::array{output(b.gate, gate_TF_), output(b.up, up_TF_)});
    PackedInputs<E> inner = inputs(gate_TF_, b.down);
    inner.use(ready_);
    team.share(T_ * inner.row_pieces(), [&](int64_t begin, int64_t end) {
      const auto number = [&](int64_t piece) {  // the first of a piece
        return piece / inner.row_pieces() * F + piece % inner.row_pieces() * inner.piece_inputs();
      };
      swiglu_rows(SwigluRows<E>{gate_TF_, up_TF_, gate_TF_, number(begin), number(end)});
      inner.prepare(begin, end);
    });
    product(team, first + 3, inner, std::array{output(b.down, x_TD_, x_TD_)});
  }

  const LlamaPassShared& shared_;
  const LlamaConfig& c_;
  const DecodeRows& rows_;
  const DecodePlan& plan_;
  const KvLayout& layout_;
  const PackedKernels kernels_ = packed_kernels(cpu_isa());
  int64_t T_;
  E* x_TD_;  // the residual stream
  Memory memory_;
  E *h_TD_, *q_THN_, *k_TKN_, *v_TKN_, *gate_TF_, *up_TF_;
  float* workspace_;  // of attention
  uint8_t* ready_;    // the inputs of one product
  int64_t threads_;
  mutable std::vector<PackedShare> shares_;           // of each product, one for each thread
  std::unique_ptr<std::atomic<int64_t>[]> attended_;  // taken of each block's attention
};

}  // namespace

bool decode_pass_fits(const LlamaPassShared& shared, std::span<KvCache* const> caches,
                      const at::Tensor& x_TD) {
  const at::ScalarType dtype = x_TD.scalar_type();
  if (!x_TD.is_cpu() || x_TD.size(0) == 0 ||
      (dtype != at::kFloat && dtype != at::kBFloat16 && dtype != at::kHalf))
    return false;
  for (size_t s = 0; s < caches.size(); ++s) {
    if (!caches[s]->paged() || caches[s]->store() || caches[s]->layout() != caches[0]->layout() ||
        shared.rows.length(static_cast<int64_t>(s)) > kDecodeRows)
      return false;
  }
  return std::all_of(shared.blocks.begin(), shared.blocks.end(),
                     [&](const LlamaBlock& b) { return block_fits(b, dtype); });
}

at::Tensor decode_pass(const LlamaPassShared& shared, std::span<KvCache* const> caches,
                       const at::Tensor& x_TD) {
  const LlamaConfig& c = shared.config;
  const at::Tensor out_TD = x_TD.clone(at::MemoryFormat::Contiguous);
  const KvLayout layout = caches[0]->layout();
  const DecodeRows rows = decode_rows(shared.rows, caches);
  const DecodePlan plan(layout, rows.sequences, c.num_heads, x_TD.scalar_type() == at::kBFloat16,
                        1.0 / std::sqrt(static_cast<double>(c.head_dim)), team_size());
  const auto run = [&](auto zero) {
    const DecodePass<decltype(zero)> pass(shared, rows, plan, layout, out_TD);
    run_team([&](const Team& team) { pass.run(team); });
  };
  switch (x_TD.scalar_type()) {
    case at::kFloat:
      run(float{});
      break;
    case at::kBFloat16:
      run(c10::BFloat16{});
      break;
    default:
      run(c10::Half{});
  }
  for (size_t s = 0; s < caches.size(); ++s)
    caches[s]->advance(shared.rows.length(static_cast<int64_t>(s)));
  return out_TD;
}

}  // namespace euromodal
