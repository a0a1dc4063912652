// linear.h — one linear layer of a model, y = x Wᵀ + b, as a handle: the model that computes with
// it and whoever lists a model's linears hold the same layer. A low-rank update (LoRA) can be put
// on it from outside, and merged into it. T packed rows, I inputs, O outputs, R rank.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/kernels/packed_linear/packed_weight.h"
#include "backbone/kernels/segments.h"
#include "backbone/kernels/skinny_linear/skinny_weight.h"

namespace euromodal {

/// What dropout draws by: one key per segment of the rows. Empty (inference, validation): nothing
/// is dropped.
using DropoutKeys = std::vector<uint64_t>;

/// Adds scale() · (x Aᵀ) Bᵀ. Reference: Hu et al. 2021; the scale of rsLoRA is Kalajdzievski 2023.
struct Lora {
  at::Tensor a_RI, b_OR;  // of the weight's dtype
  double alpha = 1.0;
  bool rslora = false;
  double dropout = 0.0;  // of the update's input, where there are keys

  int64_t rank() const { return a_RI.size(0); }
  double scale() const;  // alpha / rank, rsLoRA: alpha / sqrt(rank)
};

class Linear {
 public:
  Linear() = default;  // no layer: only to be assigned to
  /// `name`: of the module as on disk, without ".weight" ("model.layers.0.self_attn.q_proj").
  /// weight_OI [O, I], bias_O [O] or undefined.
  Linear(std::string name, const at::Tensor& weight_OI, const at::Tensor& bias_O);

  /// One whose weight is packed already.
  Linear(std::string name, PackedWeight weight, const at::Tensor& bias_O);

  /// x_TI [T, I] -> [T, O]; differentiable unless packed. Packing: as linear() of backbone/kernels.
  at::Tensor operator()(const at::Tensor& x_TI, const Segments& rows,
                        const DropoutKeys& dropout = {}) const;

  /// Of a layer with an update: its inner rows scale · drop(x) Aᵀ [T, R], which times Bᵀ are added
  /// to x Wᵀ; for whoever computes that product by itself. Differentiable in x and A.
  at::Tensor lora_rows(const at::Tensor& x_TI, const Segments& rows,
                       const DropoutKeys& dropout = {}) const;

  const std::string& name() const;
  const at::Tensor& weight_OI() const;  // [0] once packed or in codes on a GPU
  const at::Tensor& bias_O() const;     // undefined: none
  const at::Tensor& scale_O() const;    // of a weight in float8; undefined: it is in none
  /// The weight in the layer's dtype, also one that is kept in float8.
  at::Tensor plain_weight_OI() const;
  const Lora* lora() const;            // null: none
  const PackedWeight* packed() const;  // null: not packed
  const SkinnyWeight* skinny() const;  // quantised codes on a GPU; null: none
  int64_t inputs() const;
  int64_t outputs() const;
  /// Is any of its tensors trained?
  bool trains() const;

  /// From now on every copy of the handle computes with it. Error naming the layer when it has one.
  void set_lora(Lora lora);
  /// From now on the weight is kept in float8 (backbone/kernels/linear/float8_weight.h): every
  /// handle on it, and the layer computes with what it widens to. A LoRA on it goes on. Error
  /// naming the layer: packed, trained, or numbers that are not finite.
  void round_to_float8();
  /// W + scale · B A, summed in f32, rounded to the weight's dtype.
  at::Tensor merged_weight_OI() const;
  /// Writes that into the weight and drops the update.
  void merge_lora();

  /// Packs the weight for inference on the CPU and gives the memory of the plain one back: every
  /// handle on that tensor is empty from now on. Error: a LoRA that is not merged, a weight that
  /// trains, or one that cannot take this form.
  void pack(const PackedForm& form);
  /// Computes with a weight packed elsewhere; the plain one stays what it is (a tied embedding).
  void use(PackedWeight weight);
  /// The same with codes for a GPU (any device; elsewhere slowly), which are widened for each
  /// product. A packed weight is given up.
  void use(SkinnyWeight weight);
  /// The same with a plain matrix again.
  void use(const at::Tensor& weight_OI);

 private:
  struct State;
  std::shared_ptr<State> state_;  // shared by all copies
};

/// Layers of the same inputs, in one pass where all of them are packed alike.
std::vector<at::Tensor> apply_together(std::span<const Linear* const> linears,
                                       const at::Tensor& x_TI, const Segments& rows,
                                       const DropoutKeys& dropout = {});

/// Packs a weight and empties all handles on it. Its pages go back to the system at once, also
/// those of a mapped file, when nobody else holds them.
PackedWeight pack_and_release(const at::Tensor& weight_OI, const PackedForm& form);

}  // namespace euromodal
