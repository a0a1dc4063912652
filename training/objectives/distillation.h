// distillation.h — the text-only prompt as teacher (Ultravox): the backbone reads the text that a
// medium stands for, and the model with the medium learns to predict the same. Both see the same
// answer; on its rows the loss is KL(teacher || student). The teacher's weights are the student's,
// as they are in this step; no gradient flows through the teacher.
#pragma once
#include <optional>

#include <ATen/core/Tensor.h>

#include "core/config.h"
#include "multimodal/model.h"
#include "training/objectives/labelled_rows.h"

namespace euromodal {

struct DistillOptions {
  double weight = 1.0;       // of the divergence
  double temperature = 2.0;  // of both distributions
  double ce_weight = 0.0;    // of the cross-entropy with the record's own answer

  /// `distill: {weight: 1.0, temperature: 2.0, ce_weight: 0.0}`; nothing without it.
  static std::optional<DistillOptions> parse(const Config& config);
};

/// The plan of `record` with every medium's text in its place. Empty for a record without media:
/// there the student is its own teacher. DataError unless every medium has a text, the plan fits
/// into `longest` positions, and its labels are exactly those of `student`, in order.
TokenPlan plan_teacher(const Record& record, const TokenPlan& student, const PlanContext& context,
                       int64_t longest);

/// The teacher's hidden rows for every labelled row of the samples that have a teacher.
struct TeacherRows {
  at::Tensor hidden_RD;        // undefined: no sample has a teacher
  std::vector<int64_t> begin;  // [S + 1]: where the rows of a sample of the batch begin
};

/// One pass of the text without gradient. No medium is encoded.
TeacherRows teacher_rows(const MultimodalModel& model, const Batch& batch);

/// What the teacher of some labelled rows of a batch says.
struct Divergence {
  at::Tensor sum;         // scalar, with graph; undefined: none of the rows has a teacher
  at::Tensor row_loss_R;  // [R] the summands, one for each of all labelled rows: 0 without teacher
  double weight = 0.0;    // of the samples that have one
};

/// Sum over `labelled` (all rows of a batch, or those of a kind) of their weight times KL.
Divergence divergence(const Batch& batch, const at::Tensor& hidden_TD, const TeacherRows& teacher,
                      const LabelledRows& labelled, const at::Tensor& head_VD, double temperature);

}  // namespace euromodal
