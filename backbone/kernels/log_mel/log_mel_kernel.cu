// log_mel_kernel.cu — log-mel spectrogram. Reference: log_mel() of encoders/preprocess/log_mel.cpp.
//
// A block has 16 frames. The transform is a matrix product with a table of cosines and sines, which
// for 400 points beats the bookkeeping of an FFT: points n and N - n have the same cosine and
// opposite sines, so their sum and difference are what is multiplied, and the sums are half as
// long. Each thread has one bin of all frames in registers; the mel filters are a second product.
#include "backbone/kernels/cuda/device.h"
#include "backbone/kernels/log_mel/log_mel_kernel.h"

namespace euromodal {
namespace {

constexpr int kThreads = 256, kFrames = 16;
constexpr int64_t kMaxPoints = 1024;

struct alignas(16) FrameRow {  // one point, or one bin, of all frames of a block
  float v[kFrames];
};

// acc[f] += row[f] · factor
EM_DEVICE void add_row(float (&acc)[kFrames], const FrameRow& row, float factor) {
#pragma unroll
  for (int f = 0; f < kFrames; f += 4) {
    const Vec16<float> v = load16(row.v + f);
#pragma unroll
    for (int i = 0; i < 4; ++i) acc[f + i] += v.v[i] * factor;
  }
}

// Unsigned numbers in the order of the floats.
EM_DEVICE uint32_t ordered_bits(float x) {
  const uint32_t bits = __float_as_uint(x);
  return (bits & 0x80000000U) != 0U ? ~bits : bits | 0x80000000U;
}
EM_DEVICE float from_ordered_bits(uint32_t key) {
  return __uint_as_float((key & 0x80000000U) != 0U ? key & 0x7fffffffU : ~key);
}

// Grid (frames / kFrames, windows): logarithms of the mel bins, and their maximum.
__global__ void __launch_bounds__(kThreads) mel_kernel(LogMelArgs a, int64_t frames) {
  EM_DYNAMIC_SHARED(FrameRow, rows);
  __shared__ float scratch[kThreads / 32];
  const int64_t half = a.points / 2, bins = half + 1;
  FrameRow *sums = rows, *differences = rows + bins, *power = rows + 2 * bins;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kFrames;
  const float* samples = a.samples_WS + blockIdx.y * a.samples;

  // Point p of frame f lies at f · hop + p - half, reflected at both ends, times the window.
  const auto windowed = [&](int64_t frame, int64_t p) {
    int64_t at = frame * a.hop + p - half;
    at = at < 0 ? -at : at;
    at = at >= a.samples ? 2 * (a.samples - 1) - at : at;
    return samples[at] * a.window_N[p];
  };
  for (int64_t i = threadIdx.x; i < kFrames * bins; i += kThreads) {
    const int64_t f = i / bins, n = i % bins;  // neighbouring threads read neighbouring samples
    float sum = 0.0F, difference = 0.0F;
    if (first + f < frames) {
      sum = windowed(first + f, n);
      if (n > 0 && n < half) {
        const float mirror = windowed(first + f, a.points - n);
        difference = sum - mirror;
        sum += mirror;
      }
    }
    sums[n].v[f] = sum;
    differences[n].v[f] = difference;
  }
  __syncthreads();

  for (int64_t k = threadIdx.x; k < bins; k += kThreads) {
    float re[kFrames] = {}, im[kFrames] = {};
    const float* table = a.dft_KK2 + 2 * k;
#pragma unroll 4
    for (int64_t n = 0; n < bins; ++n) {
      const float2 cs = *reinterpret_cast<const float2*>(table + 2 * n * bins);
      add_row(re, sums[n], cs.x);
      add_row(im, differences[n], cs.y);
    }
#pragma unroll
    for (int f = 0; f < kFrames; ++f) power[k].v[f] = re[f] * re[f] + im[f] * im[f];
  }
  __syncthreads();

  float highest = -INFINITY;
  for (int64_t m = threadIdx.x; m < a.mels; m += kThreads) {
    float acc[kFrames] = {};
#pragma unroll 4
    for (int64_t k = 0; k < bins; ++k) add_row(acc, power[k], a.filters_KM[k * a.mels + m]);
    float* out = a.x_WMF + (blockIdx.y * a.mels + m) * frames + first;
#pragma unroll
    for (int f = 0; f < kFrames; ++f) {
      if (first + f >= frames) break;
      const float value = log10f(fmaxf(acc[f], 1e-10F));
      highest = fmaxf(highest, value);
      out[f] = value;
    }
  }
  highest = block_max(highest, scratch);
  if (threadIdx.x == 0) atomicMax(a.highest_W + blockIdx.y, ordered_bits(highest));
}

__global__ void __launch_bounds__(kThreads)
    scale_kernel(float* x, const uint32_t* highest_W, int64_t count) {
  const float least = from_ordered_bits(highest_W[blockIdx.y]) - 8.0F;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  float& value = x[blockIdx.y * count + i];
  value = (fmaxf(value, least) + 4.0F) / 4.0F;
}

}  // namespace

cudaError_t log_mel(const LogMelArgs& args, cudaStream_t stream) noexcept {
  if (args.windows == 0) return cudaSuccess;
  if (args.windows < 0 || args.windows > 65535 || args.points < 2 || args.points % 2 != 0 ||
      args.points > kMaxPoints || args.hop < 1 || args.samples % args.hop != 0 ||
      args.samples <= args.points / 2 || args.mels < 1 || args.mels > 1024)
    return cudaErrorInvalidValue;
  const int64_t frames = args.samples / args.hop, count = args.mels * frames;
  const size_t shared = static_cast<size_t>(3 * (args.points / 2 + 1)) * sizeof(FrameRow);
  cudaError_t error = cudaFuncSetAttribute(mel_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           static_cast<int>(shared));
  if (error != cudaSuccess) return error;
  error = cudaMemsetAsync(args.highest_W, 0, static_cast<size_t>(args.windows) * sizeof(uint32_t),
                          stream);
  if (error != cudaSuccess) return error;
  const auto windows = static_cast<unsigned>(args.windows);
  EM_LAUNCH(mel_kernel, (dim3(static_cast<unsigned>((frames + kFrames - 1) / kFrames), windows)),
            kThreads, shared, stream, args, frames);
  EM_LAUNCH(scale_kernel, (dim3(static_cast<unsigned>((count + kThreads - 1) / kThreads), windows)),
            kThreads, 0, stream, args.x_WMF, args.highest_W, count);
  return cudaGetLastError();
}

}  // namespace euromodal
