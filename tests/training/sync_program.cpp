// sync_program.cpp — what parallel_ranks_test.cpp starts under mpirun: the gradient of one global
// batch, the same bits whatever overlap, ZeRO stage and buckets; parameters that are used where the
// graph does not show it; the gradients held by ZeRO-2. Exits 0 only when all of it holds.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <map>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/log.h"
#include "tests/training/host_device_collectives.h"
#include "tests/training/sync_sharded.h"
#include "tests/training/tiny_world.h"
#include "training/batch_gradient.h"
#include "training/objective.h"
#include "training/optimizer.h"

namespace euromodal {
namespace {

struct Variant {
  bool overlap = false;
  int zero = 0;
  int64_t bucket_bytes = 25'000'000;
  bool device = false;  // through the interface that GPUs have; fast mode alone
};

// Against the reference: no overlap, ZeRO 0, one bucket a group.
constexpr Variant kVariants[] = {{false, 0, 400}, {true, 0, 400},   {true, 0, 25'000'000},
                                 {true, 1, 400},  {false, 1, 9000}, {true, 2, 400},
                                 {true, 2, 9000}};
// Its sums are in rank order too (host_device_collectives.h), its norms are summed otherwise.
constexpr Variant kDeviceVariants[] = {{false, 0, 400, true},  {true, 0, 9000, true},
                                       {true, 1, 400, true},   {true, 1, 25'000'000, true},
                                       {false, 2, 9000, true}, {true, 2, 400, true}};

struct Gradient {  // on rank 0
  std::vector<at::Tensor> slots;
  double loss_sum = 0.0, count = 0.0, norm = 0.0;
  int64_t overlapped = 0;  // on all ranks together
};

GroupOptions sync_group(GroupOptions::Type type) {
  GroupOptions group;
  group.type = type;
  group.lr = 1e-3;
  return group;
}

std::vector<at::Tensor> sync_gather(const FlatBuffer& buffer, Collectives& world) {
  std::vector<at::Tensor> out;
  for (size_t s = 0; s < buffer.slots().size(); ++s) {
    const FlatSlot& slot = buffer.slots()[s];
    const at::Tensor whole = buffer.gather(
        {slot.name, static_cast<int64_t>(s), buffer.buckets()[slot.bucket].gradient}, world);
    if (world.rank() == 0) out.push_back(whole.clone());
  }
  return out;
}

/// An objective of the tiny world, and which samples are the four parts of a global batch.
struct SyncSettings {
  const char *name, *objective;
  std::vector<std::string> changes = {};  // of its YAML; DIR is the tiny world's folder
  std::vector<std::vector<int64_t>> parts = {{0, 1, 2}, {3}, {4, 5}, {6, 7}};

