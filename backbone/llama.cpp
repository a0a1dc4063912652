// llama.cpp — see llama.h. Reference: transformers 5.23 LlamaForCausalLM (pre-norm blocks: x +=
// o(attention(norm x)); x += down(silu(gate) · up)). T packed rows, D width, H query heads, K
// key/value heads, N head width, F feed-forward width, V vocabulary.
#include "backbone/llama.h"

#include <cmath>
#include <mutex>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "backbone/kernels/ops.h"
#include "core/files.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

struct LlamaLinear {
  at::Tensor weight_OI, bias_O;
  at::Tensor operator()(const at::Tensor& x_TI, const Segments& rows) const {
    return linear(x_TI, weight_OI, bias_O, rows);
  }
};

// Drawn with variance 1/fan_in; what writes into the residual stream starts at zero, so that a
// fresh model is the identity on its embeddings.
LlamaLinear llama_linear(const WeightScope& w, int64_t out, int64_t in, bool bias,
                         bool zero = false) {
  LlamaLinear made;
  made.weight_OI =
      w.take("weight", {out, in},
             zero ? Init::zeros() : Init::normal(1.0 / std::sqrt(static_cast<double>(in))));
  if (bias) made.bias_O = w.take("bias", {out}, Init::zeros());
  return made;
}

struct LlamaBlock {
  at::Tensor input_norm_D, post_norm_D;
  LlamaLinear q, k, v, o, gate, up, down;
};

std::vector<int64_t> llama_positions(const Segments& rows) {
  std::vector<int64_t> out(static_cast<size_t>(rows.rows()));
  for (int64_t s = 0; s < rows.count(); ++s) {
    for (int64_t t = rows.begin(s); t < rows.cu[s + 1]; ++t)
      out[static_cast<size_t>(t)] = t - rows.begin(s);
  }
  return out;
}

}  // namespace

struct Llama::Impl {
  LlamaConfig config;
  at::Tensor embedding_VD, head_VD, norm_D;
  std::vector<LlamaBlock> blocks;
  double scale = 0.0;
  std::mutex mutex;  // guards table, which grows on demand
  RopeTable table;

  RopeTable rope_for(int64_t positions) {
    const std::scoped_lock lock(mutex);
    const int64_t have = table.cos_PN.defined() ? table.cos_PN.size(0) : 0;
    if (have < positions) {
      const int64_t rows = std::min(config.max_positions, std::max<int64_t>(2 * positions, 256));
      table = rope_table(config.rope, rows, config.max_positions);
    }
    return table;
  }
};

Llama::Llama(const LlamaConfig& config, const WeightScope& weights)
    : impl_(std::make_unique<Impl>()) {
  const int64_t D = config.hidden_size, F = config.intermediate_size, V = config.vocab_size;
  const int64_t Q = config.num_heads * config.head_dim, KV = config.num_kv_heads * config.head_dim;
  impl_->config = config;
  impl_->scale = 1.0 / std::sqrt(static_cast<double>(config.head_dim));
  const WeightScope model = weights.scope("model.");
  impl_->embedding_VD = model.take("embed_tokens.weight", {V, D}, Init::normal(0.02));
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const WeightScope w = model.scope(fmt::format("layers.{}.", i));
    LlamaBlock b;
    b.input_norm_D = w.take("input_layernorm.weight", {D}, Init::ones());
    b.q = llama_linear(w.scope("self_attn.q_proj."), Q, D, config.attention_bias);
    b.k = llama_linear(w.scope("self_attn.k_proj."), KV, D, config.attention_bias);
    b.v = llama_linear(w.scope("self_attn.v_proj."), KV, D, config.attention_bias);
    b.o = llama_linear(w.scope("self_attn.o_proj."), D, Q, config.attention_bias, /*zero=*/true);
    b.post_norm_D = w.take("post_attention_layernorm.weight", {D}, Init::ones());
    b.gate = llama_linear(w.scope("mlp.gate_proj."), F, D, config.mlp_bias);
    b.up = llama_linear(w.scope("mlp.up_proj."), F, D, config.mlp_bias);
    b.down = llama_linear(w.scope("mlp.down_proj."), D, F, config.mlp_bias, /*zero=*/true);
    w.ignore("self_attn.rotary_emb.inv_freq");  // files of transformers before 4.31 hold it; it
                                                // follows from the config
    impl_->blocks.push_back(std::move(b));
  }
  impl_->norm_D = model.take("norm.weight", {D}, Init::ones());
  if (config.tie_embeddings) {
    weights.ignore("lm_head.weight");
    impl_->head_VD = impl_->embedding_VD;
  } else {
    impl_->head_VD = weights.take("lm_head.weight", {V, D}, Init::normal(0.02));
  }
}

