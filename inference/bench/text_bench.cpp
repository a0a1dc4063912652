// text_bench.cpp — see text_bench.h.
#include "inference/bench/text_bench.h"

#include <algorithm>
#include <chrono>
#include <memory>

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include "backbone/packed_model.h"
#include "backbone/prefill.h"
#include "core/error.h"
#include "inference/bench/machine_limits.h"

namespace euromodal {

namespace {

/// One repetition of a case.
class TextBenchRun {
 public:
  TextBenchRun(const Llama& llama, const TextBenchCase& what, const TextBenchOptions& options)
      : llama_(llama), what_(what), options_(options) {
    check(what.tokens > 0 && what.depth >= 0 && what.batch > 0,
          "bench: {} tokens at depth {} in {} sequences", what.tokens, what.depth, what.batch);
    check(what.depth + what.tokens <= llama.config().max_positions,
          "bench: {} tokens at depth {} need more positions than the model has ({})", what.tokens,
          what.depth, llama.config().max_positions);
    for (int64_t s = 0; s < what.batch; ++s)
      caches_.push_back(llama.make_cache(options.int8_cache));
    for (KvCache& cache : caches_) pointers_.push_back(&cache);
    for (KvCache* cache : pointers_) prompt(what.depth, *cache);
  }

  double seconds() {
    const auto start = std::chrono::steady_clock::now();
    if (what_.generate) {
      std::vector<int64_t> tokens(static_cast<size_t>(what_.batch), 1);
      for (int64_t i = 0; i < what_.tokens; ++i) tokens = step(tokens);
    } else {
      for (KvCache* cache : pointers_) prompt(what_.tokens, *cache);
    }
    const std::chrono::duration<double> out = std::chrono::steady_clock::now() - start;
    return out.count();
  }

 private:
  void prompt(int64_t tokens, KvCache& cache) {
    if (tokens == 0) return;
    std::vector<int64_t> ids;
    for (int64_t i = 0; i < cache.length() + tokens; ++i)
      ids.push_back((i + 1) % llama_.config().vocab_size);
    llama_.logits(Prefill(llama_, ids, cache, options_.prefill_rows).last_row());
  }

  std::vector<int64_t> step(const std::vector<int64_t>& tokens) {
    const auto rows = Segments::from_lengths(std::vector<int64_t>(tokens.size(), 1));
    const at::Tensor emb_TD = llama_.embed(at::tensor(tokens, at::kLong), rows);
    const at::Tensor best_T =
        llama_.logits(llama_.forward_cached(emb_TD, rows, pointers_)).argmax(1);
    return {best_T.const_data_ptr<int64_t>(), best_T.const_data_ptr<int64_t>() + tokens.size()};
  }