  std::vector<std::string> set(const TinyWorld& tiny) const {
    std::vector<std::string> out = changes;
    for (std::string& change : out) {
      for (size_t at; (at = change.find("DIR")) != std::string::npos;)
        change.replace(at, 3, tiny.path("").string());
    }
    return out;
  }
};

constexpr const char* kLoraTrained = "trainable=[\"*.lora_*\", \"*head.*\"]";
constexpr const char* kAdamWAlone =
    "optimizer=[{params: [\"*\"], type: adamw, lr: 0.01, betas: [0.9, 0.95], eps: 1.0e-8}]";

// Unequal numbers of samples and tokens. Of "adapters", parts 1 and 3 (all of rank 1 of two) hold
// text alone, which reaches nothing that is trained; of "distilled" they hold no sound.
const std::vector<std::vector<int64_t>> kMixedParts = {{48, 49, 24}, {0}, {25, 50, 1}, {2, 3}};
const std::vector<SyncSettings> kSettings = {
    {"text", "text"},
    {"pictures", "pictures"},
    {"sounds", "sounds"},
    {"adapters", "adapters", {}, kMixedParts},
    {"samples alike",
     "adapters",
     {"objective.loss_weight=sample", "objective.kind_weights={text: 0.5, audio: 2}",
      "objective.z_loss=1.0e-3"},
     kMixedParts},
    {"square roots",
     "adapters",
     {"objective.loss_weight=sqrt", "objective.label_smoothing=0.1"},
     kMixedParts},
    {"distilled",
     "adapters",
     {"data=[{path: DIR/spoken.jsonl}]", "objective.distill={ce_weight: 0.5}",
      "objective.model.backbone.lora={rank: 2, alpha: 4, dropout: 0.1, targets: [q_proj, "
      "down_proj]}",
      "trainable=[\"*.lora_*\", \"adapter.*\"]", kAdamWAlone},
     {{0, 2, 4}, {1}, {6, 8}, {3, 5}}},
    {"LoRA of pictures",
     "pictures",
     {"objective.encoder={model: DIR/pictures/model, lora: {rank: 2, alpha: 4, dropout: 0.1, "
      "targets: [q_proj, fc1]}}",
      kLoraTrained, kAdamWAlone}},
    {"LoRA of sounds",
     "sounds",
     {"objective.encoder={model: DIR/sounds/model, lora: {rank: 2, alpha: 4, dropout: 0.1, "
      "targets: [v_proj, fc2]}}",
      kLoraTrained, kAdamWAlone}},
};

/// Two micro-batches in most parts.
class SyncCase {
 public:
  SyncCase(const TinyWorld& tiny, const SyncSettings& settings, bool deterministic)
      : deterministic_(deterministic),
        config_(Config::load(tiny.config(settings.objective, settings.name), settings.set(tiny))),
        objective_(make_objective(config_.child("objective"), 7, deterministic)),
        data_(open_datasets(config_, "data")),
        groups_(parse_groups(config_, "optimizer", 6)),
        trainable_(
            select_trainable(objective_->parameters(), config_.strs("trainable"), settings.name)) {
    for (const NamedTensor& p : trainable_) p.tensor.requires_grad_(true);
    aliases_ = objective_->make_aliases();
    indices_ = settings.parts;
  }

  Gradient run(Collectives& world, const Variant& variant) {
    HostDeviceCollectives device(world);
    const FlatOptions layout{.bucket_bytes = variant.bucket_bytes,
                             .zero = variant.zero,
                             .rank = world.rank(),
                             .ranks = world.size(),
                             .device = variant.device ? &device : nullptr};
    FlatBuffer buffer(trainable_, assign_groups(trainable_, groups_), groups_, aliases_, layout);
    BatchGradient gradient(*objective_, buffer, world,
                           {.deterministic = deterministic_,
                            .overlap = variant.overlap,
                            .parts = static_cast<int64_t>(indices_.size())});
    Gradient out;
    RunMetrics metrics;
    for (int step = 0; step < 2; ++step) {  // the first learns the order of the buckets
      const std::vector<at::Tensor> before = std::move(out.slots);
      const BatchSums sums = gradient.run(parts(world), metrics, {});
      out.loss_sum = sums.loss_sum.item<double>();
      out.count = sums.count;
      out.slots = sync_gather(buffer, world);
      for (size_t i = 0; i < before.size(); ++i)
        check(sync_same_bits(before[i], out.slots[i]), "the same step gives other bits");
    }
    out.norm = gradient.norms().total.item<double>();
    double overlapped = static_cast<double>(gradient.sync().overlapped());
    world.all_reduce_sum(&overlapped, 1);
    out.overlapped = static_cast<int64_t>(overlapped);
    return out;
  }
  const std::string& slot_name(size_t slot) const { return trainable_[slot].name; }

 private:
  std::vector<PartBatches> parts(Collectives& world) const {
    std::vector<PartBatches> out;
    for (size_t p = static_cast<size_t>(world.rank()); p < indices_.size();
         p += static_cast<size_t>(world.size())) {
      out.push_back({.part = static_cast<int64_t>(p), .batches = {}});
      std::vector<Example> first, rest;
      for (const int64_t index : indices_[p]) {
        Example example = objective_->prepare(data_->get(index), Rng(3), /*training=*/true);
        (first.empty() ? first : rest).push_back(std::move(example));
      }
      out.back().batches.push_back(collate(std::move(first), deterministic_));
      if (!rest.empty()) out.back().batches.push_back(collate(std::move(rest), deterministic_));
    }
    return out;
  }

