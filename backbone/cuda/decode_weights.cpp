// decode_weights.cpp — see decode_weights.h.
#include "backbone/cuda/decode_weights.h"

#include <ATen/ATen.h>

#include "backbone/cuda/launch_check.h"
#include "core/error.h"

namespace euromodal {

int64_t DecodeLinear::bytes() const {
  const at::Tensor& read = codes.defined() ? codes : weight_OI;
  return static_cast<int64_t>(read.nbytes() + (scale.defined() ? scale.nbytes() : 0));
}

SkinnyLinearArgs DecodeLinear::arguments() const {
  SkinnyLinearArgs args{};
  args.weight_NK = codes.defined() ? codes.const_data_ptr() : weight_OI.const_data_ptr();
  args.scale = scale.defined() ? scale.const_data_ptr() : nullptr;
  args.bias_N = bias_O.defined() ? bias_O.const_data_ptr() : nullptr;
  args.N = outputs();
  args.K = inputs();
  args.weight_type = type;
  args.group = group;
  return args;
}

DecodeLinear fuse(const std::vector<const Linear*>& linears) {
  DecodeLinear out;
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
  return out;
}

void quantise(DecodeLinear& linear, DecodeWeights form) {
  if (form == DecodeWeights::kBf16) return;
  constexpr int kGroup = 128;
  const int64_t O = linear.outputs(), I = linear.inputs();
  const auto bytes = linear.weight_OI.options().dtype(at::kByte);
  QuantizeRowsArgs args{};
  args.weight_NK = linear.weight_OI.const_data_ptr();
  args.N = O;
  args.K = I;
  switch (form) {
    case DecodeWeights::kFp8:
    case DecodeWeights::kInt8:
      linear.type = form == DecodeWeights::kFp8 ? DType::kFp8E4M3 : DType::kInt8;
      linear.codes = at::empty({O, I}, bytes);
      linear.scale = at::empty({O}, bytes.dtype(at::kFloat));
      break;
    default:
      check(I % kGroup == 0, "int4 weights need inputs in groups of {}, got {}", kGroup, I);
      linear.type = DType::kInt4;
      linear.group = args.group = kGroup;
      linear.codes = at::empty({O, I / 2}, bytes);
      linear.scale = at::empty({O, I / kGroup}, bytes.dtype(at::kBFloat16));
      break;
  }
  args.type = linear.type;
  args.codes = linear.codes.mutable_data_ptr();
  args.scale = linear.scale.mutable_data_ptr();
  check_launch(quantize_rows(args, c10::cuda::getCurrentCUDAStream()), "quantize_rows");
}

std::vector<DecodeBlock> decode_blocks(const Llama& llama, DecodeWeights form) {
  std::vector<DecodeBlock> out;
  for (const LlamaBlock& block : llama.blocks()) {
    DecodeBlock made{fuse({&block.q, &block.k, &block.v}), fuse({&block.o}),
                     fuse({&block.gate, &block.up}), fuse({&block.down})};
    for (DecodeLinear* linear : {&made.qkv, &made.o, &made.gate_up, &made.down})
      quantise(*linear, form);
    out.push_back(std::move(made));
  }
  return out;
}

}  // namespace euromodal
