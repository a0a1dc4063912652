// model_flops.cpp — see model_flops.h.
#include "training/objectives/model_flops.h"

#include <algorithm>

#include <ATen/ATen.h>

#include "backbone/lora.h"

namespace euromodal {
namespace {

constexpr std::array<Modality, 3> kKinds = {Modality::kImage, Modality::kAudio, Modality::kVideo};

}  // namespace

StackCost encoder_cost(const Encoder& encoder) {
  std::vector<NamedTensor> matrices = lora_parameters(encoder.linears());
  for (const NamedTensor& p : encoder.parameters()) {
    if (p.name.find("position") == std::string::npos) matrices.push_back(p);
  }
  StackCost out = count_matrices(matrices, "");
  out.attention_width = encoder.num_layers() * encoder.width();
  out.backward = out.trained > 0;
  return out;
}

double encoder_flops(const Encoder& encoder, const StackCost& cost, const EncoderInput& input) {
  const RowLayout rows = encoder.layout(input, FeatureSelect{});
  // Frames of a clip do not look at each other.
  return static_cast<double>(rows.frames) *
         stack_flops(cost, rows.prefix + rows.height * rows.width);
}

ModelFlops::ModelFlops(const MultimodalModel& model) : model_(model) {
  const LlamaConfig& config = model.backbone().config();
  body_ = count_matrices(model.parameters(), "backbone.model.layers.");
  body_.attention_width = config.num_layers * config.num_heads * config.head_dim;
  body_.causal = true;
  body_.backward = body_.trained > 0 || model.backbone().embedding_VD().requires_grad();
  const at::Tensor& head_VD = model.backbone().head_VD();
  head_ = count_matrices(model.parameters(), "backbone.lm_head.lora_");
  head_.matmul += head_VD.numel();
  head_.trained += head_VD.requires_grad() ? head_VD.numel() : 0;
  for (const Modality kind : kKinds) {
    if (!model.takes(kind)) continue;
    Media media{.encoder = encoder_cost(model.encoder(kind)),
                .adapter = count_matrices(model.parameters(),
                                          std::string("adapter.") + modality_name(kind) + ".")};
    media.adapter.backward = media.encoder.backward;
    media_[kind] = media;
  }
}

double ModelFlops::of(const Batch& batch, const FeatureCache* cache) const {
  double total = 0.0;
  for (const Example& example : batch.examples) {
    StackCost body = body_, head = head_;
    for (size_t i = 0; i < example.inputs.size(); ++i) {
      const Modality kind = example.kinds[i];
      const Media& media = media_.at(kind);
      body.backward |= media.encoder.backward || media.adapter.trained > 0;
      const bool stored = i < example.features.size() && example.features[i].rows_LE.defined();
      total +=
          stack_flops(media.adapter, stored ? model_.num_tokens(kind, example.features[i].layout)
                                            : model_.num_tokens(kind, example.inputs[i]));
      if (stored) continue;  // nothing to encode
      const bool cached = cache != nullptr && !media.encoder.backward &&
                          i < example.media_keys.size() && !example.media_keys[i].empty() &&
                          cache->find(kind, example.media_keys[i]).defined();
      if (!cached) total += encoder_flops(model_.encoder(kind), media.encoder, example.inputs[i]);
    }
    head.backward = body.backward || head.trained > 0;
    const auto labelled = std::count_if(example.plan.labels.begin(), example.plan.labels.end(),
                                        [](int64_t label) { return label >= 0; });
    total += stack_flops(body, static_cast<int64_t>(example.plan.ids.size())) +
             stack_flops(head, labelled);
  }
  return total;
}

}  // namespace euromodal
