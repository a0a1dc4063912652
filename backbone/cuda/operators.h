// operators.h — the glue functions that library.cpp puts into the table of cuda_ops.h, which
// documents them; one .cpp per operator. Each takes CUDA tensors, launches on the current stream of
// their device, and waits for nothing.
#pragma once
#include "backbone/kernels/cuda_ops.h"

namespace euromodal::cuda {

// rms_norm.cpp
std::tuple<at::Tensor, at::Tensor> rms_norm_forward(const at::Tensor& x_TD,
                                                    const at::Tensor& weight_D, double eps);
std::tuple<at::Tensor, at::Tensor> rms_norm_backward(const at::Tensor& dy_TD,
                                                     const at::Tensor& x_TD,
                                                     const at::Tensor& weight_D,
                                                     const at::Tensor& inv_rms_T,
                                                     bool wants_dweight);

// cross_entropy.cpp
void cross_entropy_rows(const CrossEntropyChunk& chunk);

// distillation.cpp
void distillation_rows(const DistillationChunk& chunk);

// graph_decoder.cpp
std::unique_ptr<Decoder> make_decoder(const Llama& llama, const DecoderOptions& options);

}  // namespace euromodal::cuda
