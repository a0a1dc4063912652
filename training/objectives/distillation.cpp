// distillation.cpp — see distillation.h. T rows of a batch, R labelled ones that have a teacher, D
// width, V vocabulary.
#include "training/objectives/distillation.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "backbone/kernels/distillation/distillation.h"
#include "backbone/kernels/to_device.h"

namespace euromodal {

namespace {

std::vector<int64_t> distill_targets(const TokenPlan& plan) {
  std::vector<int64_t> out;
  for (const int64_t label : plan.labels) {
    if (label >= 0) out.push_back(label);
  }
  return out;
}

bool distill_has_teacher(const Example& example) { return !example.teacher.ids.empty(); }

}  // namespace

std::optional<DistillOptions> DistillOptions::parse(const Config& config) {
  if (!config.has("distill")) return std::nullopt;
  const Config distill = config.child("distill");
  DistillOptions out;
  out.weight = distill.f64("weight", out.weight);
  out.temperature = distill.f64("temperature", out.temperature);
  out.ce_weight = distill.f64("ce_weight", out.ce_weight);
  check<ConfigError>(out.weight > 0.0, "{}: expected a number above 0, got {}",
                     distill.where("weight"), out.weight);
  check<ConfigError>(out.temperature > 0.0, "{}: expected a number above 0, got {}",
                     distill.where("temperature"), out.temperature);
  check<ConfigError>(out.ce_weight >= 0.0, "{}: expected a number of at least 0, got {}",
                     distill.where("ce_weight"), out.ce_weight);
  return out;
}

TokenPlan plan_teacher(const Record& record, const TokenPlan& student, const PlanContext& context,
                       int64_t longest) {
  Record text = record;
  bool any = false;
  for (Message& message : text.messages) {
    for (Part& part : message.parts) {
      if (!part.is_media) continue;
      check<DataError>(!part.media.text.empty(),
                       "{} '{}' has no text: distillation needs what it stands for, {{kind, uri, "
                       "text}}",
                       modality_name(part.media.kind), part.media.uri);
      part = {.text = part.media.text};
      any = true;
    }
  }
  if (!any) return {};
  TokenPlan out = plan_record(text, {}, context);
  check<DataError>(static_cast<int64_t>(out.ids.size()) <= longest,
                   "{} tokens of the teacher's prompt, but the backbone takes {} positions",
                   out.ids.size(), longest);
  const std::vector<int64_t> mine = distill_targets(student), its = distill_targets(out);
  check<DataError>(mine == its,
                   "the student has {} answer tokens and the teacher {}{}; the answer must be the "
                   "same beside the medium and beside its text",
                   mine.size(), its.size(), mine.size() == its.size() ? ", but other ones" : "");
  return out;
}

TeacherRows teacher_rows(const MultimodalModel& model, const Batch& batch) {
  TeacherRows out;
  std::vector<Example> texts;
  out.begin.push_back(0);
  for (const Example& example : batch.examples) {
    out.begin.push_back(out.begin.back());
    if (!distill_has_teacher(example)) continue;
    texts.emplace_back();
    texts.back().id = example.id;
    texts.back().plan = example.teacher;
    out.begin.back() += static_cast<int64_t>(distill_targets(example.teacher).size());
  }
  if (texts.empty()) return out;
  const c10::NoGradGuard no_graph;
  const Batch packed = collate(std::move(texts), batch.rows.per_sample);
  const at::Tensor hidden_TD = model.forward(packed);
  const LabelledRows labelled = labelled_rows(packed, {});
  out.hidden_RD = hidden_TD.index_select(0, to_device(labelled.rows, hidden_TD.device()));
  return out;
}

Divergence divergence(const Batch& batch, const at::Tensor& hidden_TD, const TeacherRows& teacher,
                      const LabelledRows& labelled, const at::Tensor& head_VD, double temperature) {
  std::vector<int64_t> labelled_at, student_at, teacher_at, lengths;
  std::vector<float> weights;
  Divergence out;
  size_t next = 0;  // in `labelled`
  for (size_t s = 0; s < batch.examples.size(); ++s) {
    const int64_t rows = labelled.lengths[s], begin = teacher.begin[s];
    const int64_t count = distill_has_teacher(batch.examples[s]) ? rows : 0;
    check(count == 0 || teacher.begin[s + 1] - begin == count,
          "sample {}: {} answer rows of the student, {} of the teacher", batch.examples[s].id,
          count, teacher.begin[s + 1] - begin);
    double sample = 0.0;
    for (int64_t r = 0; r < count; ++r) {
      const size_t at = next + static_cast<size_t>(r);
      labelled_at.push_back(static_cast<int64_t>(at));
      student_at.push_back(labelled.rows[at]);
      weights.push_back(labelled.weights[at]);
      teacher_at.push_back(begin + r);
      sample += static_cast<double>(labelled.weights[at]);
    }
    out.weight += sample;
    lengths.push_back(count);
    next += static_cast<size_t>(rows);
  }
  if (student_at.empty()) return out;
  const auto device = hidden_TD.device();
  at::Tensor row_loss;
  out.sum = linear_distillation(
      {.student_RD = hidden_TD.index_select(0, to_device(student_at, device)),
       .teacher_RD = teacher.hidden_RD.index_select(0, to_device(teacher_at, device)),
       .weight_VD = head_VD.detach(),
       .row_weight_R = to_device(at::tensor(weights, at::kFloat), device),
       .temperature = temperature,
       .row_loss_R = &row_loss},
      Segments::from_lengths(lengths, batch.rows.per_sample));
  out.row_loss_R = at::zeros({static_cast<int64_t>(labelled.rows.size())}, row_loss.options())
                       .index_copy_(0, to_device(labelled_at, device), row_loss);
  return out;
}

}  // namespace euromodal
