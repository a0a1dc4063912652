// gguf_model.cpp — see gguf_model.h. One matrix at a time: what is dequantised or packed is a
// second copy of that matrix alone, beside mapped pages that the system may drop.
#include "backbone/gguf_model.h"

#include <map>
#include <unordered_set>

#include <fmt/ranges.h>

#include "backbone/kernels/packed_linear/packed_weight.h"
#include "backbone/llama_block.h"
#include "core/error.h"
#include "core/log.h"

namespace euromodal {
namespace {

/// Takes tensors out of the file, each once.
class GgufTaker {
 public:
  GgufTaker(const GgufFile& file, at::ScalarType dtype) : file_(file), dtype_(dtype) {}

  const GgufTensor& find(const std::string& name, const std::vector<int64_t>& shape) {
    const GgufTensor* tensor = file_.find(name);
    check<CheckpointError>(tensor != nullptr, "{}: tensor {} is missing", file_.header().file,
                           name);
    check<CheckpointError>(tensor->shape == shape, "{}: tensor {} has shape [{}], expected [{}]",
                           file_.header().file, name, fmt::join(tensor->shape, ", "),
                           fmt::join(shape, ", "));
    used_.insert(name);
    return *tensor;
  }
  void plain(const std::string& stored, const std::string& name, const std::vector<int64_t>& shape,
             std::span<const int64_t> rows = {}) {
    const GgufTensor& tensor = find(stored, shape);
    const auto block = ggml_block(tensor.type);
    if (block && block->elements > 1) ++dequantized_[block->name];
    out.push_back({name, file_.tensor(tensor, dtype_, rows)});
  }
  void packed(const GgufLinear& linear, const PackedForm& form, std::span<const int64_t> rows) {
    const std::string stored = linear.stored + ".weight";
    const GgufCodes codes = file_.codes(find(stored, {linear.outputs, linear.inputs}), rows);
    try {
      out.push_back({linear.module + kPackedSuffix,
                     pack_codes(codes.codes_OI, codes.scales_OG, at::Tensor(), form).blocks});
    } catch (const Error& error) {
      throw CheckpointError("{}: tensor {}: {}", file_.header().file, stored, error.what());
    }
  }
  /// What nobody took.
  void finish() const {
    for (const GgufTensor& tensor : file_.header().tensors) {
      check<CheckpointError>(
          used_.count(tensor.name) != 0 || tensor.name == "rope_freqs.weight",
          "{}: unexpected tensor {} of shape [{}] (a Llama-type model does not use it)",
          file_.header().file, tensor.name, fmt::join(tensor.shape, ", "));
    }
    std::vector<std::string> words;
    for (const auto& [type, count] : dequantized_)
      words.push_back(fmt::format("{} {}", count, type));
    if (!words.empty())
      log_info("{}: matrices dequantised to {}: {}", file_.header().file, c10::toString(dtype_),
               fmt::join(words, ", "));
  }

  std::vector<NamedTensor> out;

 private:
  const GgufFile& file_;
  at::ScalarType dtype_;
  std::unordered_set<std::string> used_;
  std::map<std::string, int64_t> dequantized_;  // how many of each type
};

}  // namespace

TextModel load_gguf_model(const std::filesystem::path& path, std::optional<at::ScalarType> dtype) {
  const GgufFile file(path);
  TextModel model;
  const LlamaConfig& c = model.config = gguf_config(file);
  const at::ScalarType type = dtype.value_or(parse_dtype(c.dtype));
  const int64_t D = c.hidden_size;
  GgufTaker taker(file, type);
  taker.plain("token_embd.weight", "model.embed_tokens.weight", {c.vocab_size, D});
  taker.plain("output_norm.weight", "model.norm.weight", {D});
  for (int64_t i = 0; i < c.num_layers; ++i) {
    const std::string from = fmt::format("blk.{}.", i), to = fmt::format("model.layers.{}.", i);
    taker.plain(from + "attn_norm.weight", to + "input_layernorm.weight", {D});
    taker.plain(from + "ffn_norm.weight", to + "post_attention_layernorm.weight", {D});
  }
  for (const GgufLinear& linear : gguf_linears(c)) {
    std::vector<int64_t> rows;
    if (linear.heads > 0) rows = gguf_rows(linear.heads, c.head_dim);
    if (const auto form = c.form_of(linear.module))
      taker.packed(linear, *form, rows);
    else if (linear.module != kHeadName || !c.tie_embeddings)
      taker.plain(linear.stored + ".weight", linear.module + ".weight",
                  {linear.outputs, linear.inputs}, rows);
    if (linear.bias)
      taker.plain(linear.stored + ".bias", linear.module + ".bias", {linear.outputs}, rows);
  }
  taker.finish();
  Weights weights = Weights::from_tensors(std::move(taker.out), type, file.header().file);
  model.llama = std::make_unique<Llama>(c, weights.scope());
  weights.finish();
  model.parameters = weights.taken();
  return model;
}

}  // namespace euromodal