Llama::~Llama() = default;
Llama::Llama(Llama&&) noexcept = default;
Llama& Llama::operator=(Llama&&) noexcept = default;

const LlamaConfig& Llama::config() const { return impl_->config; }
const at::Tensor& Llama::embedding_VD() const { return impl_->embedding_VD; }
const at::Tensor& Llama::head_VD() const { return impl_->head_VD; }
at::ScalarType Llama::dtype() const { return impl_->embedding_VD.scalar_type(); }
KvCache Llama::make_cache() const {
  return {impl_->config.num_layers, impl_->config.num_kv_heads, impl_->config.head_dim, dtype()};
}

at::Tensor Llama::embed(const at::Tensor& ids_T, const Segments& rows) const {
  if (ids_T.is_cpu()) {
    const int64_t V = impl_->config.vocab_size;
    const int64_t* ids = ids_T.const_data_ptr<int64_t>();
    for (int64_t t = 0; t < ids_T.numel(); ++t)
      check<DataError>(ids[t] >= 0 && ids[t] < V, "token id {} is outside the vocabulary of {}",
                       ids[t], V);
  }
  return embedding(impl_->embedding_VD, ids_T, rows);
}

at::Tensor Llama::forward(const at::Tensor& emb_TD, const Segments& rows) const {
  const LlamaConfig& c = impl_->config;
  const int64_t T = emb_TD.size(0), H = c.num_heads, K = c.num_kv_heads, N = c.head_dim;
  TORCH_CHECK(emb_TD.dim() == 2 && emb_TD.size(1) == c.hidden_size && rows.rows() == T,
              "Llama::forward: expected [", rows.rows(), ", ", c.hidden_size, "], got ",
              emb_TD.sizes());
  int64_t longest = 0;
  for (int64_t s = 0; s < rows.count(); ++s) longest = std::max(longest, rows.length(s));
  check<DataError>(longest <= c.max_positions,
                   "a sample of {} tokens is longer than max_position_embeddings {}", longest,
                   c.max_positions);
  const RopeTable table = impl_->rope_for(longest);
  const at::Tensor positions_T = at::tensor(llama_positions(rows), at::kLong).to(emb_TD.device());

  at::Tensor x_TD = emb_TD;
  for (const LlamaBlock& b : impl_->blocks) {
    const at::Tensor h_TD = rms_norm(x_TD, b.input_norm_D, c.rms_norm_eps, rows);
    const at::Tensor q_THN = rope(b.q(h_TD, rows).view({T, H, N}), table, positions_T);
    const at::Tensor k_TKN = rope(b.k(h_TD, rows).view({T, K, N}), table, positions_T);
    const at::Tensor v_TKN = b.v(h_TD, rows).view({T, K, N});
    const at::Tensor a_THN = attention(
        {.q_THN = q_THN, .k_TKN = k_TKN, .v_TKN = v_TKN, .causal = true, .scale = impl_->scale},
        rows);
    x_TD = x_TD + b.o(a_THN.reshape({T, H * N}), rows);
    const at::Tensor m_TD = rms_norm(x_TD, b.post_norm_D, c.rms_norm_eps, rows);
    x_TD = x_TD + b.down(swiglu(b.gate(m_TD, rows), b.up(m_TD, rows)), rows);
  }
  return rms_norm(x_TD, impl_->norm_D, c.rms_norm_eps, rows);
}

