// llama.cpp — see llama.h: embedding, blocks (llama_block.h), final norm, head. T packed rows, D
// width, V vocabulary.
#include "backbone/llama.h"

#include <mutex>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "backbone/decode_pass.h"
#include "backbone/gguf_model.h"
#include "backbone/hub_quantization.h"
#include "backbone/kernels/ops.h"
#include "backbone/kernels/to_device.h"
#include "backbone/llama_block.h"
#include "backbone/llama_prefixed.h"
#include "backbone/lora.h"
#include "backbone/peft_folder.h"
#include "core/files.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

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
  at::Tensor embedding_VD, norm_D;
  Linear head;
  std::vector<LlamaBlock> blocks;
  std::vector<Linear> linears;
  Checkpointing checkpointing;
  std::shared_ptr<BlockHooks> hooks;
  std::mutex mutex;  // guards table, which grows on demand
  RopeTable table;

  RopeTable rope_for(int64_t positions, at::Device device) {
    const std::scoped_lock lock(mutex);
    const int64_t have = table.cos_PN.defined() ? table.cos_PN.size(0) : 0;
    if (have < positions || table.cos_PN.device() != device) {
      const int64_t rows = std::min(config.max_positions, std::max<int64_t>(2 * positions, 256));
      table = rope_table(config.rope, rows, config.max_positions);
      table = {to_device(table.cos_PN, device), to_device(table.sin_PN, device)};
    }
    return table;
  }

  LlamaPassShared shared(const at::Tensor& emb_TD, const Segments& rows) {
    check(
        emb_TD.dim() == 2 && emb_TD.size(1) == config.hidden_size && rows.rows() == emb_TD.size(0),
        "Llama::forward: expected [{}, {}], got [{}]", rows.rows(), config.hidden_size,
        fmt::join(emb_TD.sizes(), ", "));
    int64_t longest = 0;
    for (int64_t s = 0; s < rows.count(); ++s) longest = std::max(longest, rows.length(s));
    check<DataError>(longest <= config.max_positions,
                     "a sample of {} tokens is longer than max_position_embeddings {}", longest,
                     config.max_positions);
    return {blocks, config, rope_for(longest, emb_TD.device()),
            to_device(llama_positions(rows), emb_TD.device()), rows};
  }
  at::Tensor run(std::shared_ptr<const StackPass> pass, StackRange range,
                 const at::Tensor& x_TD) const {
    return run_stack({std::move(pass), range, checkpointing, hooks}, x_TD);
  }
  at::Tensor finish(const at::Tensor& x_TD, const Segments& rows) const {
    return rms_norm(x_TD, norm_D, config.rms_norm_eps, rows);
  }
  /// Blocks whose work on constant tokens never changes: those below the first that trains.
  int64_t frozen_blocks() const {
    if (embedding_VD.requires_grad()) return 0;
    int64_t out = 0;
    while (out < config.num_layers && !blocks[static_cast<size_t>(out)].trains()) ++out;
    return out;
  }
};

Llama::Llama(const LlamaConfig& config, const WeightScope& weights)
    : impl_(std::make_unique<Impl>()) {
  const int64_t D = config.hidden_size, V = config.vocab_size;
  impl_->config = config;
  const WeightScope model = weights.scope("model.");
  impl_->embedding_VD = model.take("embed_tokens.weight", {V, D}, Init::normal(0.02));
  for (int64_t i = 0; i < config.num_layers; ++i)
    impl_->blocks.push_back(
        LlamaBlock::take(model.scope(fmt::format("layers.{}.", i)), impl_->config));
  for (const LlamaBlock& block : impl_->blocks) {
    for (const Linear* linear : block.linears()) impl_->linears.push_back(*linear);
  }
  impl_->norm_D = model.take("norm.weight", {D}, Init::ones());
  const auto packed_head = config.form_of(kHeadName);
  if (packed_head && !weights.weights().random()) {
    impl_->head = {kHeadName, take_packed(weights, kHeadName, V, D, *packed_head), {}};
  } else if (config.tie_embeddings) {
    impl_->head = {kHeadName, impl_->embedding_VD, {}};
  } else {
    impl_->head = {kHeadName, weights.take("lm_head.weight", {V, D}, Init::normal(0.02)), {}};
  }
  if (config.tie_embeddings) weights.ignore("lm_head.weight");
  if (!config.tie_embeddings) impl_->linears.push_back(impl_->head);
}