  bool deterministic_;
  Config config_;
  std::unique_ptr<Objective> objective_;
  std::shared_ptr<const Dataset> data_;
  std::vector<GroupOptions> groups_;
  std::vector<NamedTensor> trainable_, aliases_;
  std::vector<std::vector<int64_t>> indices_;
};

void sync_compare(const SyncCase& test, const Gradient& got, const Gradient& expected,
                  const std::string& what) {
  check(got.slots.size() == expected.slots.size(), "{}: {} tensors", what, got.slots.size());
  for (size_t i = 0; i < got.slots.size(); ++i)
    check(sync_same_bits(got.slots[i], expected.slots[i]), "{}: the gradient of {} differs", what,
          test.slot_name(i));
  check(
      got.loss_sum == expected.loss_sum && got.count == expected.count && got.norm == expected.norm,
      "{}: loss {} and norm {} instead of {} and {}", what, got.loss_sum, got.norm,
      expected.loss_sum, expected.norm);
}

/// The same but for the order of sums.
void sync_compare_near(const SyncCase& test, const Gradient& got, const Gradient& expected,
                       const std::string& what) {
  for (size_t i = 0; i < got.slots.size(); ++i)
    check(at::allclose(got.slots[i], expected.slots[i], 1e-3, 1e-5),
          "{}: the gradient of {} differs", what, test.slot_name(i));
  check(got.count == expected.count &&
            std::abs(got.loss_sum - expected.loss_sum) <= 1e-5 * std::abs(expected.loss_sum),
        "{}: loss {} over {} instead of {} over {}", what, got.loss_sum, got.count,
        expected.loss_sum, expected.count);
}

void sync_objectives(Collectives& world) {
  const TempDir dir;  // each rank has its own
  const TinyWorld tiny(dir);
  tiny.models();
  const auto single = make_single();
  for (const SyncSettings& settings : kSettings) {
    const std::string name = settings.name;
    for (const bool deterministic : {true, false}) {
      world.set_phase(name, 120.0);
      SyncCase test(tiny, settings, deterministic);
      Gradient expected = test.run(world, {});
      double nonzero = 0.0;
      for (const at::Tensor& slot : expected.slots) nonzero += slot.ne(0).sum().item<double>();
      check(world.rank() != 0 || nonzero > 0.0, "{}: the gradient is zero", name);
      const Gradient alone = test.run(*single, {});
      if (world.rank() == 0)
        (deterministic ? sync_compare : sync_compare_near)(test, alone, expected,
                                                           fmt::format("{} on one rank", name));
      int64_t overlapped = 0;
      for (const Variant& variant : kVariants) {
        const Gradient got = test.run(world, variant);
        const std::string what =
            fmt::format("{} deterministic={} zero={} bucket={} overlap={}", name, deterministic,
                        variant.zero, variant.bucket_bytes, variant.overlap);
        if (world.rank() == 0) sync_compare(test, got, expected, what);
        check(variant.overlap || got.overlapped == 0, "{}: {} buckets left early", what,
              got.overlapped);
        overlapped += got.overlapped;
      }
      check(world.size() == 1 || overlapped > 0, "{}: no bucket left before backward was over",
            name);
      if (deterministic) continue;
      for (const Variant& variant : kDeviceVariants) {
        Gradient got = test.run(world, variant);
        const std::string what = fmt::format("{} on devices, zero={} bucket={} overlap={}", name,
                                             variant.zero, variant.bucket_bytes, variant.overlap);
        check(std::abs(got.norm - expected.norm) <= 1e-6 * expected.norm, "{}: norm {}, not {}",
              what, got.norm, expected.norm);
        got.norm = expected.norm;
        if (world.rank() == 0) sync_compare(test, got, expected, what);
      }
    }
  }
}

at::Tensor sync_hidden_weight;

/// x · w, with w where the graph does not show it: as a checkpointed block has its parameters.
struct HiddenProduct final : torch::autograd::Function<HiddenProduct> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x) {
    ctx->save_for_backward({x});
    return x * sync_hidden_weight.detach();
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list dy) {
    const at::Tensor x = ctx->get_saved_variables()[0].detach().requires_grad_(true);
    at::Tensor y;
    {
      const at::AutoGradMode on(true);
      y = x * sync_hidden_weight;
    }
    torch::autograd::backward({y}, {dy[0]});
    return {x.grad()};
  }
};

