// cuda_ops.h — the table through which operators reach their CUDA kernels. libeuromodal_cuda.so
// fills it when `--device cuda` loads it; libeuromodal.so itself links no CUDA.
#pragma once
#include <memory>
#include <tuple>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/kernels/gelu/gelu_kind.h"
#include "backbone/kernels/rope/mrope_axis.h"

namespace euromodal {

class Decoder;
class Llama;
struct SkinnyWeight;
struct DecoderOptions;

/// One chunk of linear_cross_entropy: rows of logits to losses. C rows, V vocabulary.
struct CrossEntropyChunk {
  at::Tensor logits_CV;     // f32, bf16 or f16; becomes its own gradient where `gradient`
  at::Tensor labels_C;      // i64
  at::Tensor row_weight_C;  // f32 or undefined (all 1)
  at::Tensor loss_C;        // f32, written
  double smoothing, z_loss;
  bool gradient;
};

/// One chunk of linear_distillation: two times rows of logits to losses.
struct DistillationChunk {
  at::Tensor student_CV;    // f32, bf16 or f16; becomes its own gradient where `gradient`
  at::Tensor teacher_CV;    // the same dtype
  at::Tensor row_weight_C;  // f32 or undefined (all 1)
  at::Tensor loss_C;        // f32, written
  double temperature;
  bool gradient;
};

/// A rotation of queries or keys by the rows `positions` of the tables.
struct RopeRotation {
  at::Tensor x_THN;           // f32, bf16 or f16
  at::Tensor cos_PN, sin_PN;  // f32
  at::Tensor positions;       // i64 [T], or [3, T] with `sections`; outside [0, P): NaN
  MropeSections sections;
  bool inverse;  // by the negative angle: the gradient
};

struct LayerNormGrads {
  at::Tensor dx_TD, dweight_D, dbias_D;  // undefined where not wanted
};
struct LayerNormWanted {
  bool dx, dweight, dbias;
};

/// One AdamW update over a flat buffer; formula in backbone/kernels/adamw/adamw_kernel.h.
struct AdamWUpdate {
  at::Tensor master, gradient, exp_avg, exp_avg_sq;  // [n], f32 but for the gradient
  at::Tensor values;       // [n] f32, bf16 or f16, or undefined: takes the rounded master values
  at::Tensor clip, apply;  // [1] f32 and i32 on the device, or undefined: 1; apply 0: no change
  float scale, beta1, beta2, decay, step_size, root_correction, eps;
};

/// One axis of a resize; see backbone/kernels/image_transform/image_transform_kernel.h.
struct ResampleJob {
  at::Tensor first_O, weight_KO;  // i32
};
/// A picture on the device to the pixels an encoder takes.
struct ImageTransformJob {
  at::Tensor rgb_HWC;  // u8
  ResampleJob columns, rows;
  bool rows_first;
  int64_t top, left;      // of what is wanted, in the resized picture
  at::Tensor value_C256;  // f32
  at::Tensor x_1CHW;      // f32, written
};
/// Windows of sound on the device to their log-mel spectrograms.
struct LogMelJob {
  at::Tensor samples_WS, window_N, dft_KK2, filters_KM;  // f32
  int64_t hop;
  at::Tensor x_WMF;  // f32, dense, written
};

struct CudaOps {
  /// x_TD, weight_D (f32, bf16 or f16, on one CUDA device) -> y_TD, and 1/rms of each row
  /// [T] f32.
  std::tuple<at::Tensor, at::Tensor> (*rms_norm_forward)(const at::Tensor& x_TD,
                                                         const at::Tensor& weight_D,
                                                         double eps) = nullptr;
  /// dy_TD and what forward saved -> dx_TD, dweight_D (undefined where not wanted; same bits on
  /// every run).
  std::tuple<at::Tensor, at::Tensor> (*rms_norm_backward)(const at::Tensor& dy_TD,
                                                          const at::Tensor& x_TD,
                                                          const at::Tensor& weight_D,
                                                          const at::Tensor& inv_rms_T,
                                                          bool wants_dweight) = nullptr;
  /// x_TD, weight_D, bias_D (f32, bf16 or f16) -> y_TD, and mean and 1/deviation of each row [2, T]
  /// f32.
  std::tuple<at::Tensor, at::Tensor> (*layer_norm_forward)(const at::Tensor& x_TD,
                                                           const at::Tensor& weight_D,
                                                           const at::Tensor& bias_D,
                                                           double eps) = nullptr;
  /// The same bits on every run.
  LayerNormGrads (*layer_norm_backward)(const at::Tensor& dy_TD, const at::Tensor& x_TD,
                                        const at::Tensor& weight_D, const at::Tensor& stats_2T,
                                        const LayerNormWanted& wanted) = nullptr;
  /// x of any shape (f32, bf16, f16) -> y or, with dy, dx.
  at::Tensor (*gelu_forward)(const at::Tensor& x, GeluKind kind) = nullptr;
  at::Tensor (*gelu_backward)(const at::Tensor& dy, const at::Tensor& x, GeluKind kind) = nullptr;
  /// gate_TF, up_TF: f32, bf16 or f16; rows may lie apart (the halves of a fused row) -> y_TF.
  at::Tensor (*swiglu_forward)(const at::Tensor& gate_TF, const at::Tensor& up_TF) = nullptr;
  /// Writes dgate_TF and dup_TF, whose rows may lie apart too.
  void (*swiglu_backward)(const at::Tensor& dy_TF, const at::Tensor& gate_TF,
                          const at::Tensor& up_TF, const at::Tensor& dgate_TF,
                          const at::Tensor& dup_TF) = nullptr;
  at::Tensor (*rope_rotate)(const RopeRotation& turn) = nullptr;
  /// emb_TD with the rows of the spans (the array of RowSpans, i64 [3, S], on the device) replaced
  /// by rows_MD; any dtype.
  at::Tensor (*splice_forward)(const at::Tensor& emb_TD, const at::Tensor& rows_MD,
                               const at::Tensor& table_3S) = nullptr;
  /// -> demb_TD where wanted, drows_MD where `rows` (M) is not negative.
  std::tuple<at::Tensor, at::Tensor> (*splice_backward)(const at::Tensor& dy_TD,
                                                        const at::Tensor& table_3S, bool wants_demb,
                                                        int64_t rows) = nullptr;
  /// The bits of the CPU's loop.
  void (*adamw_update)(const AdamWUpdate& update) = nullptr;
  /// Gradients ([n] each, at least one) -> the sum of squares of each, f64 [B] on the device; the
  /// same bits on every run.
  at::Tensor (*square_sums)(const std::vector<at::Tensor>& gradients) = nullptr;
  /// Formula in backbone/kernels/cross_entropy/cross_entropy.cpp; same bits on every run.
  void (*cross_entropy_rows)(const CrossEntropyChunk& chunk) = nullptr;
  /// Formula in backbone/kernels/distillation/distillation.cpp; same bits on every run.
  void (*distillation_rows)(const DistillationChunk& chunk) = nullptr;
  /// The bits of the host's (encoders/preprocess).
  void (*image_transform)(const ImageTransformJob& job) = nullptr;
  /// Within 1e-4 of the host's; same bits on every run.
  void (*log_mel)(const LogMelJob& job) = nullptr;
  /// As the functions of these names in skinny_linear/skinny_weight.h and linear/float8_weight.h;
  /// `dtype`: f32, bf16 or f16.
  at::Tensor (*widen_rows)(const SkinnyWeight& weight, at::ScalarType dtype) = nullptr;
  at::Tensor (*widen_float8)(const at::Tensor& codes_OI, const at::Tensor& scale_O,
                             at::ScalarType dtype) = nullptr;
  /// See backbone/decoder.h.
  std::unique_ptr<Decoder> (*make_decoder)(const Llama& llama,
                                           const DecoderOptions& options) = nullptr;
};

/// The loaded table; Error when a CUDA tensor reaches an operator before open_device("cuda").
const CudaOps& cuda_ops();
void set_cuda_ops(const CudaOps* ops);

}  // namespace euromodal
