// embedding_ref.h — rows of a table by id, the plain definition.
#pragma once
#include <ATen/core/Tensor.h>

namespace euromodal {

/// table_VD [V, D], ids_T [T] i64 -> [T, D]; differentiable by ATen's own rules.
at::Tensor embedding_ref(const at::Tensor& table_VD, const at::Tensor& ids_T);

}  // namespace euromodal
