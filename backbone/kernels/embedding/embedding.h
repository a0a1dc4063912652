// embedding.h — rows of a table by id.
#pragma once
#include <ATen/core/Tensor.h>

#include "backbone/kernels/segments.h"

namespace euromodal {

/// table_VD [V, D], ids_T [T] i64 in [0, V) (the caller has checked) -> [T, D]. Gradient: dense [V,
/// D], summed in row order (sample by sample with rows.per_sample).
at::Tensor embedding(const at::Tensor& table_VD, const at::Tensor& ids_T, const Segments& rows);

}  // namespace euromodal