Llama::~Llama() = default;
Llama::Llama(Llama&&) noexcept = default;
Llama& Llama::operator=(Llama&&) noexcept = default;

void Llama::set_checkpointing(Checkpointing checkpointing) { impl_->checkpointing = checkpointing; }
void Llama::set_block_hooks(std::shared_ptr<BlockHooks> hooks) { impl_->hooks = std::move(hooks); }
const LlamaConfig& Llama::config() const { return impl_->config; }
const at::Tensor& Llama::final_norm_D() const { return impl_->norm_D; }
const std::vector<LlamaBlock>& Llama::blocks() const { return impl_->blocks; }
RopeTable Llama::rope_for(int64_t positions) const {
  return impl_->rope_for(positions, impl_->embedding_VD.device());
}
const std::vector<Linear>& Llama::linears() const { return impl_->linears; }
const at::Tensor& Llama::embedding_VD() const { return impl_->embedding_VD; }
const at::Tensor& Llama::head_VD() const { return impl_->head.weight_OI(); }
const Linear& Llama::head() const { return impl_->head; }
at::ScalarType Llama::dtype() const { return impl_->embedding_VD.scalar_type(); }
KvCache Llama::make_cache(bool int8) const {
  const LlamaConfig& c = impl_->config;
  return {c.num_layers, c.num_kv_heads, c.head_dim, impl_->embedding_VD.options(), int8};
}
KvLayout Llama::cache_layout(bool int8) const {
  const LlamaConfig& c = impl_->config;
  return kv_layout(c.num_layers, c.num_kv_heads, c.head_dim, dtype(), int8);
}

at::Tensor Llama::embed(const at::Tensor& ids_T, const Segments& rows) const {
  if (ids_T.is_cpu()) {
    const int64_t V = impl_->config.vocab_size;
    const int64_t* ids = ids_T.const_data_ptr<int64_t>();
    for (int64_t t = 0; t < ids_T.numel(); ++t)
      check<DataError>(ids[t] >= 0 && ids[t] < V, "token id {} is outside the vocabulary of {}",
                       ids[t], V);
  }
  return embedding(impl_->embedding_VD, to_device(ids_T, impl_->embedding_VD.device()), rows);
}

at::Tensor Llama::forward(const at::Tensor& emb_TD, const Segments& rows,
                          const DropoutKeys& dropout) const {
  LlamaPassShared shared = impl_->shared(emb_TD, rows);
  shared.dropout = dropout;
  const auto pass = std::make_shared<LlamaPass>(std::move(shared));
  return impl_->finish(impl_->run(pass, {0, impl_->config.num_layers}, emb_TD), rows);
}

at::Tensor Llama::forward(const at::Tensor& emb_TD, const Segments& rows,
                          const std::vector<ConstantPrefix>& prefixes, PrefixCache& cache,
                          const DropoutKeys& dropout) const {
  LlamaPassShared whole = impl_->shared(emb_TD, rows);
  check(static_cast<int64_t>(prefixes.size()) == rows.count(),
        "Llama::forward: {} prefixes for {} samples", prefixes.size(), rows.count());
  const int64_t frozen = impl_->frozen_blocks(), layers = impl_->config.num_layers;
  cache.set_blocks(frozen);
  if (frozen == 0) return forward(emb_TD, rows, dropout);

  std::vector<at::Tensor> x, positions;
  std::vector<int64_t> lengths;
  for (int64_t s = 0; s < rows.count(); ++s) {
    const int64_t before = prefixes[static_cast<size_t>(s)].length;
    check(before >= 0 && before <= rows.length(s),
          "Llama::forward: a prefix of {} rows in a sample of {}", before, rows.length(s));
    lengths.push_back(rows.length(s) - before);
    x.push_back(emb_TD.narrow(0, rows.begin(s) + before, lengths.back()));
    positions.push_back(whole.positions_T.narrow(0, rows.begin(s) + before, lengths.back()));
  }
  const auto heads = std::make_shared<LlamaPrefixes>(whole, emb_TD, prefixes, cache);
  const auto pass = std::make_shared<LlamaPrefixedPass>(
      LlamaPassShared{whole.blocks, whole.config, whole.table, at::cat(positions),
                      Segments::from_lengths(lengths, rows.per_sample)},
      heads);
  const at::Tensor x_RD = impl_->run(pass, {0, frozen}, at::cat(x));
  heads->keep(cache);

  std::vector<at::Tensor> all;
  int64_t begin = 0;
  for (int64_t s = 0; s < rows.count(); ++s) {
    const int64_t rest = lengths[static_cast<size_t>(s)];
    if (rows.length(s) > rest) all.push_back(heads->rows_of(s));
    all.push_back(x_RD.narrow(0, begin, rest));
    begin += rest;
  }
  whole.dropout = dropout;  // only now: what is frozen drops nothing
  return impl_->finish(
      impl_->run(std::make_shared<LlamaPass>(whole), {frozen, layers}, at::cat(all)), rows);
}

