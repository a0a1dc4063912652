// packed_weight.cpp — see packed_weight.h. Packing goes block by block, so the threads share it.
#include "backbone/kernels/packed_linear/packed_weight.h"

#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/util/Half.h>
#include <sys/mman.h>

#include "backbone/kernels/simd.h"
#include "core/error.h"

namespace euromodal {

namespace {

constexpr int64_t kLongestGroup = 128;

struct GroupCode {
  c10::Half scale;
  uint8_t zero;
};

/// The scale and zero point of one group, and its codes. False: not finite.
struct GroupArgs {
  const float* w;
  int64_t count;
  bool four, asymmetric;
  GroupCode* code;
  uint8_t* codes;
};

EM_CPU_CLONES bool code_group(const GroupArgs& a) {
  float least = 0.0F, most = 0.0F;
  bool finite = true;
  for (int64_t i = 0; i < a.count; ++i) {
    least = a.w[i] < least ? a.w[i] : least;
    most = a.w[i] > most ? a.w[i] : most;
    finite = finite && std::fabs(a.w[i]) <= 3.0e38F;
  }
  if (!finite) return false;
  const float top = a.four ? 15.0F : 255.0F, middle = a.four ? 8.0F : 128.0F;
  float scale = 0.0F, zero = middle;
  if (a.asymmetric) {
    scale = (most - least) / top;
  } else if (a.four) {
    scale = (most > -least ? most : least) / -8.0F;
  } else {
    scale = std::max(most, -least) / 127.0F;
  }
  a.code->scale = static_cast<c10::Half>(scale);
  const float stored = static_cast<float>(a.code->scale);
  if (!std::isfinite(stored)) return false;
  const float inverse = stored == 0.0F ? 0.0F : 1.0F / stored;
  if (a.asymmetric) {
    zero = std::nearbyint(-least * inverse);
    zero = zero > top ? top : zero;
  }
  a.code->zero = static_cast<uint8_t>(zero);
  for (int64_t i = 0; i < a.count; ++i) {
    float code = std::nearbyint(a.w[i] * inverse) + zero;
    code = code < 0.0F ? 0.0F : code;
    code = code > top ? top : code;
    a.codes[i] = static_cast<uint8_t>(static_cast<int32_t>(code));
  }
  return true;
}

/// 16 outputs of one group: [16][group] codes to quads of inputs beside each other.
void put_codes(const uint8_t* codes, int64_t group, bool four, uint8_t* to) {
  const int64_t inputs = four ? 8 : 4;
  for (int64_t step = 0; step < group / inputs; ++step) {
    for (int64_t o = 0; o < kPackedOutputs; ++o) {
      uint32_t low = 0, high = 0;
      std::memcpy(&low, codes + o * group + step * inputs, 4);
      if (four) std::memcpy(&high, codes + o * group + step * inputs + 4, 4);
      low |= high << 4;
      std::memcpy(to + (step * kPackedOutputs + o) * 4, &low, 4);
    }
  }
}

/// One block of integers from rows of f32, [16][padded inputs].
void pack_integers(const float* rows, const PackedForm& form, const PackedLayout& layout,
                   uint8_t* block, int64_t first_output) {
  const bool four = form.form == WeightForm::kInt4;
  std::array<uint8_t, kPackedOutputs * kLongestGroup> codes;
  for (int64_t g = 0; g < layout.groups; ++g) {
    for (int64_t o = 0; o < kPackedOutputs; ++o) {
      GroupCode code{};
      const GroupArgs args{rows + o * layout.inputs + g * form.group,
                           form.group,
                           four,
                           form.asymmetric,
                           &code,
                           codes.data() + o * form.group};
      check(code_group(args),
            "output {}, inputs {} to {}: a weight is not finite, or too large to quantise",
            first_output + o, g * form.group, (g + 1) * form.group - 1);
      std::memcpy(block + (g * kPackedOutputs + o) * 2, &code.scale.x, 2);
      if (form.asymmetric) block[layout.zeros + g * kPackedOutputs + o] = code.zero;
    }
    put_codes(codes.data(), form.group, four,
              block + layout.codes + g * form.group * kPackedOutputs / (four ? 2 : 1));
  }
}

/// One block of bf16 from rows of bf16, `count` of them.
void pack_pairs(const c10::BFloat16* rows, int64_t stride, int64_t count, int64_t inputs,
                uint8_t* block) {
  for (int64_t p = 0; p < (inputs + 1) / 2; ++p) {
    for (int64_t o = 0; o < count; ++o) {
      const c10::BFloat16* x = rows + o * stride + 2 * p;
      const uint32_t both =
          x[0].x | (2 * p + 1 < inputs ? static_cast<uint32_t>(x[1].x) << 16 : 0U);
      std::memcpy(block + (p * kPackedOutputs + o) * 4, &both, 4);
    }
  }
}

}  // namespace

std::string packed_form_name(const PackedForm& form) {
  if (form.form == WeightForm::kBf16) return "bfloat16";
  std::string out = form.form == WeightForm::kInt8 ? "int8" : "int4";
  if (form.group != 128) out += "-g" + std::to_string(form.group);
  if (form.asymmetric) out += "-asym";
  return out;
}

PackedForm parse_packed_form(const std::string& word) {
  for (const WeightForm form : {WeightForm::kBf16, WeightForm::kInt8, WeightForm::kInt4}) {
    for (const int64_t group : {128, 32}) {
      for (const bool asymmetric : {false, true}) {
        const PackedForm out{form, group, asymmetric};
        if (packed_form_name(out) == word) return out;
      }
    }
  }
  throw Error(
      "unknown form of weights '{}', expected bfloat16, int8 or int4; the integers with -g32 for "
      "groups of 32 instead of 128, and -asym for zero points",
      word);
}

at::Tensor huge_bytes(int64_t rows, int64_t bytes) {
  constexpr size_t kHuge = size_t{2} << 20;
  const size_t size = static_cast<size_t>(rows * bytes);
  if (size < kHuge) return at::zeros({rows, bytes}, at::kByte);
  const size_t mapped = (size + kHuge - 1) / kHuge * kHuge;
  void* data = nullptr;
  check(::posix_memalign(&data, kHuge, mapped) == 0, "no memory for {} bytes of packed weights",
        mapped);
  ::madvise(data, mapped, MADV_HUGEPAGE);  // a wish: without it the same with small pages
  return at::from_blob(
      data, {rows, bytes}, [](void* p) { std::free(p); }, at::kByte);
}

PackedWeight pack_weight(const at::Tensor& weight_OI, const PackedForm& form) {
  check(weight_OI.dim() == 2 && weight_OI.is_cpu() && weight_OI.numel() > 0,
        "pack_weight: expected a matrix on the CPU, got [{}] on {}",
        fmt::join(weight_OI.sizes(), ", "), weight_OI.device().str());
  const bool pairs = form.form == WeightForm::kBf16;
  check(pairs ? weight_OI.scalar_type() == at::kBFloat16
              : at::isFloatingType(weight_OI.scalar_type()),
        "pack_weight: a weight of {} cannot be packed as {}",
        c10::toString(weight_OI.scalar_type()), packed_form_name(form));
  check(pairs || form.group == 32 || form.group == 128,
        "pack_weight: groups of {}, expected 32 or 128", form.group);
  PackedWeight out{form, weight_OI.size(0), weight_OI.size(1), {}};
  const PackedLayout layout = out.layout();
  const int64_t blocks = (out.outputs + kPackedOutputs - 1) / kPackedOutputs;
  out.blocks = huge_bytes(blocks, layout.block);
  auto* data = out.blocks.mutable_data_ptr<uint8_t>();
  const at::Tensor plain_OI = weight_OI.detach().contiguous();
  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    const c10::InferenceMode no_tracking;
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * kPackedOutputs,
                    count = std::min(kPackedOutputs, out.outputs - first);
      uint8_t* block = data + b * layout.block;
      if (pairs) {
        if (count < kPackedOutputs) std::memset(block, 0, static_cast<size_t>(layout.block));
        pack_pairs(plain_OI.const_data_ptr<c10::BFloat16>() + first * out.inputs, out.inputs, count,
                   out.inputs, block);
        continue;
      }
      std::memset(block, 0, static_cast<size_t>(layout.codes));
      std::vector<float> rows(static_cast<size_t>(kPackedOutputs * layout.inputs), 0.0F);
      for_float_dtype(plain_OI.scalar_type(), "pack_weight", [&](auto zero) {
        using T = decltype(zero);
        const T* w = plain_OI.const_data_ptr<T>() + first * out.inputs;
        for (int64_t o = 0; o < count; ++o)
          for (int64_t i = 0; i < out.inputs; ++i)
            rows[static_cast<size_t>(o * layout.inputs + i)] =
                static_cast<float>(w[o * out.inputs + i]);
      });
      pack_integers(rows.data(), form, layout, block, first);
    }
  });
  return out;
}

