// splice_rows_kernel.cu — see splice_rows_kernel.h. Reference: splice_rows_ref.cpp. A block a row:
// it looks its row up among the spans and copies. Bound by memory: each row is read and written
// once, where index_copy copies all rows first and then the replaced ones.
#include "backbone/kernels/cuda/device.h"
#include "backbone/kernels/splice_rows/splice_rows_kernel.h"

namespace euromodal {
namespace {

constexpr int kSpliceThreads = 256;

/// Units of a row: what one access of a thread moves.
template <typename Unit>
__global__ void __launch_bounds__(kSpliceThreads)
    splice_forward_kernel(const __grid_constant__ SpliceForwardArgs a) {
  const int64_t t = blockIdx.x, units = a.row_bytes / static_cast<int64_t>(sizeof(Unit));
  const int64_t m = a.spans.find(t);
  const Unit* from = m >= 0 ? static_cast<const Unit*>(a.rows_MD) + m * units
                            : static_cast<const Unit*>(a.emb_TD) + t * units;
  Unit* to = static_cast<Unit*>(a.y_TD) + t * units;
  for (int64_t u = threadIdx.x; u < units; u += blockDim.x) to[u] = from[u];
}

template <typename Unit>
__global__ void __launch_bounds__(kSpliceThreads)
    splice_backward_kernel(const __grid_constant__ SpliceBackwardArgs a) {
  const int64_t t = blockIdx.x, units = a.row_bytes / static_cast<int64_t>(sizeof(Unit));
  const int64_t m = a.spans.find(t);
  const bool to_rows = m >= 0 && a.drows_MD != nullptr, to_emb = a.demb_TD != nullptr;
  if (!to_rows && !to_emb) return;
  const Unit* from = static_cast<const Unit*>(a.dy_TD) + t * units;
  Unit* rows = to_rows ? static_cast<Unit*>(a.drows_MD) + m * units : nullptr;
  Unit* emb = to_emb ? static_cast<Unit*>(a.demb_TD) + t * units : nullptr;
  for (int64_t u = threadIdx.x; u < units; u += blockDim.x) {
    const Unit v = from[u];
    if (to_rows) rows[u] = v;
    if (to_emb) emb[u] = m >= 0 ? Unit{} : v;
  }
}

/// The largest unit that divides every address and the row.
template <typename F>
cudaError_t for_unit(uintptr_t addresses, int64_t row_bytes, F&& f) {
  const uintptr_t all = addresses | static_cast<uintptr_t>(row_bytes);
  if (all % 16 == 0) return f(uint4{});
  if (all % 4 == 0) return f(uint32_t{});
  if (all % 2 == 0) return f(uint16_t{});
  return cudaErrorInvalidValue;
}

uintptr_t address(const void* p) { return reinterpret_cast<uintptr_t>(p); }

unsigned splice_threads(int64_t units) {
  return static_cast<unsigned>(units >= kSpliceThreads ? kSpliceThreads : (units + 31) / 32 * 32);
}

bool refused(int64_t rows, int64_t row_bytes, const RowSpans& spans) {
  return rows < 0 || rows > INT32_MAX || row_bytes < 0 || spans.count < 0;
}

}  // namespace

cudaError_t splice_rows_forward(const SpliceForwardArgs& a, cudaStream_t stream) noexcept {
  if (refused(a.rows, a.row_bytes, a.spans)) return cudaErrorInvalidValue;
  if (a.rows == 0 || a.row_bytes == 0) return cudaSuccess;
  return for_unit(
      address(a.emb_TD) | address(a.rows_MD) | address(a.y_TD), a.row_bytes, [&](auto unit) {
        using Unit = decltype(unit);
        EM_LAUNCH(splice_forward_kernel<Unit>, static_cast<unsigned>(a.rows),
                  splice_threads(a.row_bytes / static_cast<int64_t>(sizeof(Unit))), 0, stream, a);
        return cudaGetLastError();
      });
}

cudaError_t splice_rows_backward(const SpliceBackwardArgs& a, cudaStream_t stream) noexcept {
  if (refused(a.rows, a.row_bytes, a.spans)) return cudaErrorInvalidValue;
  if (a.rows == 0 || a.row_bytes == 0 || (a.demb_TD == nullptr && a.drows_MD == nullptr))
    return cudaSuccess;
  return for_unit(
      address(a.dy_TD) | address(a.demb_TD) | address(a.drows_MD), a.row_bytes, [&](auto unit) {
        using Unit = decltype(unit);
        EM_LAUNCH(splice_backward_kernel<Unit>, static_cast<unsigned>(a.rows),
                  splice_threads(a.row_bytes / static_cast<int64_t>(sizeof(Unit))), 0, stream, a);
        return cudaGetLastError();
      });
}

}  // namespace euromodal
