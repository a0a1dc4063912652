// piece_merges.h — the merges of a BPE vocabulary that has an order of pieces but no list of merges
// (SentencePiece, GGUF). Reference: transformers generate_merges.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "backbone/weights/tokenizer/bpe.h"

namespace euromodal {

/// Every way to make a piece of two others: pieces of lower rank first, then shorter left halves.
/// `pieces[id]` and `rank[id]`: of each id of `vocab`; valid UTF-8.
BpeMerges merges_of_pieces(const std::vector<std::string>& pieces, const BpeVocab& vocab,
                           const std::vector<int64_t>& rank);

}  // namespace euromodal
