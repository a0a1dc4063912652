// gpu_model_bench.cpp — a text backbone of a given shape, random weights, on one GPU: decoding,
// prefill, and training of an adapter in front of it. Definitions as llama-bench's (tg: tokens per
// second of decoding alone; pp: of the prompt alone); every figure beside what the device can do,
// measured in the same run. FILE is written again after every figure.
//
//   gpu_model_bench [--shape 22b|9b|1.7b] [--layers N] [--only decode,prefill,train]
//                   [--keeps none|mlp|layer|"every K"] [--l2-ahead MB] [--json FILE]
//
// --l2-ahead: weights that decoding asks for ahead in L2 (DecoderOptions::l2_ahead).
// Shares: decode of (weights + cache read per token) / read bandwidth, prefill and training of the
// bf16 matrix rate (training counts 4 N operations a token: forward, and backward to the inputs).
#include <chrono>
#include <cstdio>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>
#include <c10/core/GradMode.h>
#include <fmt/core.h>

#include "adapters/adapter.h"
#include "backbone/decoder.h"
#include "backbone/device.h"
#include "backbone/kernels/cross_entropy/cross_entropy.h"
#include "backbone/llama.h"
#include "core/files.h"
#include "core/json.h"
#include "training/dist/collectives.h"
#include "training/flat_buffer.h"
#include "training/gradient_sync.h"
#include "training/optimizer.h"
#include "training/step_verdict.h"

using namespace euromodal;

namespace {

struct Bench {
  at::Device device{at::kCUDA, 0};
  LlamaConfig config;
  std::unique_ptr<Llama> llama;
  Json rows = Json::array();
  std::string json;  // file
  std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
  double read_bytes_s = 0.0, copy_bytes_s = 0.0, flops = 0.0;
  double parameters = 0.0;  // that a token passes through

  at::TensorOptions bf16() const { return at::TensorOptions(device).dtype(at::kBFloat16); }
  void wait() const { at::accelerator::synchronizeDevice(device.index()); }

