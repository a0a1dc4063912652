// operators.h — the glue functions that library.cpp puts into the table of cuda_ops.h, which
// documents them; one .cpp per operator. Each takes CUDA tensors, launches on the current stream of
// their device, and waits for nothing.
#pragma once
#include "backbone/kernels/cuda_ops.h"
#include "backbone/kernels/skinny_linear/skinny_weight.h"

namespace euromodal::cuda {

// rms_norm.cpp
std::tuple<at::Tensor, at::Tensor> rms_norm_forward(const at::Tensor& x_TD,
                                                    const at::Tensor& weight_D, double eps);
std::tuple<at::Tensor, at::Tensor> rms_norm_backward(const at::Tensor& dy_TD,
                                                     const at::Tensor& x_TD,
                                                     const at::Tensor& weight_D,
                                                     const at::Tensor& inv_rms_T,
                                                     bool wants_dweight);

// layer_norm.cpp
std::tuple<at::Tensor, at::Tensor> layer_norm_forward(const at::Tensor& x_TD,
                                                      const at::Tensor& weight_D,
                                                      const at::Tensor& bias_D, double eps);
LayerNormGrads layer_norm_backward(const at::Tensor& dy_TD, const at::Tensor& x_TD,
                                   const at::Tensor& weight_D, const at::Tensor& stats_2T,
                                   const LayerNormWanted& wanted);

// gelu.cpp
at::Tensor gelu_forward(const at::Tensor& x, GeluKind kind);
at::Tensor gelu_backward(const at::Tensor& dy, const at::Tensor& x, GeluKind kind);

// swiglu.cpp
at::Tensor swiglu_forward(const at::Tensor& gate_TF, const at::Tensor& up_TF);
void swiglu_backward(const at::Tensor& dy_TF, const at::Tensor& gate_TF, const at::Tensor& up_TF,
                     const at::Tensor& dgate_TF, const at::Tensor& dup_TF);

// rope.cpp
at::Tensor rope_rotate(const RopeRotation& turn);

// splice_rows.cpp
at::Tensor splice_forward(const at::Tensor& emb_TD, const at::Tensor& rows_MD,
                          const at::Tensor& table_3S);
std::tuple<at::Tensor, at::Tensor> splice_backward(const at::Tensor& dy_TD,
                                                   const at::Tensor& table_3S, bool wants_demb,
                                                   int64_t rows);

// adamw.cpp
void adamw_update(const AdamWUpdate& update);
at::Tensor square_sums(const std::vector<at::Tensor>& gradients);

// cross_entropy.cpp
void cross_entropy_rows(const CrossEntropyChunk& chunk);

// distillation.cpp
void distillation_rows(const DistillationChunk& chunk);

// media_transforms.cpp
void image_transform(const ImageTransformJob& job);
void log_mel(const LogMelJob& job);

// widen_rows.cpp
at::Tensor widen_rows(const SkinnyWeight& weight, at::ScalarType dtype);

// float8_weight.cpp
at::Tensor widen_float8(const at::Tensor& codes_OI, const at::Tensor& scale_O,
                        at::ScalarType dtype);

// graph_decoder.cpp
std::unique_ptr<Decoder> make_decoder(const Llama& llama, const DecoderOptions& options);

}  // namespace euromodal::cuda
