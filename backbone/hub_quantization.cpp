// hub_quantization.cpp — see hub_quantization.h. One linear at a time.
#include "backbone/hub_quantization.h"

#include <array>
#include <unordered_map>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/ranges.h>

#include "backbone/gguf_model.h"
#include "backbone/kernels/packed_linear/packed_weight.h"
#include "backbone/llama_block.h"
#include "core/error.h"
#include "core/log.h"

namespace euromodal {
namespace {

constexpr std::array<int64_t, 8> kAwqOrder = {0, 2, 4, 6, 1, 3, 5, 7};
constexpr std::array<int64_t, 8> kInOrder = {0, 1, 2, 3, 4, 5, 6, 7};
constexpr int64_t kTileWords = 16;  // a cache line of a row

/// words_RC i32 [R, C]: part k of word (r, c) is output c · n + order[k] of row r, n = 32 / bits.
/// -> u8 [C · n, R].
at::Tensor codes_along_columns(const at::Tensor& words_RC, int64_t bits,
                               const std::array<int64_t, 8>& order) {
  const at::Tensor words = words_RC.contiguous();
  const int64_t R = words.size(0), C = words.size(1), n = 32 / bits;
  const uint32_t mask = (1U << bits) - 1U;
  at::Tensor out = at::empty({C * n, R}, at::kByte);
  const auto* from = reinterpret_cast<const uint32_t*>(words.const_data_ptr<int32_t>());
  auto* to = out.mutable_data_ptr<uint8_t>();
  at::parallel_for(0, (C + kTileWords - 1) / kTileWords, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = 0; r < R; ++r) {
      for (int64_t c = begin * kTileWords; c < std::min(C, end * kTileWords); ++c) {
        for (int64_t k = 0; k < n; ++k)
          to[(c * n + order[static_cast<size_t>(k)]) * R + r] =
              static_cast<uint8_t>(from[r * C + c] >> (k * bits) & mask);
      }
    }
  });
  return out;
}

/// words_RC i32 [R, C]: part k of word (r, c) is input r · n + k of output c. -> u8 [C, R · n].
at::Tensor codes_along_rows(const at::Tensor& words_RC, int64_t bits) {
  const at::Tensor words = words_RC.contiguous();
  const int64_t R = words.size(0), C = words.size(1), n = 32 / bits;
  const uint32_t mask = (1U << bits) - 1U;
  at::Tensor out = at::empty({C, R * n}, at::kByte);
  const auto* from = reinterpret_cast<const uint32_t*>(words.const_data_ptr<int32_t>());
  auto* to = out.mutable_data_ptr<uint8_t>();
  at::parallel_for(0, (C + kTileWords - 1) / kTileWords, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = 0; r < R; ++r) {
      for (int64_t c = begin * kTileWords; c < std::min(C, end * kTileWords); ++c) {
        for (int64_t k = 0; k < n; ++k)
          to[(c * R + r) * n + k] = static_cast<uint8_t>(from[r * C + c] >> (k * bits) & mask);
      }
    }
  });
  return out;
}

/// One linear as the folder has it, read into one layout.
struct HubLinear {
  at::Tensor codes_OI, zeros_OG;  // u8
  at::Tensor scales_OG;           // as stored
  at::Tensor group_I;             // i64, undefined: inputs in order
  int64_t group = 0;
};

class HubReader {
 public:
  HubReader(std::vector<NamedTensor> tensors, const HubQuantization& how, std::string what)
      : how_(how), what_(std::move(what)) {
    for (NamedTensor& named : tensors) {
      const bool added = tensors_.emplace(named.name, std::move(named.tensor)).second;
      check<CheckpointError>(added, "{}: tensor {} is there twice", what_, named.name);
    }
  }

  bool has(const std::string& name) const { return tensors_.count(name) != 0; }

  at::Tensor take(const std::string& name, at::IntArrayRef shape,
                  std::optional<at::ScalarType> dtype) {
    const auto found = tensors_.find(name);
    check<CheckpointError>(found != tensors_.end(), "{}: tensor {} is missing", what_, name);
    const at::Tensor& t = found->second;
    check<CheckpointError>(t.sizes() == shape, "{}: tensor {} has shape [{}], expected [{}]", what_,
                           name, fmt::join(t.sizes(), ", "), fmt::join(shape, ", "));
    const bool fits = dtype ? t.scalar_type() == *dtype : at::isFloatingType(t.scalar_type());
    check<CheckpointError>(fits, "{}: tensor {} has dtype {}, expected {}", what_, name,
                           c10::toString(t.scalar_type()),
                           dtype ? c10::toString(*dtype) : "a floating-point type");
    at::Tensor out = t;
    tensors_.erase(found);
    return out;
  }