at::Tensor Llama::forward_cached(const at::Tensor& emb_TD, KvCache& cache) const {
  KvCache* const caches[] = {&cache};
  return forward_cached(emb_TD, Segments::one(emb_TD.size(0)), caches);
}

at::Tensor Llama::forward_cached(const at::Tensor& emb_TD, const Segments& rows,
                                 std::span<KvCache* const> caches) const {
  const LlamaConfig& c = impl_->config;
  check(rows.count() == static_cast<int64_t>(caches.size()) && rows.rows() == emb_TD.size(0),
        "forward_cached: {} segments of {} rows for {} caches and {} rows", rows.count(),
        rows.rows(), caches.size(), emb_TD.size(0));
  const c10::NoGradGuard no_grad;
  std::vector<int64_t> positions;
  int64_t longest = 0;
  for (int64_t s = 0; s < rows.count(); ++s) {
    const int64_t before = caches[static_cast<size_t>(s)]->length(),
                  after = before + rows.length(s);
    check<DataError>(after <= c.max_positions,
                     "a sequence of {} tokens is longer than max_position_embeddings {}", after,
                     c.max_positions);
    for (int64_t p = before; p < after; ++p) positions.push_back(p);
    longest = std::max(longest, after);
  }
  const at::Tensor positions_T = to_device(positions, emb_TD.device());
  const LlamaPassShared shared{impl_->blocks, c, impl_->rope_for(longest, emb_TD.device()),
                               positions_T, rows};
  if (impl_->hooks == nullptr && decode_pass_fits(shared, caches, emb_TD))
    return impl_->finish(decode_pass(shared, caches, emb_TD), rows);
  const auto pass = std::make_shared<LlamaCachedPass>(
      shared, std::vector<KvCache*>(caches.begin(), caches.end()));
  return impl_->finish(impl_->run(pass, {0, c.num_layers}, emb_TD), rows);
}

at::Tensor Llama::logits(const at::Tensor& hidden_RD) const {
  const c10::NoGradGuard no_grad;
  return impl_->head(hidden_RD, Segments::one(hidden_RD.size(0)))
      .to(at::kFloat);  // rounded to the weights' dtype first, as transformers does
}

TextModel load_text_model(const fs::path& dir, std::optional<at::ScalarType> dtype) {
  if (const auto gguf = find_gguf(dir)) return load_gguf_model(*gguf, dtype);
  TextModel out;
  out.config = LlamaConfig::load(dir);
  const bool said = dtype.has_value();
  if (!dtype) {
    for (const TensorInfo& info : list_model_tensors(dir)) {
      if (info.name == "model.embed_tokens.weight") dtype = info.dtype;
    }
  }
  // Half precision is slow on a CPU, and nothing of the integers is lost.
  const auto hub = hub_quantization_of(dir);
  if (hub && !said && dtype == at::kHalf) dtype = at::kBFloat16;
  const at::ScalarType type = dtype.value_or(at::kFloat);
  std::vector<NamedTensor> tensors = load_model_tensors(dir);
  if (hub) tensors = pack_hub_tensors(std::move(tensors), *hub, out.config, type, dir.string());
  Weights weights = Weights::from_tensors(std::move(tensors), type, dir.string());
  out.llama = std::make_unique<Llama>(out.config, weights.scope());
  weights.finish();
  out.parameters = weights.taken();
  if (fs::exists(dir / kBackboneLora)) load_peft(dir / kBackboneLora, out.llama->linears());
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
