// decoder.cpp — prompts, and make_decoder: checks, then the CUDA library's implementation.
#include "backbone/decoder.h"

#include "backbone/kernels/cuda_ops.h"
#include "backbone/llama.h"
#include "core/error.h"

namespace euromodal {

void Decoder::prefill(int64_t slot, const at::Tensor& emb_TD, int64_t longest, int64_t piece) {
  const int64_t T = emb_TD.size(0);
  check(T >= 1 && longest >= T, "a prompt of {} rows for a sequence of at most {}", T, longest);
  (void)release(slot);
  KvCache cache = make_cache();
  cache.reserve(longest);
  const at::Tensor hidden_1D = Prefill(llama(), emb_TD, cache, piece).last_row();
  begin(slot, std::move(cache), hidden_1D, longest);
}

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
