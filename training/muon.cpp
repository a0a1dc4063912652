// muon.cpp — see muon.h.
#include "training/muon.h"

#include <algorithm>
#include <cmath>

#include <ATen/ATen.h>

namespace euromodal {

namespace {

constexpr double kA = 3.4445, kB = -4.7750, kC = 2.0315;

// The shorter side's Gram matrix is the cheaper one; (XᵀX) needs no transposed copy of X.
void muon_newton_schulz_(at::Tensor& x_BRC, int64_t steps) {
  const int64_t B = x_BRC.size(0), R = x_BRC.size(1), C = x_BRC.size(2), side = std::min(R, C);
  const auto norm_B11 = at::sqrt(at::sum(x_BRC * x_BRC, {1, 2}, /*keepdim=*/true));
  x_BRC.div_(norm_B11 + 1e-7);
  auto gram_BSS = at::empty({B, side, side}, x_BRC.options());
  auto poly_BSS = at::empty_like(gram_BSS);
  auto next_BRC = at::empty_like(x_BRC);
  at::Tensor now_BRC = x_BRC;
  for (int64_t i = 0; i < steps; ++i) {
    const auto now_BCR = now_BRC.transpose(1, 2);
    if (R <= C) {
      at::bmm_out(gram_BSS, now_BRC, now_BCR);
    } else {
      at::bmm_out(gram_BSS, now_BCR, now_BRC);
    }
    at::baddbmm_out(poly_BSS, gram_BSS, gram_BSS, gram_BSS, kB, kC);
    if (R <= C) {
      at::baddbmm_out(next_BRC, now_BRC, poly_BSS, now_BRC, kA, 1.0);
    } else {
      at::baddbmm_out(next_BRC, now_BRC, now_BRC, poly_BSS, kA, 1.0);
    }
    std::swap(now_BRC, next_BRC);
  }
  const double scale = std::sqrt(std::max(1.0, static_cast<double>(R) / static_cast<double>(C)));
  if (!now_BRC.is_same(x_BRC)) x_BRC.copy_(now_BRC);
  if (scale != 1.0) x_BRC.mul_(scale);
}

}  // namespace

void orthogonalise_(at::Tensor u_BRC, int64_t steps, bool one_by_one) {
  if (!one_by_one) return muon_newton_schulz_(u_BRC, steps);
  for (int64_t b = 0; b < u_BRC.size(0); ++b) {
    at::Tensor one_1RC = u_BRC.narrow(0, b, 1);
    muon_newton_schulz_(one_1RC, steps);
  }
}

}  // namespace euromodal
