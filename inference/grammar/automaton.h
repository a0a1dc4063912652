// automaton.h — reads bytes by a grammar: which may come next, may the text end here. The states of
// the pushdown automaton are found as they are needed and numbered, so that a step that was taken
// once is a look-up.
#pragma once
#include <cstdint>
#include <map>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "inference/grammar/grammar.h"

namespace euromodal {

/// Not for use by several threads at once.
class GrammarAutomaton {
 public:
  using State = int32_t;
  static constexpr State kDead = -1;

  /// ConfigError when a rule begins with itself.
  explicit GrammarAutomaton(Grammar grammar);
  State start() const { return start_; }
  /// After one more byte; kDead: it may not come here.
  State step(State state, unsigned char byte);
  bool may_end(State state) const { return states_[static_cast<size_t>(state)].ends; }
  /// Can any byte come?
  bool goes_on(State state) const { return !states_[static_cast<size_t>(state)].stacks.empty(); }

 private:
  /// What is still to be read: symbols [dot, end) of a sequence, then what `parent` says. 0:
  /// nothing.
  struct Stack {
    int32_t sequence, dot, parent;
  };
  struct Configuration {
    std::vector<int32_t> stacks;  // sorted; each begins with a byte symbol
    bool ends = false;
  };
  int32_t push(int32_t sequence, int32_t dot, int32_t parent);
  void expand(int32_t stack, Configuration& out, std::unordered_set<int32_t>& seen);
  State intern(Configuration configuration);

  std::vector<GrammarSequence> sequences_;
  std::vector<std::vector<int32_t>> rules_;  // sequence numbers of their alternatives
  std::vector<Stack> stacks_;
  std::map<std::tuple<int32_t, int32_t, int32_t>, int32_t> stack_of_;
  std::vector<Configuration> states_;
  std::map<std::pair<std::vector<int32_t>, bool>, State> state_of_;
  std::unordered_map<int64_t, State> steps_;
  State start_;
};

}  // namespace euromodal
