// linear.cpp — see linear.h.
#include "backbone/nn/linear.h"

#include <cmath>
#include <optional>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/ranges.h>

#include "backbone/kernels/linear/linear.h"
#include "backbone/kernels/linear/lora_linear.h"
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
};

Linear::Linear(std::string name, const at::Tensor& weight_OI, const at::Tensor& bias_O)
    : state_(std::make_shared<State>(State{std::move(name), weight_OI, bias_O, std::nullopt})) {}

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
      keys.empty()
          ? x_TI
          : x_TI * lora_dropout_mask(lora.dropout, keys, x_TI.size(1), x_TI.scalar_type(), rows);
  return linear(dropped_TI, lora.a_RI, at::Tensor(), rows) * lora.scale();
}

at::Tensor Linear::operator()(const at::Tensor& x_TI, const Segments& rows,
                              const DropoutKeys& dropout) const {
  if (!state_->lora) return linear(x_TI, state_->weight_OI, state_->bias_O, rows);
  const Lora& lora = *state_->lora;
  const LoraUpdate update{lora.a_RI, lora.b_OR, lora.scale(), lora.dropout,
                          linear_keys(state_->name, lora, dropout)};
  return lora_linear(x_TI, state_->weight_OI, state_->bias_O, update, rows);
}

const std::string& Linear::name() const { return state_->name; }
const at::Tensor& Linear::weight_OI() const { return state_->weight_OI; }
const at::Tensor& Linear::bias_O() const { return state_->bias_O; }
const Lora* Linear::lora() const { return state_->lora ? &*state_->lora : nullptr; }

bool Linear::trains() const {
  const auto trained = [](const at::Tensor& t) { return t.defined() && t.requires_grad(); };
  return trained(state_->weight_OI) || trained(state_->bias_O) ||
         (state_->lora && (trained(state_->lora->a_RI) || trained(state_->lora->b_OR)));
}

void Linear::set_lora(Lora lora) {
  const at::Tensor& w = state_->weight_OI;
  check(!state_->lora.has_value(), "{} has a LoRA already", state_->name);
  check(lora.a_RI.dim() == 2 && lora.b_OR.dim() == 2 && lora.a_RI.size(1) == w.size(1) &&
            lora.b_OR.size(0) == w.size(0) && lora.a_RI.size(0) == lora.b_OR.size(1),
        "{}: LoRA of shapes [{}] and [{}] does not fit the weight [{}]", state_->name,
        fmt::join(lora.a_RI.sizes(), ", "), fmt::join(lora.b_OR.sizes(), ", "),
        fmt::join(w.sizes(), ", "));
  state_->lora = std::move(lora);
}

at::Tensor Linear::merged_weight_OI() const {
  const c10::NoGradGuard no_grad;
  const at::Tensor& w = state_->weight_OI;
  if (!state_->lora) return w;
  const Lora& lora = *state_->lora;
  const at::ScalarType sums = w.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor update_OI = at::mm(lora.b_OR.to(sums), lora.a_RI.to(sums)).mul_(lora.scale());
  return update_OI.add_(w.to(sums)).to(w.scalar_type());
}

void Linear::merge_lora() {
  if (!state_->lora) return;
  const c10::NoGradGuard no_grad;
  state_->weight_OI.copy_(merged_weight_OI());
  state_->lora.reset();
}

}  // namespace euromodal
