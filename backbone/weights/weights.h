// weights.h — the strict map from which every module takes its parameters: from files (missing,
// misshapen or left-over tensors are errors that name the tensor) or freshly drawn (training from
// scratch). It remembers what was taken, in order: that list is the model's parameters.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "backbone/weights/safetensors.h"

namespace euromodal {

/// How a parameter starts when it is drawn and not loaded.
struct Init {
  enum class Kind { kZeros, kOnes, kNormal, kConstant } kind = Kind::kZeros;
  double value = 0.0;  // standard deviation, or the constant
  static Init zeros() { return {}; }
  static Init ones() { return {Kind::kOnes, 1.0}; }
  static Init normal(double std) { return {Kind::kNormal, std}; }
  static Init constant(double value) { return {Kind::kConstant, value}; }
};

class WeightScope;

class Weights {
 public:
  /// Tensors of a Hugging Face folder, converted to `dtype` when taken.
  static Weights from_folder(const std::filesystem::path& dir, at::ScalarType dtype);
  static Weights from_tensors(std::vector<NamedTensor> tensors, at::ScalarType dtype,
                              std::string what = "<memory>");
  /// Every take() draws: the value depends on (seed, name) alone, not on the order.
  static Weights random(uint64_t seed, at::ScalarType dtype);

  Weights(Weights&&) noexcept;
  Weights& operator=(Weights&&) noexcept;
  ~Weights();

  /// The tensor `name` with exactly this shape, contiguous, in `dtype`, free to be written to: a
  /// stored tensor of that dtype that nobody else holds is used as it is (a mapped file copies its
  /// pages when they are written to, and never changes), every other is copied. Each name once.
  /// CheckpointError: "DIR: tensor NAME is missing", "... has shape [3, 4], expected [4, 3]".
  at::Tensor take(const std::string& name, at::IntArrayRef shape, Init init);
  /// The stored tensor of bytes `name` with exactly this shape, as it lies in the file. Errors as
  /// take().
  at::Tensor take_bytes(const std::string& name, at::IntArrayRef shape);
  bool has(const std::string& name) const;                    // always true for random()
  std::vector<int64_t> shape(const std::string& name) const;  // of a stored tensor
  /// Tensors that are not used on purpose: a glob with `*` ("vision_model.head.*").
  void ignore(const std::string& pattern);
  /// Throws CheckpointError naming the first left-over tensors, if any.
  void finish() const;
  const std::vector<NamedTensor>& taken() const;  // full names, in order of take()
  WeightScope scope(const std::string& prefix = "");
  at::ScalarType dtype() const;
  bool random() const;
  const std::string& what() const;  // folder or "<random>", for messages

 private:
  struct Impl;
  explicit Weights(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Weights below a prefix: w.scope("layers.3.").take("mlp.up_proj.weight", {F, D}).
class WeightScope {
 public:
  WeightScope(Weights& weights, std::string prefix)
      : weights_(&weights), prefix_(std::move(prefix)) {}
  at::Tensor take(const std::string& name, at::IntArrayRef shape, Init init) const {
    return weights_->take(prefix_ + name, shape, init);
  }
  at::Tensor take_bytes(const std::string& name, at::IntArrayRef shape) const {
    return weights_->take_bytes(prefix_ + name, shape);
  }
  bool has(const std::string& name) const { return weights_->has(prefix_ + name); }
  WeightScope scope(const std::string& prefix) const { return {*weights_, prefix_ + prefix}; }
  void ignore(const std::string& pattern) const { weights_->ignore(prefix_ + pattern); }
  Weights& weights() const { return *weights_; }
  const std::string& prefix() const { return prefix_; }

 private:
  Weights* weights_;
  std::string prefix_;
};

}  // namespace euromodal