  const Llama& llama_;
  TextBenchCase what_;
  const TextBenchOptions& options_;
  std::vector<KvCache> caches_;
  std::vector<KvCache*> pointers_;
};

/// Tokens per second that the limits allow.
double limit_rate(const Llama& llama, const TextBenchCase& what, bool int8_cache,
                  double bytes_per_s, double flops_per_s) {
  const LlamaConfig& c = llama.config();
  const auto batch = static_cast<double>(what.batch);
  // Middle of the run: half of the new tokens lie behind what is there.
  const double length = static_cast<double>(what.depth) + static_cast<double>(what.tokens) / 2.0;
  if (what.generate) {
    const double bytes =
        static_cast<double>(linear_bytes(llama)) +
        batch * length * static_cast<double>(llama.cache_layout(int8_cache).token_bytes());
    return batch * bytes_per_s / bytes;
  }
  const double matrices = static_cast<double>(
      c.num_layers * (2 * c.hidden_size * c.head_dim * (c.num_heads + c.num_kv_heads) +
                      3 * c.hidden_size * c.intermediate_size));
  const double attention =
      2.0 * static_cast<double>(c.num_layers * c.num_heads * c.head_dim) * length;
  return flops_per_s / (2.0 * (matrices + attention));
}

}  // namespace

std::vector<TextBenchResult> bench_text(const Llama& llama, const TextBenchOptions& options) {
  const c10::InferenceMode inference;
  std::vector<TextBenchResult> out;
  std::vector<std::vector<double>> limits(options.cases.size());
  for (const TextBenchCase& what : options.cases) out.push_back({what, {}, {}, 0.0});
  const bool bf16 = llama.dtype() == at::kBFloat16;
  for (int64_t repetition = 0; repetition < options.repetitions; ++repetition) {
    for (size_t i = 0; i < out.size(); ++i) {
      const TextBenchCase& what = out[i].what;
      TextBenchRun run(llama, what, options);
      const auto probe = [&] { return what.generate ? read_bandwidth() : matrix_rate(bf16); };
      const double before = probe(), seconds = run.seconds(), after = probe();
      const double limit = (before + after) / 2.0;
      limits[i].push_back(limit_rate(llama, what, options.int8_cache, limit, limit));
      out[i].tokens_per_s.push_back(static_cast<double>(what.batch * what.tokens) / seconds);
      out[i].share.push_back(out[i].tokens_per_s.back() / limits[i].back());
      out[i].limit_tokens_per_s = median(limits[i]);
      if (repetition + 1 == options.repetitions && options.done) options.done(out[i]);
    }
  }
  return out;
}

std::string text_bench_name(const TextBenchCase& what) {
  std::string out = fmt::format("{}{}", what.generate ? "tg" : "pp", what.tokens);
  if (what.depth > 0) out += fmt::format(" @ d{}", what.depth);
  if (what.batch > 1) out += fmt::format(", batch {}", what.batch);
  return out;
}

double median(std::vector<double> values) {
  check(!values.empty(), "median of nothing");
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2.0;
}

Json text_bench_json(const TextBenchResult& result) {
  return {{"name", text_bench_name(result.what)},
          {"kind", result.what.generate ? "tg" : "pp"},
          {"tokens", result.what.tokens},
          {"depth", result.what.depth},
          {"batch", result.what.batch},
          {"tokens_per_s", median(result.tokens_per_s)},
          {"tokens_per_s_samples", result.tokens_per_s},
          {"limit_tokens_per_s", result.limit_tokens_per_s},
          {"share_of_limit", median(result.share)},
          {"share_of_limit_samples", result.share}};
}

TextModel drawn_text_model(const LlamaConfig& config, at::ScalarType dtype) {
  const c10::InferenceMode inference(false);
  constexpr int64_t kDrawn = int64_t{1} << 24;
  const at::Tensor drawn = at::randn({kDrawn}).mul_(0.02).to(dtype);
  std::vector<NamedTensor> tensors;
  int64_t offset = 0;
  const auto add = [&](const std::string& name, at::IntArrayRef shape) {
    at::Tensor tensor = at::empty(shape, dtype);
    if (shape.size() == 1) {
      tensor.fill_(name.ends_with(".bias") ? 0.0 : 1.0);
    } else {
      at::Tensor flat = tensor.view({-1});
      for (int64_t at = 0; at < flat.numel();) {
        offset = (offset + 7919) % (kDrawn / 2);
        const int64_t count = std::min(flat.numel() - at, kDrawn - offset);
        flat.narrow(0, at, count).copy_(drawn.narrow(0, offset, count));
        at += count;
      }
    }
    tensors.push_back({name, tensor});
  };
  const int64_t D = config.hidden_size, F = config.intermediate_size,
                Q = config.num_heads * config.head_dim, K = config.num_kv_heads * config.head_dim;
  add("model.embed_tokens.weight", {config.vocab_size, D});
  add("model.norm.weight", {D});
  if (!config.tie_embeddings) add("lm_head.weight", {config.vocab_size, D});
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const std::string layer = fmt::format("model.layers.{}.", i);
    add(layer + "input_layernorm.weight", {D});
    add(layer + "post_attention_layernorm.weight", {D});
    const auto linear = [&](const std::string& name, int64_t out, int64_t in, bool bias) {
      add(layer + name + ".weight", {out, in});
      if (bias) add(layer + name + ".bias", {out});
    };
    linear("self_attn.q_proj", Q, D, config.attention_bias);
    linear("self_attn.k_proj", K, D, config.attention_bias);
    linear("self_attn.v_proj", K, D, config.attention_bias);
    linear("self_attn.o_proj", D, Q, config.attention_bias);
    linear("mlp.gate_proj", F, D, config.mlp_bias);
    linear("mlp.up_proj", F, D, config.mlp_bias);
    linear("mlp.down_proj", D, F, config.mlp_bias);
  }
  TextModel out;
  out.config = config;
  out.config.packed.reset();
  out.config.packed_linears.clear();
  Weights weights = Weights::from_tensors(std::move(tensors), dtype, "<drawn>");
  out.llama = std::make_unique<Llama>(out.config, weights.scope());
  weights.finish();
  out.parameters = weights.taken();
  return out;
}

}  // namespace euromodal
