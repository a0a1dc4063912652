// token_grammar.cpp — see token_grammar.h. The vocabulary is walked in the order of its bytes, so
// what neighbours have in common is read once, and what follows a dead end is not read at all.
#include "inference/grammar/token_grammar.h"

#include <algorithm>
#include <limits>

#include "core/error.h"

namespace euromodal {

namespace {
constexpr size_t kMostLists = 2048;  // of allowed tokens that are kept
}

TokenGrammar::TokenGrammar(Grammar grammar, std::shared_ptr<const Tokenizer> tokenizer)
    : automaton_(std::move(grammar)) {
  for (int64_t id = 0; id < tokenizer->size(); ++id) {
    std::string bytes = tokenizer->bytes_of(id);
    if (bytes.empty()) continue;
    bytes_of_[id] = bytes;
    pieces_.push_back({std::move(bytes), id, 0});
  }
  std::sort(pieces_.begin(), pieces_.end(),
            [](const Piece& a, const Piece& b) { return a.bytes < b.bytes; });
  for (size_t i = 1; i < pieces_.size(); ++i) {
    const std::string &before = pieces_[i - 1].bytes, &now = pieces_[i].bytes;
    const auto end = std::mismatch(before.begin(), before.end(), now.begin(), now.end()).first;
    pieces_[i].shared = static_cast<size_t>(end - before.begin());
  }
}

const std::vector<int64_t>& TokenGrammar::allowed(State state) {
  const auto known = allowed_.find(state);
  if (known != allowed_.end()) return known->second;
  if (allowed_.size() >= kMostLists) allowed_.clear();
  std::vector<int64_t>& out = allowed_[state];
  std::vector<State> path = {state};  // after 0, 1, ... bytes of the piece; none is dead
  for (const Piece& piece : pieces_) {
    if (piece.shared >= path.size()) continue;  // it begins like one that ended dead
    path.resize(piece.shared + 1);
    while (path.size() <= piece.bytes.size()) {
      const State next =
          automaton_.step(path.back(), static_cast<unsigned char>(piece.bytes[path.size() - 1]));
      if (next == GrammarAutomaton::kDead) break;
      path.push_back(next);
    }
    if (path.size() == piece.bytes.size() + 1) out.push_back(piece.id);
  }
  return out;
}

void TokenGrammar::mask(std::span<float> logits_V, State state, std::span<const int64_t> stop_ids) {
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  std::vector<std::pair<size_t, float>> kept;
  const auto keep = [&](int64_t id) {
    const auto v = static_cast<size_t>(id);
    if (id >= 0 && v < logits_V.size()) kept.emplace_back(v, logits_V[v]);
  };
  for (const int64_t id : allowed(state)) keep(id);
  if (automaton_.may_end(state))
    for (const int64_t id : stop_ids) keep(id);
  check(!kept.empty(), "the constraint leaves no token: none of the vocabulary can come next");
  std::fill(logits_V.begin(), logits_V.end(), kNever);
  for (const auto& [v, logit] : kept) logits_V[v] = logit;
}

TokenGrammar::State TokenGrammar::advance(State state, int64_t id,
                                          std::span<const int64_t> stop_ids) {
  if (std::find(stop_ids.begin(), stop_ids.end(), id) != stop_ids.end()) return state;
  const auto found = bytes_of_.find(id);
  check(found != bytes_of_.end(), "token id {} writes nothing and cannot be held to a constraint",
        id);
  for (const char c : found->second) {
    state = automaton_.step(state, static_cast<unsigned char>(c));
    check(state != GrammarAutomaton::kDead, "token id {} breaks the constraint", id);
  }
  return state;
}

bool TokenGrammar::complete(State state) {
  return automaton_.may_end(state) && !automaton_.goes_on(state);
}

}  // namespace euromodal
