// graph_decoder.cpp — see graph_decoder.h.
#include "backbone/cuda/graph_decoder.h"

#include <bit>

#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>

#include "backbone/cuda/launch_check.h"
#include "backbone/cuda/operators.h"

namespace euromodal {

namespace {

Launches device_launches() {
  return {.stream = [] { return c10::cuda::getCurrentCUDAStream().stream(); },
          .multiprocessors = at::cuda::getCurrentDeviceProperties()->multiProcessorCount,
          .pinned = true,
          .free_memory =
              [] {
                size_t free = 0, total = 0;
                check_launch(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
                return static_cast<int64_t>(free);
              }};
}

}  // namespace

GraphDecoder::GraphDecoder(const Llama& llama, const DecoderOptions& options)
    : SlotDecoder(llama, options, device_launches()) {
  if (options.graphs) capture(options.sequences);
}

void GraphDecoder::capture(int64_t sequences) {
  // All slots are empty: the warm-up and the capture write to nobody's page and advance nothing.
  const c10::cuda::CUDAStream side = c10::cuda::getStreamFromPool(/*isHighPriority=*/true);
  at::cuda::getCurrentCUDAStream().synchronize();
  const c10::cuda::CUDAStreamGuard guard(side);
  const auto pool = at::cuda::graph_pool_handle();
  for (int64_t rows = 1;; rows = std::min(2 * rows, sequences)) {
    run(rows);
    side.synchronize();
    graphs_.push_back(std::make_unique<at::cuda::CUDAGraph>());
    graphs_.back()->capture_begin(pool);
    run(rows);
    graphs_.back()->capture_end();
    if (rows == sequences) break;
  }
  side.synchronize();
}

void GraphDecoder::launch(int64_t bucket) {
  if (graphs_.empty()) return run(bucket);
  graphs_.at(static_cast<size_t>(std::bit_width(static_cast<uint64_t>(bucket - 1))))->replay();
}

void GraphDecoder::mark_drawn() { drawn_.record(c10::cuda::getCurrentCUDAStream()); }
void GraphDecoder::wait_drawn() { drawn_.synchronize(); }

std::unique_ptr<Decoder> cuda::make_decoder(const Llama& llama, const DecoderOptions& options) {
  return std::make_unique<GraphDecoder>(llama, options);
}

}  // namespace euromodal
