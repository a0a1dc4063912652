// sync_sharded.h — the part of sync_program.cpp about frozen blocks in slices.
#pragma once
#include <cstring>

#include <ATen/core/Tensor.h>

#include "training/dist/collectives.h"

namespace euromodal {

inline bool sync_same_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() && a.scalar_type() == b.scalar_type() &&
         std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0;
}

/// Frozen blocks in slices over the node: the same bits as whole ones, though every rank makes
/// another number of passes; what is read ahead; the memory. Error naming what does not hold.
void sync_sharded(Collectives& world);

}  // namespace euromodal