  HubLinear read(const std::string& name, int64_t outputs, int64_t inputs) {
    const bool awq = how_.method == HubQuantization::Method::kAwq;
    const int64_t n = 32 / how_.bits, along = awq ? outputs : inputs;
    HubLinear out;
    out.group = how_.group == -1 ? inputs : how_.group;
    check<CheckpointError>(inputs % out.group == 0 && along % n == 0 && outputs % n == 0,
                           "{}: tensor {}.qweight: {} outputs and {} inputs are not whole words of "
                           "{} codes and groups of {} inputs (group_size)",
                           what_, name, outputs, inputs, n, out.group);
    const int64_t G = inputs / out.group;
    out.codes_OI =
        awq ? codes_along_columns(take(name + ".qweight", {inputs, outputs / n}, at::kInt),
                                  how_.bits, kAwqOrder)
            : codes_along_rows(take(name + ".qweight", {inputs / n, outputs}, at::kInt), how_.bits);
    out.scales_OG = take(name + ".scales", {G, outputs}, std::nullopt).t();
    const int64_t middle = int64_t{1} << (how_.bits - 1);
    if (awq && !how_.zeros && !has(name + ".qzeros")) {
      out.zeros_OG = at::full({outputs, G}, middle, at::kByte);
    } else {
      out.zeros_OG = codes_along_columns(take(name + ".qzeros", {G, outputs / n}, at::kInt),
                                         how_.bits, awq ? kAwqOrder : kInOrder);
      if (how_.zero_less) out.zeros_OG = (out.zeros_OG + 1).bitwise_and(2 * middle - 1);
    }
    if (!awq && has(name + ".g_idx")) {
      const at::Tensor group_I = take(name + ".g_idx", {inputs}, at::kInt).to(at::kLong);
      check<CheckpointError>(
          group_I.min().item<int64_t>() >= 0 && group_I.max().item<int64_t>() < G,
          "{}: tensor {}.g_idx names groups {} to {}, there are 0 to {}", what_, name,
          group_I.min().item<int64_t>(), group_I.max().item<int64_t>(), G - 1);
      const at::Tensor ordered = at::arange(inputs, at::kLong).div(out.group, "floor");
      if (!at::equal(group_I, ordered)) out.group_I = group_I;
    }
    return out;
  }

  /// AutoGPTQ writes a bias of zeros where the model has none.
  void drop_empty_bias(const std::string& name) {
    const auto found = tensors_.find(name + ".bias");
    if (found == tensors_.end()) return;
    check<CheckpointError>(
        at::count_nonzero(found->second).item<int64_t>() == 0,
        "{}: tensor {}.bias is not zero, but config.json says that the layer has "
        "no bias (attention_bias, mlp_bias)",
        what_, name);
    tensors_.erase(found);
  }

  std::vector<NamedTensor> rest() {
    std::vector<NamedTensor> out;
    for (auto& [name, tensor] : tensors_) out.push_back({name, std::move(tensor)});
    return out;
  }

 private:
  const HubQuantization& how_;
  std::string what_;
  std::unordered_map<std::string, at::Tensor> tensors_;
};

/// The packed form that holds such a linear exactly, if there is one.
std::optional<PackedForm> exact_form(const HubLinear& linear, const HubQuantization& how) {
  PackedForm form;
  form.form = how.bits == 8 ? WeightForm::kInt8 : WeightForm::kInt4;
  form.group = linear.group % 128 == 0 ? 128 : 32;
  const int64_t middle = int64_t{1} << (how.bits - 1);
  form.asymmetric = how.zeros || !linear.zeros_OG.eq(middle).all().item<bool>();
  const at::Tensor as_half = linear.scales_OG.to(at::kHalf).to(linear.scales_OG.scalar_type());
  const bool exact = linear.group % form.group == 0 && !linear.group_I.defined() &&
                     at::equal(as_half, linear.scales_OG);
  return exact ? std::optional(form) : std::nullopt;
}

at::Tensor dequantized(const HubLinear& linear) {
  const int64_t inputs = linear.codes_OI.size(1);
  const at::Tensor group_I = linear.group_I.defined()
                                 ? linear.group_I
                                 : at::arange(inputs, at::kLong).div(linear.group, "floor");
  return (linear.codes_OI.to(at::kFloat) -
          linear.zeros_OG.to(at::kFloat).index_select(1, group_I)) *
         linear.scales_OG.to(at::kFloat).index_select(1, group_I);
}

}  // namespace

std::vector<NamedTensor> pack_hub_tensors(std::vector<NamedTensor> tensors,
                                          const HubQuantization& how, LlamaConfig& config,
                                          at::ScalarType dtype, const std::string& what) {
  HubReader reader(std::move(tensors), how, what);
  std::vector<NamedTensor> out;
  int64_t inexact = 0;
  for (const GgufLinear& linear : gguf_linears(config)) {
    if (!reader.has(linear.module + ".qweight")) continue;
    const HubLinear read = reader.read(linear.module, linear.outputs, linear.inputs);
    if (!linear.bias) reader.drop_empty_bias(linear.module);
    const auto form = exact_form(read, how);
    if (!form) {
      ++inexact;
      out.push_back({linear.module + ".weight", dequantized(read).to(dtype)});
      continue;
    }
    const auto spread = [&](const at::Tensor& x_OG) {
      return x_OG.repeat_interleave(read.group / form->group, 1);
    };
    try {
      const PackedWeight packed =
          pack_codes(read.codes_OI, spread(read.scales_OG.to(at::kHalf)),
                     form->asymmetric ? spread(read.zeros_OG) : at::Tensor(), *form);
      out.push_back({linear.module + kPackedSuffix, packed.blocks});
      config.packed_linears[linear.module] = *form;
    } catch (const Error& error) {
      throw CheckpointError("{}: tensor {}.qweight: {}", what, linear.module, error.what());
    }
  }
  check<CheckpointError>(!out.empty(),
                         "{}: config.json says that the weights are quantised, but no linear has a "
                         "qweight",
                         what);
  if (inexact > 0)
    log_info(
        "{}: linears dequantised to {}: {} (their order of inputs, groups or scales have no packed "
        "form)",
        what, c10::toString(dtype), inexact);
  for (NamedTensor& named : reader.rest()) out.push_back(std::move(named));
  return out;
}

}  // namespace euromodal