PackedWeight pack_codes(const at::Tensor& codes_OI, const at::Tensor& scales_OG,
                        const at::Tensor& zeros_OG, const PackedForm& form) {
  const bool four = form.form == WeightForm::kInt4;
  check(form.form != WeightForm::kBf16 && (form.group == 32 || form.group == 128),
        "pack_codes: {} has no codes", packed_form_name(form));
  check(codes_OI.dim() == 2 && codes_OI.numel() > 0 && codes_OI.is_cpu() &&
            codes_OI.scalar_type() == at::kByte,
        "pack_codes: expected codes u8 [O, I] on the CPU, got {} [{}]",
        c10::toString(codes_OI.scalar_type()), fmt::join(codes_OI.sizes(), ", "));
  PackedWeight out{form, codes_OI.size(0), codes_OI.size(1), {}};
  const PackedLayout layout = out.layout();
  const std::vector<int64_t> groups_shape = {out.outputs, layout.groups};
  check(scales_OG.sizes() == groups_shape && scales_OG.scalar_type() == at::kHalf,
        "pack_codes: expected scales f16 [{}], got {} [{}]", fmt::join(groups_shape, ", "),
        c10::toString(scales_OG.scalar_type()), fmt::join(scales_OG.sizes(), ", "));
  check(zeros_OG.defined() == form.asymmetric &&
            (!form.asymmetric ||
             (zeros_OG.sizes() == groups_shape && zeros_OG.scalar_type() == at::kByte)),
        "pack_codes: zeros u8 [{}] go with asymmetric forms alone", fmt::join(groups_shape, ", "));
  check(scales_OG.isfinite().all().item<bool>(), "pack_codes: a scale is not finite");
  const auto fits = [&](const at::Tensor& x) { return !four || x.max().item<uint8_t>() < 16; };
  check(fits(codes_OI) && (!form.asymmetric || fits(zeros_OG)),
        "pack_codes: a code or zero point of int4 is above 15");

  const int64_t blocks = (out.outputs + kPackedOutputs - 1) / kPackedOutputs;
  out.blocks = huge_bytes(blocks, layout.block);
  auto* data = out.blocks.mutable_data_ptr<uint8_t>();
  const at::Tensor codes = codes_OI.contiguous(), scales = scales_OG.contiguous(),
                   zeros = form.asymmetric ? zeros_OG.contiguous() : at::Tensor();
  const auto* code = codes.const_data_ptr<uint8_t>();
  const auto* scale = scales.const_data_ptr<c10::Half>();
  const uint8_t* zero = zeros.defined() ? zeros.const_data_ptr<uint8_t>() : nullptr;
  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    std::array<uint8_t, kPackedOutputs * kLongestGroup> group;
    for (int64_t b = begin; b < end; ++b) {
      uint8_t* block = data + b * layout.block;
      std::memset(block, 0, static_cast<size_t>(layout.codes));
      for (int64_t g = 0; g < layout.groups; ++g) {
        group.fill(four ? 8 : 128);  // beyond the last output: scale 0
        for (int64_t o = 0; o < std::min(kPackedOutputs, out.outputs - b * kPackedOutputs); ++o) {
          const int64_t row = b * kPackedOutputs + o, at = row * layout.groups + g;
          const int64_t count = std::min(form.group, out.inputs - g * form.group);
          std::memcpy(block + (g * kPackedOutputs + o) * 2, &scale[at].x, 2);
          if (zero != nullptr) block[layout.zeros + g * kPackedOutputs + o] = zero[at];
          std::memcpy(group.data() + o * form.group, code + row * out.inputs + g * form.group,
                      static_cast<size_t>(count));
        }
        put_codes(group.data(), form.group, four,
                  block + layout.codes + g * form.group * kPackedOutputs / (four ? 2 : 1));
      }
    }
  });
  return out;
}