// One bucket a parameter; the hidden weight is used twice, `last` after it in backward.
void sync_hidden(Collectives& world) {
  world.set_phase("hidden", 60.0);
  const std::vector<GroupOptions> groups = {sync_group(GroupOptions::Type::kAdamW)};
  const auto scale = static_cast<float>(world.rank() + 1);
  const auto run = [&](bool overlap) {
    at::Tensor first = at::full({300}, 0.5F), hidden = at::full({300}, 0.25F);
    FlatBuffer buffer({{"first", first}, {"hidden", hidden}}, {0, 0}, groups, {},
                      {.bucket_bytes = 4, .zero = 2, .rank = world.rank(), .ranks = world.size()});
    sync_hidden_weight = hidden;
    GradientSync sync(buffer, world, overlap);
    std::vector<at::Tensor> out;
    for (int step = 0; step < 3; ++step) {
      sync.begin({world.size()});
      sync.backward(HiddenProduct::apply(HiddenProduct::apply(first * scale)).sum(), true);
      sync.finish();
      for (at::Tensor& g : sync_gather(buffer, world)) out.push_back(g);
      // In the first step nobody knows how often `hidden` comes; then it leaves early, whole.
      const int64_t early = !overlap ? 0 : step == 0 ? 0 : 2;
      check(sync.overlapped() == early, "step {}: {} buckets left early, expected {}", step,
            sync.overlapped(), early);
    }
    sync_hidden_weight.reset();
    return out;
  };
  const auto expected = run(false), got = run(true);
  for (size_t i = 0; i < got.size(); ++i) {
    check(sync_same_bits(got[i], expected[i]), "hidden use: gradient {} differs", i);
    check(got[i][0].item<float>() != 0.0F, "hidden use: gradient {} is zero", i);
  }
}

// A weight that was only ever seen in the graph and then comes once more is noticed.
void sync_late(Collectives& world) {
  world.set_phase("late", 60.0);
  const std::vector<GroupOptions> groups = {sync_group(GroupOptions::Type::kAdamW)};
  at::Tensor first = at::full({300}, 0.5F), hidden = at::full({300}, 0.25F);
  FlatBuffer buffer({{"first", first}, {"hidden", hidden}}, {0, 0}, groups, {},
                    {.bucket_bytes = 4, .rank = world.rank(), .ranks = world.size()});
  sync_hidden_weight = hidden;
  GradientSync sync(buffer, world, true);
  sync.begin({world.size()});
  const at::Tensor later = (first * 3.0).sum(), sooner = (hidden * 2.0).sum();
  sync.backward(later + sooner, true);  // hidden's bucket goes first
  sync.finish();
  sync.begin({world.size()});
  const at::Tensor used = HiddenProduct::apply(first * 2.0);
  const at::Tensor loss = used.sum() + (hidden * 3.0).sum();  // the visible use comes first
  std::string noticed = "nothing";
  try {
    sync.backward(loss, true);
  } catch (const std::exception& e) {
    noticed = e.what();
  }
  check(noticed.find("the gradient of hidden came after its bucket was sent") != std::string::npos,
        "a gradient that came too late was noticed by: {}", noticed);
  sync_hidden_weight.reset();
}

