// slot_decoder.cpp — see slot_decoder.h. A step of a block is five kernels: norm + qkv, RoPE +
// cache write + attention, output projection + residual, norm + gate-up + SwiGLU, down + residual.
// Everything that changes from step to step lies on the device, so a replay needs no argument. Each
// linear asks for the first bytes of the next one's weight, so that memory is busy between them.
#include "backbone/cuda/slot_decoder.h"

#include <bit>
#include <cmath>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "backbone/kernels/argmax/argmax_kernel.h"
#include "backbone/kernels/decode_attention/decode_attention_kernel.h"
#include "backbone/kernels/ops.h"
#include "backbone/kernels/to_device.h"
#include "core/error.h"

namespace euromodal {

namespace {

constexpr int64_t kSkinnyRows = 16;  // of the kernel; wider steps use LibTorch's products

void check_step(cudaError_t error, const char* what) {
  check(error == cudaSuccess, "{}: CUDA error {}", what, static_cast<int>(error));
}

int64_t positions_of(const LlamaConfig& config, const DecoderOptions& options) {
  return options.max_positions > 0 ? options.max_positions : config.max_positions;
}

int64_t cache_tokens_of(const LlamaConfig& config, const DecoderOptions& options,
                        const Launches& launches) {
  const int64_t wanted = options.cache_tokens > 0
                             ? options.cache_tokens
                             : options.sequences * positions_of(config, options);
  if (options.cache_share <= 0.0) return wanted;
  const int64_t token =
      2 * config.num_layers * config.num_kv_heads * config.head_dim * (options.fp8_cache ? 1 : 2);
  const auto room =
      static_cast<int64_t>(options.cache_share * static_cast<double>(launches.free_memory()));
  const int64_t tokens = std::min(wanted, room / token / kPagePositions * kPagePositions);
  check(tokens > 0, "no memory on the device for keys and values beside the weights");
  return tokens;
}

}  // namespace

SlotDecoder::SlotDecoder(const Llama& llama, const DecoderOptions& options, Launches launches)
    : llama_(llama),
      config_(llama.config()),
      options_(options),
      launches_(std::move(launches)),
      blocks_(decode_blocks(llama, options.weights, launches_.stream())),
      cache_(std::make_shared<PagedCache>(
          config_, options.sequences, positions_of(config_, options),
          cache_tokens_of(config_, options, launches_),
          options.fp8_cache ? at::kFloat8_e4m3fn : at::kBFloat16, llama.embedding_VD().device())),
      table_(llama.rope_for(positions_of(config_, options))),
      lengths_(static_cast<size_t>(options.sequences), 0),
      sequences_(static_cast<size_t>(options.sequences)),
      sampler_(options.sequences, config_.vocab_size, llama.embedding_VD().device()) {
  const c10::NoGradGuard no_grad;
  const int64_t S = options.sequences, H = config_.num_heads, K = config_.num_kv_heads,
                N = config_.head_dim;
  const auto bf16 = llama.embedding_VD().options().requires_grad(false);
  const auto f32 = bf16.dtype(at::kFloat), i32 = bf16.dtype(at::kInt), i64 = bf16.dtype(at::kLong);
  const std::vector<const Linear*> head = {&llama.head()};
  head_ = fuse(head, std::nullopt, launches_.stream());
  kv_scale_2_ = at::ones({2}, f32);
  token_S_ = at::zeros({S}, i64);
  length_S_ = at::zeros({S}, i32);
  active_S_ = at::zeros({S}, i32);
  logits_SV_ = at::zeros({S, config_.vocab_size}, f32);
  h_SD_ = at::zeros({S, config_.hidden_size}, bf16);
  qkv_SO_ = at::zeros({S, (H + 2 * K) * N}, bf16);
  mixed_SHN_ = at::zeros({S, H, N}, bf16);
  inner_SF_ = at::zeros({S, config_.intermediate_size}, bf16);
  int64_t floats = 0;
  for (int64_t B = 1; B < 2 * S; B *= 2) {
    const int64_t rows = std::min(B, S);
    floats = std::max(
        floats, static_cast<int64_t>(decode_attention_workspace(rows, H, N, splits_of(rows))));
  }
  attention_workspace_ = at::zeros({floats}, f32);  // zeros: blocks count there
  const auto pinned = at::TensorOptions().pinned_memory(launches_.pinned);
  drawn_host_S_ = at::zeros({S}, pinned.dtype(at::kLong));
  logprob_host_S_ = at::zeros({S}, pinned.dtype(at::kFloat));
}

int SlotDecoder::splits_of(int64_t B) const {
  return decode_attention_splits(B, config_.num_kv_heads, positions_of(config_, options_),
                                 launches_.multiprocessors);
}

int64_t SlotDecoder::bucket_of(int64_t count) const {
  check(count >= 1 && count <= options_.sequences, "a step of {} rows in a decoder of {}", count,
        options_.sequences);
  return std::min<int64_t>(static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(count))),
                           options_.sequences);
}