PackedCodes unpack_codes(const PackedWeight& weight) {
  check(weight.form.form != WeightForm::kBf16, "unpack_codes: {} has no codes",
        packed_form_name(weight.form));
  const PackedLayout layout = weight.layout();
  const bool four = weight.form.form == WeightForm::kInt4, asymmetric = weight.form.asymmetric;
  const int64_t O = weight.outputs, I = weight.inputs, G = layout.groups;
  PackedCodes out{at::empty({O, I}, at::kByte), at::empty({O, G}, at::kHalf),
                  asymmetric ? at::empty({O, G}, at::kByte) : at::Tensor()};
  const uint8_t* data = weight.blocks.const_data_ptr<uint8_t>();
  auto* codes = out.codes_OI.mutable_data_ptr<uint8_t>();
  auto* scales = out.scales_OG.mutable_data_ptr<c10::Half>();
  uint8_t* zeros = asymmetric ? out.zeros_OG.mutable_data_ptr<uint8_t>() : nullptr;
  at::parallel_for(0, O, kPackedOutputs, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      const uint8_t* block = data + o / kPackedOutputs * layout.block;
      const int64_t lane = o % kPackedOutputs;
      for (int64_t g = 0; g < G; ++g) {
        std::memcpy(&scales[o * G + g].x, block + (g * kPackedOutputs + lane) * 2, 2);
        if (asymmetric) zeros[o * G + g] = block[layout.zeros + g * kPackedOutputs + lane];
      }
      for (int64_t i = 0; i < I; ++i) {
        const int64_t step = four ? i / 8 : i / 4;
        const uint8_t byte = block[layout.codes + (step * kPackedOutputs + lane) * 4 + i % 4];
        codes[o * I + i] = !four ? byte : i % 8 < 4 ? byte & 15 : byte >> 4;
      }
    }
  });
  return out;
}

