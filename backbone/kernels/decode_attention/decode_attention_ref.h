// decode_attention_ref.h — what decode_attention() computes, by definition: softmax of each row
// over the positions it sees, in f64, from the stored keys and values.
#pragma once
#include <span>

#include <ATen/core/Tensor.h>

#include "backbone/kernels/decode_attention/decode_attention.h"

namespace euromodal {

/// -> [T, H, N] f64; rows of no sequence are zero.
at::Tensor decode_attention_ref(const at::Tensor& q_THN, const KvLayout& layout, int64_t layer,
                                std::span<const DecodeSequence> sequences, double scale);

}  // namespace euromodal
