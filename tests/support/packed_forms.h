// packed_forms.h — the forms of packed weights that tests go through.
#pragma once
#include <vector>

#include "backbone/kernels/packed_linear/packed_layout.h"

namespace euromodal::testing_support {

/// Every integer form: bits, size of groups, with and without zero points.
inline std::vector<PackedForm> integer_forms() {
  std::vector<PackedForm> out;
  for (const WeightForm form : {WeightForm::kInt8, WeightForm::kInt4})
    for (const int64_t group : {32, 128})
      for (const bool asymmetric : {false, true}) out.push_back({form, group, asymmetric});
  return out;
}

}  // namespace euromodal::testing_support
