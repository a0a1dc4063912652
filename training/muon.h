// muon.h — the orthogonalised update of Muon (Keller Jordan 2024,
// https://kellerjordan.github.io/posts/muon; reference code: github.com/KellerJordan/Muon). R rows,
// C columns, B matrices of one shape.
#pragma once
#include <cstdint>

#include <ATen/core/Tensor.h>

namespace euromodal {

/// In place: each matrix of u_BRC [B, R, C] f32 is replaced by sqrt(max(1, R / C)) times its nearly
/// orthogonal factor: divided by its Frobenius norm, then `steps` times X <- a X + (b A + c A²) X
/// with A = X Xᵀ and (a, b, c) = (3.4445, -4.7750, 2.0315). `one_by_one`: matrix by matrix, so that
/// the bits of one do not depend on B.
void orthogonalise_(at::Tensor u_BRC, int64_t steps, bool one_by_one);

}  // namespace euromodal
