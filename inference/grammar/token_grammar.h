// token_grammar.h — a grammar over bytes applied to a vocabulary: which tokens may come next.
// V vocabulary.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "backbone/weights/tokenizer.h"
#include "inference/grammar/automaton.h"

namespace euromodal {

/// Not for use by several threads at once. A state is a number; every sequence keeps its own.
class TokenGrammar {
 public:
  using State = GrammarAutomaton::State;

  TokenGrammar(Grammar grammar, std::shared_ptr<const Tokenizer> tokenizer);

  State start() const { return automaton_.start(); }
  /// -inf for every token that cannot come: special tokens never, `stop_ids` where the text may
  /// end. Error when nothing can come (no token of the vocabulary begins what is due).
  void mask(std::span<float> logits_V, State state, std::span<const int64_t> stop_ids);
  /// After a token that mask() let through. Stop ids leave the state as it is.
  State advance(State state, int64_t id, std::span<const int64_t> stop_ids);
  /// Is the text complete, so that nothing more can come?
  bool complete(State state);

 private:
  struct Piece {
    std::string bytes;
    int64_t id;
    size_t shared;  // bytes at the beginning that it has in common with the piece before
  };
  const std::vector<int64_t>& allowed(State state);

  GrammarAutomaton automaton_;
  std::vector<Piece> pieces_;  // in the order of their bytes
  std::unordered_map<int64_t, std::string> bytes_of_;
  std::unordered_map<State, std::vector<int64_t>> allowed_;
};

}  // namespace euromodal