void SlotDecoder::begin(int64_t slot, KvCache cache, const at::Tensor& hidden_1D, int64_t longest) {
  const c10::NoGradGuard no_grad;
  const int64_t T = cache.length();
  check(cache.store() == cache_.get(),
        "begin: a cache that is not in this decoder's pages; it comes from make_cache()");
  check(T >= 1 && longest >= T, "a sequence of {} positions for at most {}", T, longest);
  (void)release(slot);
  cache.reserve(longest - T);
  sampler_.clear(slot);
  cache_->set_slot(slot, cache.numbers());
  logits_SV_.narrow(0, slot, 1).copy_(llama_.logits(hidden_1D));
  length_S_.select(0, slot).fill_(T + 1);
  active_S_.select(0, slot).fill_(1);
  lengths_[static_cast<size_t>(slot)] = T;
  sequences_[static_cast<size_t>(slot)] = std::move(cache);
}

KvCache SlotDecoder::release(int64_t slot) {
  std::optional<KvCache>& held = sequences_.at(static_cast<size_t>(slot));
  if (!held) return make_cache();
  KvCache out = std::move(*held);
  held.reset();
  int64_t& length = lengths_[static_cast<size_t>(slot)];
  out.advance(length - out.length());  // what steps have written
  out.truncate(length);                // pages behind it are free again
  cache_->set_slot(slot, {});
  for (at::Tensor* of_slot : {&length_S_, &active_S_}) of_slot->select(0, slot).zero_();
  token_S_.select(0, slot).zero_();
  length = 0;
  return out;
}

void SlotDecoder::draw_by(int64_t slot, const SampleParams& rules,
                          const std::vector<int64_t>& prompt) {
  sampler_.set(slot, rules, prompt);
}

void SlotDecoder::draw(int64_t count) {
  drawn_by_rules_ = sampler_.wanted(count);
  if (drawn_by_rules_) {
    sampler_.draw(count, logits_SV_, active_S_, token_S_, launches_.stream());
    logprob_host_S_.narrow(0, 0, count)
        .copy_(sampler_.logprob_S().narrow(0, 0, count), /*non_blocking=*/true);
  } else {
    ArgmaxArgs args;
    args.logits_BV = logits_SV_.const_data_ptr<float>();
    args.token_B = token_S_.mutable_data_ptr<int64_t>();
    args.active_B = active_S_.const_data_ptr<int32_t>();
    args.B = count;
    args.V = config_.vocab_size;
    check_step(argmax(args, launches_.stream()), "argmax");
  }
  drawn_host_S_.narrow(0, 0, count).copy_(token_S_.narrow(0, 0, count), /*non_blocking=*/true);
  mark_drawn();
  drawn_count_ = count;
}

std::vector<int64_t> SlotDecoder::tokens() {
  wait_drawn();
  const int64_t* data = drawn_host_S_.const_data_ptr<int64_t>();
  const float* logprob = logprob_host_S_.const_data_ptr<float>();
  std::vector<int64_t> out(data, data + drawn_count_);
  for (size_t s = 0; s < out.size(); ++s) {
    if (lengths_[s] == 0) out[s] = -1;
    check(out[s] < 0 || !drawn_by_rules_ || std::isfinite(logprob[s]),
          "the model's logits are not finite in slot {}; its weights may be damaged, or the "
          "weights' form too coarse for them",
          s);
  }
  return out;
}