// A chain of layers, one bucket a layer: ZeRO-2 never holds more than its shard and a few buckets.
void sync_memory(Collectives& world) {
  world.set_phase("memory", 60.0);
  constexpr int64_t kLayers = 24, kWidth = 64, kBucket = kWidth * kWidth;
  at::Tensor values;  // after three steps of AdamW, the same whatever stage and interface
  HostDeviceCollectives device(world);
  const auto peak = [&](int zero, GroupOptions::Type type, bool on_device) {
    std::vector<NamedTensor> layers;
    for (int64_t i = 0; i < kLayers; ++i)
      layers.push_back({fmt::format("layer{}", i), at::eye(kWidth).mul(0.9)});
    const std::vector<GroupOptions> groups = {sync_group(type)};
    FlatBuffer buffer(layers, std::vector<int64_t>(kLayers, 0), groups, {},
                      {.bucket_bytes = 4 * kBucket,
                       .zero = zero,
                       .rank = world.rank(),
                       .ranks = world.size(),
                       .device = on_device ? &device : nullptr});
    check(buffer.buckets().size() == kLayers, "{} buckets", buffer.buckets().size());
    GradientSync sync(buffer, world, true);
    Optimizer optimizer(buffer, groups, false);
    int64_t most = 0, own = 0;
    for (const FlatBucket& bucket : buffer.buckets()) own += bucket.end - bucket.begin;
    for (int step = 0; step < 3; ++step) {
      sync.begin({world.size()});
      at::Tensor x = at::ones({4, kWidth});
      for (const NamedTensor& layer : layers) x = at::matmul(x, layer.tensor);
      sync.backward(x.sum(), true);
      sync.finish();
      optimizer.step(std::vector<double>(optimizer.groups().size(), 1.0), 1.0, world);
      most = std::max(most, sync.peak());
    }
    const int64_t states = type == GroupOptions::Type::kAdamW ? 2 : 1;
    check(optimizer.held() == states * own, "{} numbers of state", optimizer.held());
    const bool whole = zero == 0 && type == GroupOptions::Type::kAdamW;
    check(whole ? own == kLayers * kBucket
                : own <= kLayers * kBucket / world.size() + kLayers * kBucket / 6,
          "zero={}: updates {} numbers", zero, own);
    std::vector<at::Tensor> after;
    for (const NamedTensor& layer : layers) after.push_back(layer.tensor.detach().reshape({-1}));
    if (type == GroupOptions::Type::kMuon || !values.defined()) {
      values = at::cat(after);
    } else {
      check(sync_same_bits(values, at::cat(after)), "zero={} device={}: other parameters", zero,
            on_device);
    }
    return std::pair{most, own};
  };
  for (const auto& [type, on_device] :
       {std::pair{GroupOptions::Type::kAdamW, false}, std::pair{GroupOptions::Type::kAdamW, true},
        std::pair{GroupOptions::Type::kMuon, false}, std::pair{GroupOptions::Type::kMuon, true}}) {
    for (const int zero : {0, 1}) {
      const auto [most, own] = peak(zero, type, on_device);
      check(most == kLayers * kBucket, "zero={}: {} numbers of gradient", zero, most);
    }
    const auto [most, own] = peak(2, type, on_device);
    const auto few = static_cast<int64_t>(GradientSync::kBucketsInFlight) + 1;
    check(most <= own + few * kBucket, "ZeRO-2 held {} numbers of gradient: {} are its own", most,
          own);
    if (world.rank() == 0)
      std::printf("memory: %ld of %ld numbers of gradient, own %ld, a bucket %ld\n",
                  static_cast<long>(most), static_cast<long>(kLayers * kBucket),
                  static_cast<long>(own), static_cast<long>(kBucket));
  }
}

}  // namespace
}  // namespace euromodal

int main(int argc, char** argv) {
  using namespace euromodal;
  const std::string scenario = argc > 1 ? argv[1] : "objectives";
  try {
    set_log_level(LogLevel::kError);
    at::set_num_threads(1);
    const auto world = make_world();
    if (scenario == "objectives") sync_objectives(*world);
    if (scenario == "sharded") sync_sharded(*world);
    if (scenario == "hidden") {
      sync_hidden(*world);
      sync_late(*world);
      sync_memory(*world);
    }
    if (world->rank() == 0) std::printf("%s: %d ranks: ok\n", scenario.c_str(), world->size());
    return 0;
  } catch (const std::exception& e) {
    abort_world(1, e.what());
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