at::Tensor unpack_weight(const PackedWeight& weight, at::ScalarType dtype) {
  const int64_t O = weight.outputs, I = weight.inputs;
  if (weight.form.form == WeightForm::kBf16) {
    const uint8_t* data = weight.blocks.const_data_ptr<uint8_t>();
    const int64_t size = weight.layout().block;
    at::Tensor out_OI = at::empty({O, I}, at::kBFloat16);
    auto* out = out_OI.mutable_data_ptr<c10::BFloat16>();
    at::parallel_for(0, O, kPackedOutputs, [&](int64_t begin, int64_t end) {
      for (int64_t o = begin; o < end; ++o) {
        const uint8_t* row = data + o / kPackedOutputs * size + o % kPackedOutputs * 4;
        for (int64_t i = 0; i < I; ++i)
          std::memcpy(&out[o * I + i].x, row + i / 2 * kPackedOutputs * 4 + i % 2 * 2, 2);
      }
    });
    return out_OI.to(dtype);
  }
  const PackedCodes parts = unpack_codes(weight);
  const uint8_t* codes = parts.codes_OI.const_data_ptr<uint8_t>();
  const auto* scales = parts.scales_OG.const_data_ptr<c10::Half>();
  const uint8_t* zeros =
      parts.zeros_OG.defined() ? parts.zeros_OG.const_data_ptr<uint8_t>() : nullptr;
  const int64_t G = parts.scales_OG.size(1), group = weight.form.group;
  const int middle = weight.form.form == WeightForm::kInt4 ? 8 : 128;
  at::Tensor out_OI = at::empty({O, I}, at::kFloat);
  auto* out = out_OI.mutable_data_ptr<float>();
  at::parallel_for(0, O, kPackedOutputs, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin * I; at < end * I; ++at) {
      const int64_t g = at / I * G + at % I / group;
      const int zero = zeros != nullptr ? zeros[g] : middle;
      out[at] = static_cast<float>(scales[g]) * static_cast<float>(codes[at] - zero);
    }
  });
  return out_OI.to(dtype);
}

}  // namespace euromodal