void SlotDecoder::give(const std::vector<int64_t>& tokens) {
  std::vector<int64_t> ids = tokens;
  for (int64_t& id : ids) id = std::max<int64_t>(id, 0);
  token_S_.narrow(0, 0, static_cast<int64_t>(ids.size())).copy_(to_device(ids, token_S_.device()));
}

void SlotDecoder::step(int64_t count) {
  const c10::NoGradGuard no_grad;
  for (int64_t s = 0; s < count; ++s) {
    int64_t& length = lengths_[static_cast<size_t>(s)];
    if (length == 0) continue;
    const auto pages = static_cast<int64_t>(sequences_[static_cast<size_t>(s)]->numbers().size());
    check(length < std::min(positions_of(config_, options_), pages * PagedCache::kPage),
          "slot {} is full: {} positions; release it, or begin it for more", s, length);
    ++length;
  }
  launch(bucket_of(count));
}

void SlotDecoder::linear(const DecodeLinear& layer, SkinnyLinearArgs args, int64_t B) {
  if (B > kSkinnyRows && layer.weight_OI.defined()) return wide_linear(layer, args, B);
  // Codes alone: reading them again for every 16 rows is less than widening them once.
  args.dependent = true;
  args.l2_ahead = options_.l2_ahead.value_or(kSkinnyL2Ahead);
  const int64_t outputs = args.epilogue == SkinnyEpilogue::kSwiglu ? args.N / 2 : args.N;
  for (int64_t row = 0; row < B; row += kSkinnyRows) {
    SkinnyLinearArgs part = args;
    part.M = std::min(kSkinnyRows, B - row);
    part.x_MK = static_cast<const char*>(args.x_MK) + row * args.K * 2;
    if (args.residual_MN)
      part.residual_MN = static_cast<const char*>(args.residual_MN) + row * outputs * 2;
    part.y_MN =
        static_cast<char*>(args.y_MN) + row * outputs * (args.y_type == DType::kF32 ? 4 : 2);
    if (row + kSkinnyRows < B) part.ahead = {};
    check_step(skinny_linear(part, launches_.stream()), "skinny_linear");
  }
}

SkinnyAhead SlotDecoder::ahead_of(const DecodeLinear& next, int64_t B,
                                  SkinnyEpilogue epilogue) const {
  SkinnyLinearArgs args = next.arguments();
  args.M = std::min(kSkinnyRows, B);
  args.epilogue = epilogue;
  return skinny_ahead(args, options_.l2_ahead.value_or(kSkinnyL2Ahead));
}

SkinnyLinearArgs SlotDecoder::from_hidden(const DecodeLinear& layer,
                                          const at::Tensor& norm_D) const {
  SkinnyLinearArgs args = layer.arguments();
  args.x_MK = h_SD_.const_data_ptr();
  args.norm_weight_K = norm_D.const_data_ptr();
  args.norm_eps = static_cast<float>(config_.rms_norm_eps);
  return args;
}

SkinnyLinearArgs SlotDecoder::onto_hidden(const DecodeLinear& layer, const at::Tensor& x) const {
  SkinnyLinearArgs args = layer.arguments();
  args.x_MK = x.const_data_ptr();
  args.residual_MN = h_SD_.const_data_ptr();
  args.y_MN = h_SD_.mutable_data_ptr();
  return args;
}

void SlotDecoder::run(int64_t B) {
  at::Tensor h_BD = h_SD_.narrow(0, 0, B);
  at::index_select_out(h_BD, llama_.embedding_VD(), 0, token_S_.narrow(0, 0, B));
  for (int64_t index = 0; index < config_.num_layers; ++index) block(index, B);
  SkinnyLinearArgs args = from_hidden(head_, llama_.final_norm_D());
  args.y_MN = logits_SV_.mutable_data_ptr();
  args.y_type = DType::kF32;
  args.ahead = ahead_of(blocks_.front().qkv, B);  // of the next step
  linear(head_, args, B);
  length_S_.narrow(0, 0, B).add_(active_S_.narrow(0, 0, B));
}

