// graph_decoder.h — the Decoder of decoder.h on a GPU: the steps of slot_decoder.h as one CUDA
// graph for each bucket of 1, 2, 4, ... 64 rows.
#pragma once
#include <memory>
#include <vector>

#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>

#include "backbone/cuda/slot_decoder.h"

namespace euromodal {

class GraphDecoder final : public SlotDecoder {
 public:
  GraphDecoder(const Llama& llama, const DecoderOptions& options);

 private:
  void launch(int64_t bucket) override;
  void mark_drawn() override;
  void wait_drawn() override;
  void capture(int64_t sequences);

  at::cuda::CUDAEvent drawn_;
  std::vector<std::unique_ptr<at::cuda::CUDAGraph>> graphs_;  // of bucket 1 << i
};

}  // namespace euromodal
