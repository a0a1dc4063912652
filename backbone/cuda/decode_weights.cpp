// decode_weights.cpp — see decode_weights.h.
#include "backbone/cuda/decode_weights.h"

#include <ATen/ATen.h>

#include "core/error.h"
#include "core/log.h"

namespace euromodal {

SkinnyLinearArgs DecodeLinear::arguments() const {
  SkinnyLinearArgs args{};
  args.weight_NK = weight.codes.const_data_ptr();
  args.scale = weight.scale.defined() ? weight.scale.const_data_ptr() : nullptr;
  args.zero = weight.zero.defined() ? weight.zero.const_data_ptr() : nullptr;
  args.bias_N = bias_O.defined() ? bias_O.const_data_ptr() : nullptr;
  args.N = outputs();
  args.K = inputs();
  args.weight_type = weight.form.type;
  args.group = static_cast<int>(weight.form.group);
  return args;
}

namespace {

SkinnyWeight quantised(const std::string& name, const at::Tensor& weight_OI, const SkinnyForm& form,
                       cudaStream_t stream) {
  SkinnyWeight out =
      empty_skinny_weight(form, weight_OI.size(0), weight_OI.size(1), weight_OI.options());
  QuantizeRowsArgs args{};
  args.weight_NK = weight_OI.const_data_ptr();
  args.codes = out.codes.mutable_data_ptr();
  args.scale = out.scale.mutable_data_ptr();
  args.zero = out.zero.defined() ? out.zero.mutable_data_ptr() : nullptr;
  args.N = out.outputs;
  args.K = out.inputs;
  args.type = form.type;
  args.group = static_cast<int>(form.group);
  const cudaError_t error = quantize_rows(args, stream);
  check(error == cudaSuccess, "{}: quantising {} x {} weights to {}: CUDA error {}", name,
        out.outputs, out.inputs, skinny_form_name(form), static_cast<int>(error));
  check(out.scale.isfinite().all().item<bool>(), "{}: a weight is not finite, or too large for {}",
        name, skinny_form_name(form));
  return out;
}

/// Layers of which some are codes already. All of them of one form: true; else all are plain
/// afterwards.
bool fuse_codes(std::span<const Linear* const> linears, const std::optional<SkinnyForm>& form,
                cudaStream_t stream, DecodeLinear& out) {
  std::vector<SkinnyWeight> parts;
  bool alike = true;
  for (const Linear* linear : linears) {
    const SkinnyWeight* codes = linear->skinny();
    check(!codes || !form || codes->form == *form,
          "{}: its weights are {} already, {} was asked for; what to do: leave --weights out, or "
          "take the folder they were made of",
          linear->name(), codes ? skinny_form_name(codes->form) : "",
          skinny_form_name(form.value_or(SkinnyForm{})));
    if (codes) {
      parts.push_back(*codes);
    } else if (form && *form != SkinnyForm{}) {
      parts.push_back(quantised(linear->name(), linear->weight_OI().contiguous(), *form, stream));
    } else {
      parts.emplace_back();
    }
    alike = alike && parts.back().form == parts.front().form;
  }
  if (!alike) {
    log_info(
        "{} and its neighbours are of several forms: dequantised to bfloat16 to be read as one",
        linears.front()->name());
    for (const Linear* linear : linears)
      if (linear->skinny()) Linear(*linear).use(widen_rows(*linear->skinny(), at::kBFloat16));
    return false;
  }
  std::vector<SkinnyWeight*> all;
  for (SkinnyWeight& part : parts) all.push_back(&part);
  out.weight = join_rows(all);
  for (size_t i = 0; i < parts.size(); ++i) {
    at::Tensor plain = linears[i]->skinny() ? at::Tensor() : linears[i]->weight_OI();
    Linear(*linears[i]).use(parts[i]);
    if (plain.defined()) plain.set_data(at::empty({0}, plain.options().requires_grad(false)));
  }
  return true;
}

void fuse_plain(std::span<const Linear* const> linears, DecodeLinear& out) {
  std::vector<at::Tensor> weights;
  for (const Linear* linear : linears) weights.push_back(linear->weight_OI());
  out.weight_OI = linears.size() == 1 ? weights[0].contiguous() : at::cat(weights, 0);
  int64_t begin = 0;
  for (const Linear* linear : linears) {
    at::Tensor handle = linear->weight_OI();
    const int64_t rows = handle.size(0);
    if (linears.size() > 1) handle.set_data(out.weight_OI.narrow(0, begin, rows));
    begin += rows;
  }
  out.weight = {{}, out.weight_OI.size(0), out.weight_OI.size(1), out.weight_OI, {}, {}};
}

}  // namespace

DecodeLinear fuse(std::span<const Linear* const> linears, const std::optional<SkinnyForm>& form,
                  cudaStream_t stream) {
  DecodeLinear out;
  out.name = linears.front()->name();
  bool codes = false, biased = false;
  for (const Linear* linear : linears) {
    check(linear->lora() == nullptr, "{}: a LoRA must be merged before decoding", linear->name());
    check(!linear->scale_O().defined(), "{}: a weight kept in float8 for training is not decoded",
          linear->name());
    codes = codes || linear->skinny();
    biased = biased || linear->bias_O().defined();
  }
  if (!codes || !fuse_codes(linears, form, stream, out)) {
    fuse_plain(linears, out);
    if (form && *form != SkinnyForm{})
      out.weight = quantised(out.name, out.weight_OI, *form, stream);
  }
  if (biased) {
    const auto options = out.weight.codes.options().dtype(at::kBFloat16);
    std::vector<at::Tensor> biases;
    for (const Linear* linear : linears)
      biases.push_back(linear->bias_O().defined() ? linear->bias_O()
                                                  : at::zeros({linear->outputs()}, options));
    out.bias_O = at::cat(biases, 0);
  }
  return out;
}

std::vector<DecodeBlock> decode_blocks(const Llama& llama, const std::optional<SkinnyForm>& form,
                                       cudaStream_t stream) {
  std::vector<DecodeBlock> out;
  const auto made = [&](std::initializer_list<const Linear*> linears) {
    return fuse({linears.begin(), linears.end()}, form, stream);
  };
  for (const LlamaBlock& block : llama.blocks())
    out.push_back({made({&block.q, &block.k, &block.v}), made({&block.o}),
                   made({&block.gate, &block.up}), made({&block.down})});
  return out;
}

}  // namespace euromodal