void SlotDecoder::block(int64_t index, int64_t B) {
  const DecodeBlock& weights = blocks_[static_cast<size_t>(index)];
  const LlamaBlock& norms = llama_.blocks()[static_cast<size_t>(index)];
  const int64_t H = config_.num_heads, K = config_.num_kv_heads, N = config_.head_dim;

  SkinnyLinearArgs qkv = from_hidden(weights.qkv, norms.input_norm_D);
  qkv.y_MN = qkv_SO_.mutable_data_ptr();
  qkv.ahead = ahead_of(weights.o, B);
  linear(weights.qkv, qkv, B);

  DecodeAttentionArgs attention{};
  attention.qkv_BO = qkv_SO_.const_data_ptr();
  attention.cos_PN = table_.cos_PN.const_data_ptr<float>();
  attention.sin_PN = table_.sin_PN.const_data_ptr<float>();
  attention.k_pages = cache_->k_pages(index);
  attention.v_pages = cache_->v_pages(index);
  attention.kv_type = options_.fp8_cache ? DType::kFp8E4M3 : DType::kBf16;
  if (options_.fp8_cache) attention.kv_scale_2 = kv_scale_2_.const_data_ptr<float>();
  attention.length_B = length_S_.const_data_ptr<int32_t>();
  attention.page_table_BP = cache_->table().const_data_ptr<int32_t>();
  attention.max_pages = cache_->max_pages();
  attention.y_BHN = mixed_SHN_.mutable_data_ptr();
  attention.workspace = attention_workspace_.mutable_data_ptr<float>();
  attention.B = B;
  attention.H = H;
  attention.K = K;
  attention.N = N;
  attention.page_size = PagedCache::kPage;
  attention.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(N)));
  attention.splits = splits_of(B);
  attention.dependent = true;
  check_step(decode_attention(attention, launches_.stream()), "decode_attention");

  SkinnyLinearArgs o = onto_hidden(weights.o, mixed_SHN_);
  o.ahead = ahead_of(weights.gate_up, B, SkinnyEpilogue::kSwiglu);
  linear(weights.o, o, B);

  SkinnyLinearArgs gate_up = from_hidden(weights.gate_up, norms.post_norm_D);
  gate_up.epilogue = SkinnyEpilogue::kSwiglu;
  gate_up.y_MN = inner_SF_.mutable_data_ptr();
  gate_up.ahead = ahead_of(weights.down, B);
  linear(weights.gate_up, gate_up, B);

  SkinnyLinearArgs down = onto_hidden(weights.down, inner_SF_);
  const auto next = static_cast<size_t>(index) + 1;
  down.ahead = ahead_of(next < blocks_.size() ? blocks_[next].qkv : head_, B);
  linear(weights.down, down, B);
}

// The same in LibTorch's products: pointers back to tensors of B rows.
void SlotDecoder::wide_linear(const DecodeLinear& layer, const SkinnyLinearArgs& args, int64_t B) {
  const auto options = h_SD_.options();
  const auto view = [&](const void* data, int64_t width, at::ScalarType type) {
    return at::from_blob(const_cast<void*>(data), {B, width}, options.dtype(type));
  };
  const Segments rows = Segments::one(B);
  at::Tensor x_BI = view(args.x_MK, args.K, at::kBFloat16);
  if (args.norm_weight_K != nullptr) {
    const at::Tensor weight_D =
        at::from_blob(const_cast<void*>(args.norm_weight_K), {args.K}, options);
    x_BI = rms_norm(x_BI, weight_D, args.norm_eps, rows);
  }
  at::Tensor y_BO = euromodal::linear(x_BI, layer.weight_OI, layer.bias_O, rows);
  if (args.epilogue == SkinnyEpilogue::kSwiglu) y_BO = swiglu(y_BO);
  if (args.residual_MN != nullptr) y_BO = y_BO + view(args.residual_MN, args.N, at::kBFloat16);
  view(args.y_MN, y_BO.size(1), args.y_type == DType::kF32 ? at::kFloat : at::kBFloat16)
      .copy_(y_BO);
}

at::Tensor SlotDecoder::logits(int64_t count) const { return logits_SV_.narrow(0, 0, count); }

int64_t SlotDecoder::length(int64_t slot) const { return lengths_.at(static_cast<size_t>(slot)); }

int64_t SlotDecoder::weight_bytes() const {
  int64_t bytes = head_.bytes();
  for (const DecodeBlock& block : blocks_)
    bytes += block.qkv.bytes() + block.o.bytes() + block.gate_up.bytes() + block.down.bytes();
  return bytes;
}

}  // namespace euromodal
