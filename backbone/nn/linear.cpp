// linear.cpp — see linear.h.
#include "backbone/nn/linear.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/ranges.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backbone/kernels/linear/float8_weight.h"
#include "backbone/kernels/linear/linear.h"
#include "backbone/kernels/linear/lora_linear.h"
#include "backbone/kernels/packed_linear/packed_linear.h"
#include "core/error.h"
#include "core/rng.h"

namespace euromodal {

double Lora::scale() const {
  const auto r = static_cast<double>(rank());
  return alpha / (rslora ? std::sqrt(r) : r);
}

struct Linear::State {
  std::string name;
  at::Tensor weight_OI, bias_O;
  std::optional<Lora> lora;
  PackedWeight packed = {};
  SkinnyWeight skinny = {};
  at::Tensor scale_O = {};            // of a weight that was rounded to float8
  at::ScalarType dtype = at::kFloat;  // before that

  /// Undefined while something else than codes is in the weight's place (MergedWeights).
  at::Tensor scale() const { return is_float8(weight_OI) ? scale_O : at::Tensor(); }
};

namespace {

/// A quantised weight has no backward pass.
void check_inference(const std::string& name, const at::Tensor& x_TI) {
  check(!(x_TI.requires_grad() && c10::GradMode::is_enabled()),
        "{}: its weight is packed for inference, a gradient was asked for", name);
}

/// What lies between whole pages of a dead tensor goes back to the system.
void release_pages(const at::Tensor& dead) {
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(dead.storage().data());
  const uintptr_t first = (begin + page - 1) / page * page,
                  last = (begin + dead.storage().nbytes()) / page * page;
  if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

}  // namespace

Linear::Linear(std::string name, const at::Tensor& weight_OI, const at::Tensor& bias_O)
    : state_(std::make_shared<State>(State{std::move(name), weight_OI, bias_O, std::nullopt})) {}

Linear::Linear(std::string name, PackedWeight weight, const at::Tensor& bias_O)
    : state_(std::make_shared<State>(
          State{std::move(name), at::empty({0}), bias_O, std::nullopt, std::move(weight)})) {}

namespace {

std::vector<uint64_t> linear_keys(const std::string& name, const Lora& lora,
                                  const DropoutKeys& dropout) {
  std::vector<uint64_t> out;
  if (lora.dropout > 0.0) {
    for (const uint64_t key : dropout) out.push_back(Rng(key).fork(name).key());
  }
  return out;
}

}  // namespace

at::Tensor Linear::lora_rows(const at::Tensor& x_TI, const Segments& rows,
                             const DropoutKeys& dropout) const {
  check(state_->lora.has_value(), "{} has no LoRA", state_->name);
  const Lora& lora = *state_->lora;
  const std::vector<uint64_t> keys = linear_keys(state_->name, lora, dropout);
  const at::Tensor dropped_TI =
      keys.empty() ? x_TI : x_TI * lora_dropout_mask(lora.dropout, keys, x_TI, rows);
  return linear(dropped_TI, lora.a_RI, at::Tensor(), rows) * lora.scale();
}

at::Tensor Linear::operator()(const at::Tensor& x_TI, const Segments& rows,
                              const DropoutKeys& dropout) const {
  if (packed()) {
    check_inference(state_->name, x_TI);
    return packed_linear(x_TI, state_->packed, state_->bias_O);
  }
  if (skinny()) {
    check_inference(state_->name, x_TI);
    return linear(x_TI, widen_rows(*skinny(), x_TI.scalar_type()), state_->bias_O, rows);
  }
  if (!state_->lora) return linear(x_TI, state_->weight_OI, state_->bias_O, rows, state_->scale());
  const Lora& lora = *state_->lora;
  const LoraUpdate update{lora.a_RI, lora.b_OR, lora.scale(), lora.dropout,
                          linear_keys(state_->name, lora, dropout)};
  return lora_linear(x_TI, state_->weight_OI, state_->bias_O, update, rows, state_->scale());
}

const std::string& Linear::name() const { return state_->name; }
const at::Tensor& Linear::weight_OI() const { return state_->weight_OI; }
const at::Tensor& Linear::bias_O() const { return state_->bias_O; }
const at::Tensor& Linear::scale_O() const { return state_->scale_O; }
at::Tensor Linear::plain_weight_OI() const {
  return product_weight(state_->weight_OI, state_->scale(), state_->dtype);
}
const PackedWeight* Linear::packed() const {
  return state_->packed.defined() ? &state_->packed : nullptr;
}
const SkinnyWeight* Linear::skinny() const {
  return state_->skinny.defined() ? &state_->skinny : nullptr;
}
int64_t Linear::inputs() const {
  return packed() ? packed()->inputs : skinny() ? skinny()->inputs : state_->weight_OI.size(1);
}
int64_t Linear::outputs() const {
  return packed() ? packed()->outputs : skinny() ? skinny()->outputs : state_->weight_OI.size(0);
}
const Lora* Linear::lora() const { return state_->lora ? &*state_->lora : nullptr; }

bool Linear::trains() const {
  const auto trained = [](const at::Tensor& t) { return t.defined() && t.requires_grad(); };
  return trained(state_->weight_OI) || trained(state_->bias_O) ||
         (state_->lora && (trained(state_->lora->a_RI) || trained(state_->lora->b_OR)));
}

void Linear::set_lora(Lora lora) {
  const at::Tensor& w = state_->weight_OI;
  check(!state_->lora.has_value(), "{} has a LoRA already", state_->name);
  check(!packed() && !skinny(), "{} is packed for inference; a LoRA is put on before that",
        state_->name);
  check(lora.a_RI.dim() == 2 && lora.b_OR.dim() == 2 && lora.a_RI.size(1) == w.size(1) &&
            lora.b_OR.size(0) == w.size(0) && lora.a_RI.size(0) == lora.b_OR.size(1),
        "{}: LoRA of shapes [{}] and [{}] does not fit the weight [{}]", state_->name,
        fmt::join(lora.a_RI.sizes(), ", "), fmt::join(lora.b_OR.sizes(), ", "),
        fmt::join(w.sizes(), ", "));
  state_->lora = std::move(lora);
}

at::Tensor Linear::merged_weight_OI() const {
  const c10::NoGradGuard no_grad;
  const at::Tensor w = plain_weight_OI();
  if (!state_->lora) return w;
  const Lora& lora = *state_->lora;
  const at::ScalarType sums = w.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor update_OI = at::mm(lora.b_OR.to(sums), lora.a_RI.to(sums)).mul_(lora.scale());
  return update_OI.add_(w.to(sums)).to(w.scalar_type());
}

void Linear::merge_lora() {
  if (!state_->lora) return;
  const c10::NoGradGuard no_grad;
  if (is_float8(state_->weight_OI)) {  // the sum is no float8 number
    state_->weight_OI.set_data(merged_weight_OI());
    state_->scale_O.reset();
  } else {
    state_->weight_OI.copy_(merged_weight_OI());
  }
  state_->lora.reset();
}

void Linear::round_to_float8() {
  check(!packed(), "{} is packed for inference and cannot be kept in float8", state_->name);
  check(!state_->weight_OI.requires_grad(), "{}: a weight that trains cannot be kept in float8",
        state_->name);
  if (is_float8(state_->weight_OI)) return;
  try {
    const Float8Weight rounded = euromodal::round_to_float8(state_->weight_OI);
    state_->dtype = state_->weight_OI.scalar_type();
    state_->scale_O = rounded.scale_O;
    state_->weight_OI.set_data(rounded.codes_OI);
  } catch (const Error& error) {
    throw CheckpointError("{}: {}", state_->name, error.what());
  }
}

void Linear::pack(const PackedForm& form) {
  check(!state_->lora, "{}: a LoRA must be merged before the weight is packed", state_->name);
  check(!packed(), "{} is packed already", state_->name);
  check(!trains(), "{}: a weight that trains cannot be packed", state_->name);
  check(!is_float8(state_->weight_OI), "{}: a weight in float8 cannot be packed", state_->name);
  state_->packed = pack_and_release(state_->weight_OI, form);
}

void Linear::use(PackedWeight weight) {
  check(weight.outputs == outputs() && weight.inputs == inputs(),
        "{}: a packed weight of {} x {}, expected {} x {}", state_->name, weight.outputs,
        weight.inputs, outputs(), inputs());
  state_->packed = std::move(weight);
}

void Linear::use(SkinnyWeight weight) {
  check(weight.outputs == outputs() && weight.inputs == inputs(),
        "{}: a quantised weight of {} x {}, expected {} x {}", state_->name, weight.outputs,
        weight.inputs, outputs(), inputs());
  check(!state_->lora, "{}: a LoRA must be merged before the weight is quantised", state_->name);
  if (packed()) state_->packed = {};
  state_->skinny = std::move(weight);
}

void Linear::use(const at::Tensor& weight_OI) {
  check(weight_OI.dim() == 2 && weight_OI.size(0) == outputs() && weight_OI.size(1) == inputs(),
        "{}: a weight of [{}], expected [{}, {}]", state_->name, fmt::join(weight_OI.sizes(), ", "),
        outputs(), inputs());
  state_->packed = {};
  state_->skinny = {};
  state_->weight_OI = weight_OI;
}

std::vector<at::Tensor> apply_together(std::span<const Linear* const> linears,
                                       const at::Tensor& x_TI, const Segments& rows,
                                       const DropoutKeys& dropout) {
  const auto like_first = [&](const Linear* linear) {
    return linear->packed() && linears[0]->packed() &&
           linear->packed()->form == linears[0]->packed()->form;
  };
  std::vector<at::Tensor> out;
  if (std::all_of(linears.begin(), linears.end(), like_first)) {
    check_inference(linears[0]->name(), x_TI);
    std::vector<PackedOperand> operands;
    for (const Linear* linear : linears) operands.push_back({linear->packed(), linear->bias_O()});
    return packed_linears(x_TI, operands);
  }
  for (const Linear* linear : linears) out.push_back((*linear)(x_TI, rows, dropout));
  return out;
}

PackedWeight pack_and_release(const at::Tensor& weight_OI, const PackedForm& form) {
  PackedWeight packed = pack_weight(weight_OI, form);
  at::Tensor handle = weight_OI;
  const at::Tensor dead = handle.variable_data();  // the storage, while the handles lose it
  handle.set_data(at::empty({0}, weight_OI.options().requires_grad(false)));
  if (dead.storage().use_count() == 1) release_pages(dead);
  return packed;
}

}  // namespace euromodal
