// embedding_ref.cpp — rows of a table by id, with ATen's index_select.
#include "backbone/kernels/embedding/embedding_ref.h"

#include <ATen/ATen.h>

namespace euromodal {

at::Tensor embedding_ref(const at::Tensor& table_VD, const at::Tensor& ids_T) {
  return table_VD.index_select(0, ids_T);
}

}  // namespace euromodal
