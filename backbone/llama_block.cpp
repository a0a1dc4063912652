// llama_block.cpp — see llama_block.h: x += o(attention(norm x)); x += down(silu(gate) · up).
#include "backbone/llama_block.h"

#include <cmath>

#include <ATen/ATen.h>

#include "backbone/kernels/decode_attention/decode_attention.h"
#include "backbone/kernels/ops.h"
#include "core/error.h"

namespace euromodal {

namespace {

Linear llama_linear(const WeightScope& layer, const std::string& name, int64_t out, int64_t in,
                    const LlamaConfig& config, bool bias, bool zero = false) {
  const std::string module = layer.prefix() + name;
  const auto take_bias = [&] {
    return bias ? layer.take(name + ".bias", {out}, Init::zeros()) : at::Tensor();
  };
  if (const auto form = config.form_of(module); form && !layer.weights().random()) {
    const PackedWeight weight = take_packed(layer, name, out, in, *form);
    return {module, weight, take_bias()};
  }
  const at::Tensor weight_OI =
      layer.take(name + ".weight", {out, in},
                 zero ? Init::zeros() : Init::normal(1.0 / std::sqrt(static_cast<double>(in))));
  return {module, weight_OI, take_bias()};
}

}  // namespace

PackedWeight take_packed(const WeightScope& layer, const std::string& name, int64_t out, int64_t in,
                         const PackedForm& form) {
  PackedWeight weight{form, out, in, {}};
  const int64_t blocks = (out + kPackedOutputs - 1) / kPackedOutputs;
  weight.blocks = layer.take_bytes(name + kPackedSuffix, {blocks, weight.layout().block});
  return weight;
}

bool LlamaBlock::trains() const {
  for (const Linear* linear : linears())
    if (linear->trains()) return true;
  return input_norm_D.requires_grad() || post_norm_D.requires_grad();
}

LlamaBlock LlamaBlock::take(const WeightScope& w, const LlamaConfig& config) {
  const int64_t D = config.hidden_size, F = config.intermediate_size;
  const int64_t Q = config.num_heads * config.head_dim, KV = config.num_kv_heads * config.head_dim;
  LlamaBlock b;
  b.input_norm_D = w.take("input_layernorm.weight", {D}, Init::ones());
  b.q = llama_linear(w, "self_attn.q_proj", Q, D, config, config.attention_bias);
  b.k = llama_linear(w, "self_attn.k_proj", KV, D, config, config.attention_bias);
  b.v = llama_linear(w, "self_attn.v_proj", KV, D, config, config.attention_bias);
  b.o = llama_linear(w, "self_attn.o_proj", D, Q, config, config.attention_bias, /*zero=*/true);
  b.post_norm_D = w.take("post_attention_layernorm.weight", {D}, Init::ones());
  b.gate = llama_linear(w, "mlp.gate_proj", F, D, config, config.mlp_bias);
  b.up = llama_linear(w, "mlp.up_proj", F, D, config, config.mlp_bias);
  b.down = llama_linear(w, "mlp.down_proj", D, F, config, config.mlp_bias, /*zero=*/true);
  w.ignore("self_attn.rotary_emb.inv_freq");  // files of transformers before 4.31 hold it; it
                                              // follows from the config
  return b;
}

LlamaPass::LlamaPass(LlamaPassShared shared)
    : shared_(std::move(shared)),
      scale_(1.0 / std::sqrt(static_cast<double>(shared_.config.head_dim))) {}

const LlamaBlock& LlamaPass::at(int64_t block) const {
  return shared_.blocks.at(static_cast<size_t>(block));
}

at::Tensor LlamaPass::attend(int64_t block, const at::Tensor& x_TD) const {
  const LlamaBlock& b = at(block);
  const LlamaConfig& c = shared_.config;
  const Segments& rows = shared_.rows;
  const int64_t T = x_TD.size(0), H = c.num_heads, K = c.num_kv_heads, N = c.head_dim;
  const at::Tensor h_TD = rms_norm(x_TD, b.input_norm_D, c.rms_norm_eps, rows);
  const auto qkv = apply(std::array{&b.q, &b.k, &b.v}, h_TD);
  const Heads heads{rope(qkv[0].view({T, H, N}), shared_.table, shared_.positions_T),
                    rope(qkv[1].view({T, K, N}), shared_.table, shared_.positions_T),
                    qkv[2].view({T, K, N})};
  return x_TD + apply(b.o, mix(block, heads).reshape({T, H * N}));
}

at::Tensor LlamaPass::mix(int64_t /*block*/, const Heads& heads) const {
  return attention({.q_THN = heads.q_THN,
                    .k_TKN = heads.k_TKN,
                    .v_TKN = heads.v_TKN,
                    .causal = true,
                    .scale = scale_},
                   shared_.rows);
}

at::Tensor LlamaPass::inner(int64_t block, const at::Tensor& mid_TD) const {
  const LlamaBlock& b = at(block);
  const at::Tensor m_TD =
      rms_norm(mid_TD, b.post_norm_D, shared_.config.rms_norm_eps, shared_.rows);
  const auto gate_up = apply(std::array{&b.gate, &b.up}, m_TD);
  return swiglu(gate_up[0], gate_up[1]);
}

at::Tensor LlamaPass::outer(int64_t block, const at::Tensor& mid_TD,
                            const at::Tensor& inner_TF) const {
  return mid_TD + apply(at(block).down, inner_TF);
}

LlamaCachedPass::LlamaCachedPass(LlamaPassShared shared, std::vector<KvCache*> caches)
    : LlamaPass(std::move(shared)), caches_(std::move(caches)) {}

at::Tensor LlamaCachedPass::mix(int64_t block, const Heads& heads) const {
  const at::Tensor out_THN = at::empty(heads.q_THN.sizes(), heads.q_THN.options());
  std::vector<DecodeSequence> decoding;
  for (int64_t s = 0; s < rows().count(); ++s) {
    const int64_t begin = rows().begin(s), count = rows().length(s);
    const auto part = [&](const at::Tensor& x) { return x.narrow(0, begin, count); };
    KvCache& cache = *caches_[static_cast<size_t>(s)];
    cache.append(block, part(heads.k_TKN), part(heads.v_TKN));
    if (cache.paged() && !cache.store() && count <= kDecodeRows) {
      check(cache.layout() == caches_.front()->layout(),
            "forward_cached: caches of one pass store keys and values in different forms");
      decoding.push_back({cache.pages(), cache.length(block), begin, count});
      continue;
    }
    const auto [k_LKN, v_LKN] = cache.layer(block);
    part(out_THN).copy_(attention_cached(part(heads.q_THN), k_LKN, v_LKN, scale()));
  }
  if (!decoding.empty())
    decode_attention(heads.q_THN, caches_.front()->layout(), block, decoding, scale(), out_THN);
  return out_THN;
}

}  // namespace euromodal
