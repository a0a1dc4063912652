// decode_weights.cpp — see decode_weights.h.
#include "backbone/cuda/decode_weights.h"

#include <ATen/ATen.h>

#include "core/error.h"

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

DecodeLinear fuse(const std::vector<const Linear*>& linears) {
  DecodeLinear out;
  out.name = linears[0]->name();
  std::vector<at::Tensor> weights, biases;
  bool biased = false;
  for (const Linear* linear : linears) {
    check(linear->lora() == nullptr, "{}: a LoRA must be merged before decoding", linear->name());
    check(!linear->scale_O().defined(), "{}: a weight kept in float8 for training is not decoded",
          linear->name());
    weights.push_back(linear->weight_OI());
    biased = biased || linear->bias_O().defined();
  }
  out.weight_OI = linears.size() == 1 ? weights[0].contiguous() : at::cat(weights, 0);
  int64_t begin = 0;
  for (const Linear* linear : linears) {
    at::Tensor handle = linear->weight_OI();
    const int64_t rows = handle.size(0);
    if (linears.size() > 1) handle.set_data(out.weight_OI.narrow(0, begin, rows));
    begin += rows;
    biases.push_back(linear->bias_O().defined() ? linear->bias_O()
                                                : at::zeros({rows}, out.weight_OI.options()));
  }
  if (biased) out.bias_O = at::cat(biases, 0);
  out.weight = {{}, out.weight_OI.size(0), out.weight_OI.size(1), out.weight_OI, {}, {}};
  return out;
}

void quantise(DecodeLinear& linear, const SkinnyForm& form, cudaStream_t stream) {
  if (form == linear.weight.form) return;
  SkinnyWeight made =
      empty_skinny_weight(form, linear.outputs(), linear.inputs(), linear.weight_OI.options());
  QuantizeRowsArgs args{};
  args.weight_NK = linear.weight_OI.const_data_ptr();
  args.codes = made.codes.mutable_data_ptr();
  args.scale = made.scale.mutable_data_ptr();
  args.zero = made.zero.defined() ? made.zero.mutable_data_ptr() : nullptr;
  args.N = made.outputs;
  args.K = made.inputs;
  args.type = form.type;
  args.group = static_cast<int>(form.group);
  const cudaError_t error = quantize_rows(args, stream);
  check(error == cudaSuccess, "{}: quantising {} x {} weights to {}: CUDA error {}", linear.name,
        made.outputs, made.inputs, skinny_form_name(form), static_cast<int>(error));
  check(made.scale.isfinite().all().item<bool>(), "{}: a weight is not finite, or too large for {}",
        linear.name, skinny_form_name(form));
  linear.weight = std::move(made);
}

std::vector<DecodeBlock> decode_blocks(const Llama& llama, const SkinnyForm& form,
                                       cudaStream_t stream) {
  std::vector<DecodeBlock> out;
  for (const LlamaBlock& block : llama.blocks()) {
    DecodeBlock made{fuse({&block.q, &block.k, &block.v}), fuse({&block.o}),
                     fuse({&block.gate, &block.up}), fuse({&block.down})};
    for (DecodeLinear* linear : {&made.qkv, &made.o, &made.gate_up, &made.down})
      quantise(*linear, form, stream);
    out.push_back(std::move(made));
  }
  return out;
}

}  // namespace euromodal
