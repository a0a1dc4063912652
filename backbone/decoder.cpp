// decoder.cpp — make_decoder: checks, then the CUDA library's implementation.
#include "backbone/decoder.h"

#include "backbone/kernels/cuda_ops.h"
#include "backbone/llama.h"
#include "core/error.h"

namespace euromodal {

std::unique_ptr<Decoder> make_decoder(const Llama& llama, const DecoderOptions& options) {
  const at::Tensor& embedding_VD = llama.embedding_VD();
  check(embedding_VD.is_cuda() && embedding_VD.scalar_type() == at::kBFloat16,
        "a device decoder takes a model in bfloat16 on a CUDA device, got {} on {}; what to do: "
        "--dtype bf16",
        c10::toString(embedding_VD.scalar_type()), embedding_VD.device().str());
  check(options.sequences >= 1 && options.sequences <= 64,
        "a device decoder of {} sequences, expected 1 to 64", options.sequences);
  check(options.max_positions >= 0 && options.max_positions <= llama.config().max_positions,
        "a device decoder for {} positions, the model takes at most {}", options.max_positions,
        llama.config().max_positions);
  return cuda_ops().make_decoder(llama, options);
}

}  // namespace euromodal
