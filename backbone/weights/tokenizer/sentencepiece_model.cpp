// sentencepiece_model.cpp — tokenizer.model alone, as SentencePiece and LlamaTokenizer read it:
// pieces and types by libsentencepiece, merges in the order of the pieces, then the common
// pipeline. Reference: transformers SentencePieceExtractor and generate_merges.
#include <numeric>

#include <nlohmann/json.hpp>
#include <sentencepiece_processor.h>

#include "backbone/weights/safetensors_header.h"
#include "backbone/weights/tokenizer/hf_tokenizer.h"
#include "backbone/weights/tokenizer/piece_merges.h"
#include "core/error.h"
#include "core/files.h"

namespace euromodal {
namespace {

using nlohmann::json;

constexpr uint64_t kBpeModel = 2;
constexpr uint64_t kNormalPiece = 1, kControlPiece = 3, kUserPiece = 4;

// Walks the fields of one protobuf message; false when it is broken.
template <typename Visit>
bool walk_protobuf(std::string_view bytes, const Visit& visit) {
  size_t at = 0;
  const auto varint = [&](uint64_t& value) {
    value = 0;
    for (int shift = 0; shift < 64 && at < bytes.size(); shift += 7) {
      const auto byte = static_cast<unsigned char>(bytes[at++]);
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return true;
    }
    return false;
  };
  while (at < bytes.size()) {
    uint64_t tag = 0, value = 0;
    if (!varint(tag)) return false;
    std::string_view content;
    const uint64_t wire = tag & 7;
    if (wire == 0) {
      if (!varint(value)) return false;
    } else {
      uint64_t length = wire == 1 ? 8 : 4;
      if (wire == 2 && !varint(length)) return false;
      if ((wire != 1 && wire != 2 && wire != 5) || length > bytes.size() - at) return false;
      content = bytes.substr(at, length);
      at += length;
    }
    visit(tag >> 3, value, content);
  }
  return true;
}

// What the library does not tell: the kind of model and of each piece.
struct ModelKinds {
  uint64_t model = 1;            // TrainerSpec.ModelType; 1: unigram
  std::vector<uint64_t> pieces;  // SentencePiece.Type; 1: normal
};

bool read_kinds(std::string_view bytes, ModelKinds& kinds) {
  bool whole = true;
  const bool outer = walk_protobuf(bytes, [&](uint64_t field, uint64_t, std::string_view content) {
    if (field != 1 && field != 2) return;  // pieces, trainer_spec
    if (field == 1) kinds.pieces.push_back(kNormalPiece);
    uint64_t& kind = field == 1 ? kinds.pieces.back() : kinds.model;
    whole &= walk_protobuf(content, [&](uint64_t inner, uint64_t value, std::string_view) {
      if (inner == 3) kind = value;  // type, model_type
    });
  });
  return outer && whole;
}

}  // namespace

std::shared_ptr<const Tokenizer> load_sentencepiece(const std::filesystem::path& dir,
                                                    const json& config) {
  const std::string what = (dir / "tokenizer.model").string();
  const std::string bytes = read_text(dir / "tokenizer.model");
  sentencepiece::SentencePieceProcessor processor;
  const auto status = processor.LoadFromSerializedProto(bytes);
  check<CheckpointError>(status.ok(), "{}: not a SentencePiece model: {}", what,
                         shown_name(status.ToString()));
  ModelKinds kinds;
  const bool read = read_kinds(bytes, kinds) &&
                    kinds.pieces.size() == static_cast<size_t>(processor.GetPieceSize());
  check<CheckpointError>(read, "{}: not a SentencePiece model: broken fields", what);
  check<CheckpointError>(kinds.model == kBpeModel,
                         "{}: SentencePiece model type {} is not supported (2, BPE, is)", what,
                         kinds.model);

  std::vector<std::string> pieces;
  BpeVocab vocab;
  std::vector<AddedToken> added;
  for (int id = 0; id < processor.GetPieceSize(); ++id) {
    const std::string& piece = processor.IdToPiece(id);
    check<CheckpointError>(!piece.empty() && find_invalid_utf8(piece) == std::string::npos,
                           "{}: piece {} is empty or not valid UTF-8", what, id);
    check<CheckpointError>(vocab.emplace(piece, id).second, "{}: piece {} is there twice", what,
                           shown_name(piece));
    pieces.push_back(piece);
    AddedToken token;
    token.content = piece;
    token.id = id;
    token.special = kinds.pieces[id] == kControlPiece;
    if (token.special || kinds.pieces[id] == kUserPiece) added.push_back(std::move(token));
  }
  std::vector<int64_t> rank(pieces.size());
  std::iota(rank.begin(), rank.end(), 0);
  const BpeMerges merges = merges_of_pieces(pieces, vocab, rank);
  BpeOptions options;
  options.fuse_unk = options.byte_fallback = true;
  try {
    HfTokenizerParts parts{Bpe(std::move(vocab), merges, std::move(options), what),
                           Normalizer(),
                           PreTokenizer(),
                           Decoder(),
                           std::move(added),
                           {},
                           {}};
    use_llama_pipeline(parts, config, /*sentencepiece=*/true);
    add_config_tokens(parts, config, (dir / "tokenizer_config.json").string());
    const auto around = [&](const char* flag, const char* key, const char* standard,
                            bool otherwise) {
      std::vector<int64_t> ids;
      const auto found = config.find(flag);
      const bool on = found != config.end() && found->is_boolean() ? found->get<bool>() : otherwise;
      if (!on) return ids;
      const auto word = config.find(key);
      std::string token = standard;
      if (word != config.end() && word->is_string()) token = word->get<std::string>();
      if (word != config.end() && word->is_object()) token = word->at("content").get<std::string>();
      for (const AddedToken& known : parts.added) {
        if (known.content == token) ids.push_back(known.id);
      }
      check<CheckpointError>(!ids.empty(), "{}: {} {} is not in the vocabulary", what, key,
                             shown_name(token));
      return ids;
    };
    parts.before = around("add_bos_token", "bos_token", "<s>", /*otherwise=*/false);
    parts.behind = around("add_eos_token", "eos_token", "</s>", /*otherwise=*/false);
    return std::make_shared<HfTokenizer>(std::move(parts), what);
  } catch (const json::exception& e) {
    throw CheckpointError("{}: {}", (dir / "tokenizer_config.json").string(), shown_name(e.what()));
  }
}

}  // namespace euromodal
