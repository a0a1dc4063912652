// coupled_model.cpp — see coupled_model.h: encode, adapt, splice, backbone.
#include "multimodal/coupled_model.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "backbone/kernels/to_device.h"
#include "backbone/lora.h"
#include "core/error.h"
#include "core/time_split.h"

namespace euromodal {

struct CoupledModel::Gathered {
  Modality kind = Modality::kImage;
  std::vector<EncoderInput> inputs;
  std::vector<StoredFeatures> stored;  // one per input; rows undefined: to be encoded
  std::vector<std::string> keys;       // for the cache; empty: none
  std::vector<SpliceItem> places;
  std::vector<int64_t> per_sample;  // items of each sample of the batch
  DropoutKeys dropout;              // keys, one per segment of the encoder; empty: no dropout
};

namespace {

bool coupled_trains(const Encoder& encoder) {
  const std::vector<NamedTensor>& parameters = encoder.parameters();
  const std::vector<Linear> linears = encoder.linears();
  return std::any_of(parameters.begin(), parameters.end(),
                     [](const NamedTensor& p) { return p.tensor.requires_grad(); }) ||
         std::any_of(linears.begin(), linears.end(),
                     [](const Linear& linear) { return linear.trains(); });
}

/// The rows before the first medium: the same ids give the same rows. Those of a sample without
/// media are not worth keeping.
std::vector<ConstantPrefix> coupled_prefixes(const Batch& batch) {
  std::vector<ConstantPrefix> out;
  for (const Example& example : batch.examples) {
    const TokenPlan& plan = example.plan;
    ConstantPrefix prefix{static_cast<int64_t>(plan.ids.size()), ""};
    if (!plan.spans.empty()) {
      prefix.length = plan.spans.front().start;
      prefix.key.assign(reinterpret_cast<const char*>(plan.ids.data()),
                        static_cast<size_t>(prefix.length) * sizeof(int64_t));
    }
    out.push_back(std::move(prefix));
  }
  return out;
}

/// Placeholder ids may stand beyond the vocabulary: the lookup reads row 0 there, and the splice
/// replaces what it gives (so that row 0 gets no gradient from it).
at::Tensor coupled_lookup_ids(const Batch& batch) {
  at::Tensor ids_T;
  for (size_t s = 0; s < batch.examples.size(); ++s) {
    for (const Span& span : batch.examples[s].plan.spans) {
      if (!ids_T.defined()) ids_T = batch.ids_T.clone();
      ids_T.narrow(0, batch.rows.begin(static_cast<int64_t>(s)) + span.start, span.length).zero_();
    }
  }
  return ids_T.defined() ? ids_T : batch.ids_T;
}

/// In the encoder's dtype, where it lies.
at::Tensor coupled_stored_rows(const StoredFeatures& stored, const Encoder& encoder,
                               const SpliceItem& place) {
  const at::Tensor& rows_LE = stored.rows_LE;
  check<DataError>(rows_LE.size(1) == encoder.width() && rows_LE.size(0) == stored.layout.rows(),
                   "sample {}: {} {}: stored features [{}, {}], expected [{}, {}]", place.sample,
                   modality_name(place.kind), place.item, rows_LE.size(0), rows_LE.size(1),
                   stored.layout.rows(), encoder.width());
  const at::Tensor& like = encoder.parameters().front().tensor;
  return to_device(rows_LE.to(like.scalar_type()).contiguous(), like.device());
}

}  // namespace

CoupledModel::CoupledModel(ModelParts parts) : parts_(std::move(parts)) {
  const auto add = [this](const std::string& prefix, const std::vector<NamedTensor>& list) {
    for (const NamedTensor& p : list) parameters_.push_back({prefix + p.name, p.tensor});
  };
  add("backbone.", parts_.text.parameters);
  add("backbone.", lora_parameters(parts_.text.llama->linears()));
  for (const Modality kind : kModalities) {
    const auto& media = parts_.media[index(kind)];
    if (!media) continue;
    if (media->frames > 0)
      continue;  // a shared encoder is listed once, under the kind that owns it
    const std::string prefix = fmt::format("encoder.{}.", modality_name(kind));
    add(prefix, media->encoder->parameters());
    add(prefix, lora_parameters(media->encoder->linears()));
  }
  for (const Modality kind : kModalities) {
    if (const auto& media = parts_.media[index(kind)])
      add(fmt::format("adapter.{}.", modality_name(kind)), media->adapter->parameters());
  }
}

const MediaPart& CoupledModel::part(Modality kind) const {
  check<DataError>(takes(kind), "this model takes no {}", modality_name(kind));
  return *parts_.media[index(kind)];
}

int64_t CoupledModel::num_tokens(Modality kind, const EncoderInput& input) const {
  const MediaPart& media = part(kind);
  return media.adapter->num_tokens(media.encoder->layout(input, media.select));
}

int64_t CoupledModel::num_tokens(Modality kind, const RowLayout& layout) const {
  return part(kind).adapter->num_tokens(layout);
}

FeatureIdentity CoupledModel::feature_identity(Modality kind) const {
  const MediaPart& media = part(kind);
  const std::scoped_lock lock(identity_mutex_);
  std::string& identity = identities_[index(kind)];
  if (identity.empty()) identity = encoder_identity(*media.encoder);
  return {identity, media.features};
}

EncoderInput CoupledModel::prepare(Modality kind, const MediaSource& source) const {
  const Encoder& encoder = *part(kind).encoder;
  return encoder.preprocess_on(encoder.read(source), parts_.text.llama->embedding_VD().device());
}

at::Tensor CoupledModel::forward(const Batch& batch, FeatureCache* cache,
                                 PrefixCache* prefixes) const {
  const at::Tensor emb_TD = embed(batch, cache);
  const TimeScope scope("backbone");
  const DropoutKeys dropout = sample_dropout_keys(batch);
  if (prefixes == nullptr) return parts_.text.llama->forward(emb_TD, batch.rows, dropout);
  return parts_.text.llama->forward(emb_TD, batch.rows, coupled_prefixes(batch), *prefixes,
                                    dropout);
}

at::Tensor CoupledModel::embed(const Batch& batch, FeatureCache* cache) const {
  std::vector<Gathered> gathered;  // all counts are checked before any work
  for (const Modality kind : kModalities) gathered.push_back(gather(batch, kind));
  at::Tensor emb_TD = parts_.text.llama->embed(
      to_device(coupled_lookup_ids(batch), parts_.text.llama->embedding_VD().device()), batch.rows);
  for (const Gathered& items : gathered) {
    if (items.places.empty()) continue;
    const MediaPart& media = part(items.kind);
    Features features = encode(items, media, batch.rows.per_sample, cache);
    const TimeScope scope("adapt");
    const at::Tensor rows_MD = media.adapter->forward(
        {.rows_LE = features.rows_LE,
         .items = std::move(features.items),
         .samples = Segments::from_lengths(items.per_sample, batch.rows.per_sample)});
    emb_TD = splice(emb_TD, rows_MD.to(emb_TD.scalar_type()), items.places);
  }
  return emb_TD;
}

CoupledModel::Gathered CoupledModel::gather(const Batch& batch, Modality kind) const {
  Gathered out;
  out.kind = kind;
  check(batch.rows.count() == static_cast<int64_t>(batch.examples.size()),
        "batch: {} samples but {} row segments", batch.examples.size(), batch.rows.count());
  for (size_t s = 0; s < batch.examples.size(); ++s) {
    const Example& example = batch.examples[s];
    const int64_t base = batch.rows.begin(static_cast<int64_t>(s));
    int64_t runs = 0, items = 0;
    for (const Span& span : example.plan.spans) {
      if (span.kind != kind) continue;
      out.places.push_back({.start = base + span.start,
                            .length = span.length,
                            .kind = kind,
                            .item = runs++,
                            .sample = example.id});
    }
    for (size_t i = 0; i < example.inputs.size(); ++i) {
      if (example.kinds[i] != kind) continue;
      out.inputs.push_back(example.inputs[i]);
      out.stored.push_back(example.features.empty() ? StoredFeatures{} : example.features[i]);
      out.keys.push_back(i < example.media_keys.size() ? example.media_keys[i] : "");
      add_dropout_keys(example, i, out.dropout);
      ++items;
    }
    check<DataError>(runs == items, "sample {}: {} placeholder runs but {} {} items", example.id,
                     runs, items, modality_name(kind));
    out.per_sample.push_back(items);
  }
  for (size_t i = 0; i < out.places.size(); ++i) {
    SpliceItem& place = out.places[i];
    place.rows = out.stored[i].rows_LE.defined() ? num_tokens(kind, out.stored[i].layout)
                                                 : num_tokens(kind, out.inputs[i]);
    check_rows(place);
  }
  return out;
}

Features CoupledModel::encode(const Gathered& items, const MediaPart& part, bool per_item,
                              FeatureCache* cache) const {
  const TimeScope scope("encode");
  const auto first_stored =
      std::find_if(items.stored.begin(), items.stored.end(),
                   [](const StoredFeatures& stored) { return stored.rows_LE.defined(); });
  const bool any_stored = first_stored != items.stored.end();
  if (coupled_trains(*part.encoder)) {
    check<DataError>(!any_stored,
                     "sample {}: {} as stored features, but its encoder is trained: they would not "
                     "follow it",
                     items.places[any_stored ? first_stored - items.stored.begin() : 0].sample,
                     modality_name(items.kind));
    return part.encoder->forward(items.inputs, part.select, per_item, items.dropout);
  }
  const c10::NoGradGuard no_graph;
  if (!cache && !any_stored) return part.encoder->forward(items.inputs, part.select, per_item);

  Features out;
  std::vector<at::Tensor> rows(items.inputs.size());
  std::vector<EncoderInput> missing;
  std::vector<size_t> missing_at;
  for (size_t i = 0; i < items.inputs.size(); ++i) {
    if (items.stored[i].rows_LE.defined()) {
      out.items.push_back(items.stored[i].layout);
      rows[i] = coupled_stored_rows(items.stored[i], *part.encoder, items.places[i]);
      continue;
    }
    out.items.push_back(part.encoder->layout(items.inputs[i], part.select));
    if (cache && !items.keys[i].empty()) rows[i] = cache->find(items.kind, items.keys[i]);
    if (rows[i].defined()) continue;
    missing.push_back(items.inputs[i]);
    missing_at.push_back(i);
  }
  if (!missing.empty()) {
    const Features fresh = part.encoder->forward(missing, part.select, per_item);
    int64_t at = 0;
    for (size_t j = 0; j < missing_at.size(); ++j) {
      const size_t i = missing_at[j];
      check(fresh.items[j] == out.items[i],
            "sample {}: {} {}: the encoder gave other rows than it announced",
            items.places[i].sample, modality_name(items.kind), items.places[i].item);
      const int64_t end = at + fresh.items[j].rows();
      rows[i] = fresh.rows_LE.slice(0, at, end);
      at = end;
      if (cache) cache->insert(items.kind, items.keys[i], rows[i]);
    }
  }
  out.rows_LE = at::cat(rows);
  return out;
}

}  // namespace euromodal