  /// Median seconds of one call, out of `times`, after one that warms up.
  double seconds(int times, const std::function<void()>& call) const {
    call();
    wait();
    std::vector<double> took;
    for (int i = 0; i < times; ++i) {
      const auto start = std::chrono::steady_clock::now();
      call();
      wait();
      took.push_back(
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    std::sort(took.begin(), took.end());
    return took[took.size() / 2];
  }

  void row(const std::string& what, const std::string& setting, double value,
           const std::string& unit, double share) {
    const std::chrono::duration<double> at = std::chrono::steady_clock::now() - start;
    rows.push_back({{"what", what},
                    {"setting", setting},
                    {"value", value},
                    {"unit", unit},
                    {"share", share},
                    {"at_s", at.count()}});
    fmt::print("{:<28} {:<34} {:>12.2f} {:<8} {:>7}   at {:.0f} s\n", what, setting, value, unit,
               share > 0.0 ? fmt::format("{:.1f} %", 100.0 * share) : "", at.count());
    std::fflush(stdout);
    save();
  }
  void save() const {
    if (!json.empty()) write_text_atomic(json, rows.dump(1) + "\n");
  }

  double memory_gb() const {
    const auto [free, total] = at::accelerator::getMemoryInfo(device.index());
    return static_cast<double>(total - free) / 1e9;
  }
};

void limits(Bench& b) {
  const c10::NoGradGuard no_grad;
  {
    const at::Tensor from = at::randn({int64_t{1} << 31}, b.bf16()), to = at::empty_like(from);
    const auto bytes = static_cast<double>(from.nbytes());
    const double copy = b.seconds(7, [&] { to.copy_(from); });
    b.copy_bytes_s = 2.0 * bytes / copy;
    const at::Tensor wide = from.view(at::kFloat);
    const double sum = b.seconds(7, [&] { (void)wide.sum(); });
    b.read_bytes_s = std::max(bytes / sum, b.copy_bytes_s);
    b.row("copy", "4.3 GB, read + written", b.copy_bytes_s / 1e9, "GB/s", 0.0);
    b.row("read", "4.3 GB, sum", bytes / sum / 1e9, "GB/s", 0.0);
  }
  const at::Tensor x = at::randn({8192, 8192}, b.bf16()), y = at::randn({8192, 8192}, b.bf16());
  at::Tensor z = at::empty_like(x);
  b.flops = 2.0 * std::pow(8192.0, 3) / b.seconds(10, [&] { at::mm_out(z, x, y); });
  b.row("matrix product", "8192^3 bf16", b.flops / 1e12, "TFLOP/s", 0.0);
}

void make_model(Bench& b, const std::string& shape, int64_t layers) {
  const bool big = shape == "22b", middle = shape == "9b";
  check<UsageError>(big || middle || shape == "1.7b", "--shape: '{}', expected 22b, 9b or 1.7b",
                    shape);
  const Json json = {{"model_type", "llama"},
                     {"vocab_size", 128000},
                     {"hidden_size", big      ? 6144
                                     : middle ? 4096
                                              : 2048},
                     {"intermediate_size", big      ? 16384
                                           : middle ? 12288
                                                    : 5632},
                     {"num_hidden_layers", layers > 0 ? layers
                                           : big      ? 54
                                           : middle   ? 42
                                                      : 24},
                     {"num_attention_heads", big      ? 48
                                             : middle ? 32
                                                      : 16},
                     {"num_key_value_heads", 8},
                     {"head_dim", 128},
                     {"max_position_embeddings", 32768},
                     {"rms_norm_eps", 1e-5},
                     {"rope_theta", 1e6},
                     {"hidden_act", "silu"},
                     {"tie_word_embeddings", false}};
  b.config = LlamaConfig::from_json(JsonView(json, shape));
  const LlamaConfig& c = b.config;
  const int64_t D = c.hidden_size, F = c.intermediate_size, Q = c.num_heads * 128,
                K = c.num_kv_heads * 128;
  std::vector<NamedTensor> tensors;
  const auto add = [&](const std::string& name, std::vector<int64_t> sizes) {
    const double deviation =
        sizes.size() == 1 ? 0.0 : 1.0 / std::sqrt(static_cast<double>(sizes.back()));
    at::Tensor t = sizes.size() == 1 ? at::ones(sizes, b.bf16())
                                     : at::empty(sizes, b.bf16()).normal_(0.0, deviation);
    tensors.push_back({name, t});
  };
  add("model.embed_tokens.weight", {c.vocab_size, D});
  for (int64_t i = 0; i < c.num_layers; ++i) {
    const std::string p = fmt::format("model.layers.{}.", i);
    add(p + "input_layernorm.weight", {D});
    add(p + "self_attn.q_proj.weight", {Q, D});
    add(p + "self_attn.k_proj.weight", {K, D});
    add(p + "self_attn.v_proj.weight", {K, D});
    add(p + "self_attn.o_proj.weight", {D, Q});
    add(p + "post_attention_layernorm.weight", {D});
    add(p + "mlp.gate_proj.weight", {F, D});
    add(p + "mlp.up_proj.weight", {F, D});
    add(p + "mlp.down_proj.weight", {D, F});
  }
  add("model.norm.weight", {D});
  add("lm_head.weight", {c.vocab_size, D});
  Weights weights = Weights::from_tensors(std::move(tensors), at::kBFloat16);
  b.llama = std::make_unique<Llama>(c, weights.scope());
  weights.finish();
  b.parameters = static_cast<double>(c.num_parameters() - c.vocab_size * D);
  b.row("memory", fmt::format("{} layers, weights", c.num_layers), b.memory_gb(), "GB", 0.0);
}

void decode(Bench& b, std::optional<int64_t> l2_ahead) {
  const c10::NoGradGuard no_grad;
  const double token_cache =
      2.0 * 2.0 * 128.0 * static_cast<double>(b.config.num_kv_heads * b.config.num_layers);
  for (const char* word : {"bfloat16", "float8", "int4", "int8", "int4-g32"}) {
    const SkinnyForm form = parse_skinny_form(word);
    const bool plain = form == SkinnyForm{};
    const auto decoder = make_decoder(*b.llama, {.sequences = 16,
                                                 .max_positions = 32768,
                                                 .cache_tokens = 16 * 2304 + 32768,
                                                 .weights = form,
                                                 .l2_ahead = l2_ahead});
    const auto weights = static_cast<double>(decoder->weight_bytes());
    const auto measure = [&](int64_t rows, int64_t depth) {
      for (int64_t s = 0; s < rows; ++s)
        decoder->prefill(s,
                         at::randn({std::max<int64_t>(depth, 1), b.config.hidden_size}, b.bf16()),
                         depth + 64);
      constexpr int kSteps = 16;
      const double step = b.seconds(3, [&] {
        for (int i = 0; i < kSteps; ++i) {
          decoder->draw(rows);
          decoder->step(rows);
        }
      }) / kSteps;
      const double bytes = weights + static_cast<double>(rows * (depth + 32)) * token_cache;
      b.row(fmt::format("decode {}", word), fmt::format("batch {} depth {}", rows, depth),
            static_cast<double>(rows) / step, "tok/s", bytes / step / b.read_bytes_s);
      for (int64_t s = 0; s < rows; ++s) decoder->release(s);
    };
    for (const int64_t rows :
         plain ? std::vector<int64_t>{1, 2, 4, 8, 16} : std::vector<int64_t>{1, 8, 16})
      measure(rows, 0);
    if (plain) {
      measure(1, 2048);
      measure(16, 2048);
      measure(1, 32000);
    }
  }
}

void prefill(Bench& b) {
  const c10::NoGradGuard no_grad;
  for (const int64_t T : {512, 4096}) {
    const at::Tensor emb = at::randn({T, b.config.hidden_size}, b.bf16());
    const double took = b.seconds(3, [&] {
      KvCache cache = b.llama->make_cache();
      const at::Tensor hidden = b.llama->forward_cached(emb, cache);
      (void)b.llama->logits(hidden.narrow(0, T - 1, 1));
    });
    const auto n = static_cast<double>(T);
    const double matrices =
        2.0 * (b.parameters - static_cast<double>(b.config.vocab_size * b.config.hidden_size)) * n;
    const double attention =
        2.0 * n * n * static_cast<double>(b.config.num_heads * 128 * b.config.num_layers);
    b.row("prefill bf16", fmt::format("{} tokens", T), n / took, "tok/s",
          (matrices + attention) / took / b.flops);
  }
}

/// A picture's 729 rows through an adapter, then text: T tokens in one sample; labels on the text.
void train(Bench& b, const std::string& checkpointing) {
  constexpr int64_t kRows = 729, kWidth = 1152, kTokens = 4096, kLabels = 1024;
  b.llama->set_checkpointing(
      Checkpointing::parse(Config::parse("checkpointing: " + checkpointing + "\n")));
  Weights drawn = Weights::random(7, at::kBFloat16);
  const auto adapter = make_adapter(
      Config::parse(fmt::format("type: mlp\nhidden: {}\n", b.config.hidden_size)),
      {.feature_width = kWidth, .backbone_width = b.config.hidden_size}, drawn.scope());
  const std::vector<NamedTensor> trainable = drawn.taken();
  move_parameters(trainable, b.device);
  for (const NamedTensor& p : trainable) p.tensor.requires_grad_(true);
  GroupOptions group;
  group.lr = 1e-3;
  group.beta2 = 0.95;
  FlatBuffer buffer(trainable, std::vector<int64_t>(trainable.size(), 0), {group}, {}, {});
  Optimizer optimizer(buffer, {group}, /*one_by_one=*/false);
  const auto world = make_single();
  GradientSync sync(buffer, *world, /*overlap=*/false);
  StepJudge judge({.clip_norm = 1.0}, b.device, {}, {});
  at::manual_seed(9);
  const at::Tensor features = at::randn({kRows, kWidth}, b.bf16());
  const at::Tensor ids =
      at::randint(0, b.config.vocab_size, {kTokens}, at::TensorOptions(b.device).dtype(at::kLong));
  const Segments rows = Segments::one(kTokens);
  const at::Tensor text = b.llama->embed(ids, rows);
  const at::Tensor media_at = at::arange(kRows, ids.options());
  const at::Tensor labelled = at::arange(kTokens - kLabels - 1, kTokens - 1, ids.options());
  Json losses = Json::array();
  const auto step = [&] {
    const at::Tensor media = adapter->forward({.rows_LE = features,
                                               .items = {{.frames = 1, .height = 27, .width = 27}},
                                               .samples = Segments::one(1)});
    const at::Tensor hidden = b.llama->forward(at::index_copy(text, 0, media_at, media), rows);
    const at::Tensor loss = linear_cross_entropy({.hidden_RD = hidden.index_select(0, labelled),
                                                  .weight_VD = b.llama->head_VD(),
                                                  .labels_R = ids.index_select(0, labelled + 1),
                                                  .row_weight_R = {}},
                                                 Segments::one(kLabels));
    sync.begin({1});
    sync.backward(loss, true);
    sync.finish();
    const StepDecision decision = judge.judge(loss.detach(), sync.norms().total, kLabels);
    optimizer.step({1.0}, {.factor = decision.factor, .apply = decision.apply}, *world);
    losses.push_back(loss.item<double>() / kLabels);
  };
  const double took = b.seconds(4, step);
  const double operations =
      4.0 * (b.parameters - static_cast<double>(b.config.vocab_size * b.config.hidden_size)) *
          kTokens +
      4.0 * static_cast<double>(b.config.vocab_size * b.config.hidden_size) * kLabels;
  b.row("train adapter", fmt::format("4096 tokens, keeps {}", checkpointing), kTokens / took,
        "tok/s", operations / took / b.flops);
  b.row("train adapter memory", fmt::format("4096 tokens, keeps {}", checkpointing), b.memory_gb(),
        "GB", 0.0);
  fmt::print("losses {}\n", losses.dump());
  b.rows.back()["losses"] = losses;
  b.save();
}

}  // namespace

int main(int argc, char** argv) {
  std::string shape = "22b", only = "decode,prefill,train", json, keeps = "none", layers = "0",
              l2_ahead;
  const std::map<std::string, std::string*> words = {
      {"--shape", &shape}, {"--only", &only},     {"--json", &json},
      {"--keeps", &keeps}, {"--layers", &layers}, {"--l2-ahead", &l2_ahead}};
  for (int i = 1; i < argc; i += 2) {
    const auto word = words.find(argv[i]);
    if (word == words.end() || i + 1 == argc) {
      fmt::print(stderr,
                 "usage: gpu_model_bench [--shape 22b|9b|1.7b] [--layers N] "
                 "[--only decode,prefill,train] [--keeps MODE] [--l2-ahead MB] [--json FILE]\n");
      return 2;
    }
    *word->second = argv[i + 1];
  }
  const auto wanted = [&](const char* word) { return only.find(word) != std::string::npos; };
  try {
    Bench bench;
    bench.json = json;
    bench.device = open_device("cuda");
    limits(bench);
    make_model(bench, shape, std::stoll(layers));
    if (wanted("prefill")) prefill(bench);
    if (wanted("train")) train(bench, keeps);
    if (wanted("decode"))
      decode(bench,
             l2_ahead.empty() ? std::nullopt : std::optional<int64_t>(std::stoll(l2_ahead) << 20));
  } catch (const std::exception& e) {
    fmt::print(stderr, "gpu_model_bench: {}\n", e.what());
    return 1;
  }
  return 0;
}
