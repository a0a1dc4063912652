// packed_layout.h — how packed_linear() wants its weights in memory: 16 outputs beside each other,
// so that one vector register holds what one input (or a few of them) does to 16 outputs, and each
// thread reads one long stream. O outputs, I inputs (padded to whole groups), G groups.
//
// A block holds 16 outputs (the last one padded with zeros), blocks follow each other:
//   bf16   [I/2][16][2]   pairs of inputs, as vdpbf16ps and AMX read them
//   int8   scale f16 [G][16], zero u8 [G][16] (asymmetric only), to 64 bytes, codes u8 [I/4][16][4]
//   int4   the same, codes u8 [I/8][16][4]: low nibble input 8j + i, high nibble 8j + 4 + i
// weight = scale · (code - zero); symmetric: zero is 128 (int8) or 8 (int4).
#pragma once
#include <cstdint>

namespace euromodal {

enum class WeightForm { kBf16, kInt8, kInt4 };

struct PackedForm {
  WeightForm form = WeightForm::kBf16;
  int64_t group = 128;      // inputs that share a scale: 32 or 128 (integers only)
  bool asymmetric = false;  // integers only
  bool operator==(const PackedForm&) const = default;
};

/// The form of the output matrix of a vocabulary in a model of this form: int4 would cost it too
/// much, so it stays int8 (as llama.cpp keeps 6 bits there).
constexpr PackedForm head_form(PackedForm form) {
  if (form.form == WeightForm::kInt4) form.form = WeightForm::kInt8;
  return form;
}

inline constexpr int64_t kPackedOutputs = 16;

/// Sizes in bytes of one block and where its parts begin.
struct PackedLayout {
  int64_t inputs = 0;  // padded
  int64_t groups = 0;
  int64_t zeros = 0, codes = 0, block = 0;  // offsets; block: the size

  static constexpr PackedLayout of(const PackedForm& form, int64_t inputs) {
    PackedLayout out;
    if (form.form == WeightForm::kBf16) {
      out.inputs = (inputs + 1) / 2 * 2;
      out.block = out.inputs * kPackedOutputs * 2;
      return out;
    }
    out.groups = (inputs + form.group - 1) / form.group;
    out.inputs = out.groups * form.group;
    out.zeros = out.groups * kPackedOutputs * 2;
    const int64_t head = out.zeros + (form.asymmetric ? out.groups * kPackedOutputs : 0);
    out.codes = (head + 63) / 64 * 64;
    const int64_t bytes = out.inputs * kPackedOutputs;
    out.block = out.codes + (form.form == WeightForm::kInt8 ? bytes : bytes / 2);
    return out;
  }
};

}  // namespace euromodal
