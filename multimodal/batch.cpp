// batch.cpp — see batch.h.
#include "multimodal/batch.h"

#include "core/error.h"
#include "core/rng.h"

namespace euromodal {

DropoutKeys sample_dropout_keys(const Batch& batch) {
  DropoutKeys out;
  for (const Example& example : batch.examples) {
    if (!example.dropout_key) return {};
    out.push_back(*example.dropout_key);
  }
  return out;
}

void add_dropout_keys(const Example& example, size_t item, DropoutKeys& out) {
  const at::Tensor& x = example.inputs[item].x;
  if (!example.dropout_key || !x.defined()) return;
  const Rng rng = Rng(*example.dropout_key).fork("item", item);
  for (int64_t segment = 0; segment < x.size(0); ++segment)
    out.push_back(rng.fork("segment", static_cast<uint64_t>(segment)).key());
}

Batch collate(std::vector<Example> examples, bool per_sample) {
  std::vector<int64_t> lengths;
  int64_t total = 0;
  for (const Example& example : examples) {
    const TokenPlan& plan = example.plan;
    check(plan.ids.size() == plan.labels.size(), "sample {}: {} ids but {} labels", example.id,
          plan.ids.size(), plan.labels.size());
    check(example.kinds.size() == example.inputs.size(), "sample {}: {} kinds but {} inputs",
          example.id, example.kinds.size(), example.inputs.size());
    check(example.features.empty() || example.features.size() == example.inputs.size(),
          "sample {}: {} stored features but {} inputs", example.id, example.features.size(),
          example.inputs.size());
    lengths.push_back(static_cast<int64_t>(plan.ids.size()));
    total += lengths.back();
  }
  Batch out;
  out.ids_T = at::empty({total}, at::kLong);
  out.labels_T = at::empty({total}, at::kLong);
  out.rows = Segments::from_lengths(lengths, per_sample);
  int64_t* ids = out.ids_T.mutable_data_ptr<int64_t>();
  int64_t* labels = out.labels_T.mutable_data_ptr<int64_t>();
  for (const Example& example : examples) {
    ids = std::copy(example.plan.ids.begin(), example.plan.ids.end(), ids);
    labels = std::copy(example.plan.labels.begin(), example.plan.labels.end(), labels);
  }
  out.examples = std::move(examples);
  return out;
}

}  // namespace euromodal