at::Tensor Llama::forward_cached(const at::Tensor& emb_TD, KvCache& cache) const {
  const LlamaConfig& c = impl_->config;
  const int64_t T = emb_TD.size(0), H = c.num_heads, K = c.num_kv_heads, N = c.head_dim,
                before = cache.length();
  check<DataError>(before + T <= c.max_positions,
                   "a sequence of {} tokens is longer than max_position_embeddings {}", before + T,
                   c.max_positions);
  const c10::NoGradGuard no_grad;
  const RopeTable table = impl_->rope_for(before + T);
  const at::Tensor positions_T =
      at::arange(before, before + T, at::TensorOptions().dtype(at::kLong).device(emb_TD.device()));
  const Segments rows = Segments::one(T);

  at::Tensor x_TD = emb_TD;
  for (size_t i = 0; i < impl_->blocks.size(); ++i) {
    const LlamaBlock& b = impl_->blocks[i];
    const at::Tensor h_TD = rms_norm(x_TD, b.input_norm_D, c.rms_norm_eps, rows);
    const at::Tensor q_THN = rope(b.q(h_TD, rows).view({T, H, N}), table, positions_T);
    const auto [k_LKN, v_LKN] = cache.append(
        static_cast<int64_t>(i), rope(b.k(h_TD, rows).view({T, K, N}), table, positions_T),
        b.v(h_TD, rows).view({T, K, N}));
    x_TD =
        x_TD + b.o(attention_cached(q_THN, k_LKN, v_LKN, impl_->scale).reshape({T, H * N}), rows);
    const at::Tensor m_TD = rms_norm(x_TD, b.post_norm_D, c.rms_norm_eps, rows);
    x_TD = x_TD + b.down(swiglu(b.gate(m_TD, rows), b.up(m_TD, rows)), rows);
  }
  return rms_norm(x_TD, impl_->norm_D, c.rms_norm_eps, rows);
}

at::Tensor Llama::logits(const at::Tensor& hidden_RD) const {
  const c10::NoGradGuard no_grad;
  return linear(hidden_RD, impl_->head_VD, at::Tensor(), Segments::one(hidden_RD.size(0)))
      .to(at::kFloat);  // rounded to the weights' dtype first, as transformers does
}

TextModel load_text_model(const fs::path& dir, std::optional<at::ScalarType> dtype) {
  TextModel out;
  out.config = LlamaConfig::load(dir);
  if (!dtype) {
    for (const TensorInfo& info : list_model_tensors(dir)) {
      if (info.name == "model.embed_tokens.weight") dtype = info.dtype;
    }
  }
  Weights weights = Weights::from_folder(dir, dtype.value_or(at::kFloat));
  out.llama = std::make_unique<Llama>(out.config, weights.scope());
  weights.finish();
  out.parameters = weights.taken();
  return out;
}

TextModel random_text_model(const LlamaConfig& config, uint64_t seed) {
  TextModel out;
  out.config = config;
  Weights weights = Weights::random(seed, at::kFloat);
  out.llama = std::make_unique<Llama>(config, weights.scope());
  out.parameters = weights.taken();
  return out;
}

void save_text_model(const fs::path& dir, const LlamaConfig& config,
                     const std::vector<NamedTensor>& parameters) {
  fs::create_directories(dir);
  LlamaConfig saved = config;
  if (!parameters.empty()) {
    const at::ScalarType type = parameters.front().tensor.scalar_type();
    saved.dtype = type == at::kBFloat16 ? "bfloat16" : type == at::kHalf ? "float16" : "float32";
  }
  write_text_atomic(dir / "config.json", saved.to_json().dump(1) + "\n");
  Json generation = Json::object();
  if (config.bos_id >= 0) generation["bos_token_id"] = config.bos_id;
  if (!config.eos_ids.empty()) generation["eos_token_id"] = config.eos_ids;
  write_text_atomic(dir / "generation_config.json", generation.dump(1) + "\n");
  save_model_tensors(dir, parameters);
}

}  // namespace euromodal
