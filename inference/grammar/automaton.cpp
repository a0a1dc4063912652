// automaton.cpp — see automaton.h.
#include "inference/grammar/automaton.h"

#include <algorithm>

#include "core/error.h"

namespace euromodal {

namespace {
constexpr size_t kMostOpened = 1 << 17;  // rules opened without a byte read
}

GrammarAutomaton::GrammarAutomaton(Grammar grammar) {
  for (const auto& alternatives : grammar.rules()) {
    rules_.emplace_back();
    for (const GrammarSequence& sequence : alternatives) {
      rules_.back().push_back(static_cast<int32_t>(sequences_.size()));
      sequences_.push_back(sequence);
    }
  }
  sequences_.push_back({grammar.start});
  stacks_.push_back({-1, 0, 0});  // number 0: nothing is left
  Configuration first;
  std::unordered_set<int32_t> seen;
  expand(push(static_cast<int32_t>(sequences_.size()) - 1, 0, 0), first, seen);
  start_ = intern(std::move(first));
  check<ConfigError>(start_ != kDead, "the constraint admits no text at all");
}

int32_t GrammarAutomaton::push(int32_t sequence, int32_t dot, int32_t parent) {
  // What is read to its end needs no frame: recursion at the end of a rule costs no depth.
  if (static_cast<size_t>(dot) == sequences_[static_cast<size_t>(sequence)].size()) return parent;
  const auto [found, fresh] =
      stack_of_.try_emplace({sequence, dot, parent}, static_cast<int32_t>(stacks_.size()));
  if (fresh) stacks_.push_back({sequence, dot, parent});
  return found->second;
}

void GrammarAutomaton::expand(int32_t stack, Configuration& out,
                              std::unordered_set<int32_t>& seen) {
  std::vector<int32_t> open = {stack};
  while (!open.empty()) {
    const int32_t now = open.back();
    open.pop_back();
    if (now == 0) {
      out.ends = true;
      continue;
    }
    if (!seen.insert(now).second) continue;
    check<ConfigError>(seen.size() < kMostOpened,
                       "the constraint is ambiguous without end: a part of it begins with itself");
    const Stack top = stacks_[static_cast<size_t>(now)];
    const GrammarSymbol symbol =
        sequences_[static_cast<size_t>(top.sequence)][static_cast<size_t>(top.dot)];
    if (symbol.rule < 0) {
      out.stacks.push_back(now);
      continue;
    }
    const int32_t behind = push(top.sequence, top.dot + 1, top.parent);
    for (const int32_t sequence : rules_[static_cast<size_t>(symbol.rule)])
      open.push_back(push(sequence, 0, behind));
  }
}

GrammarAutomaton::State GrammarAutomaton::intern(Configuration configuration) {
  if (configuration.stacks.empty() && !configuration.ends) return kDead;
  std::sort(configuration.stacks.begin(), configuration.stacks.end());
  const auto [found, fresh] = state_of_.try_emplace({configuration.stacks, configuration.ends},
                                                    static_cast<State>(states_.size()));
  if (fresh) states_.push_back(std::move(configuration));
  return found->second;
}

GrammarAutomaton::State GrammarAutomaton::step(State state, unsigned char byte) {
  const int64_t key = static_cast<int64_t>(state) * 256 + byte;
  const auto known = steps_.find(key);
  if (known != steps_.end()) return known->second;
  Configuration next;
  std::unordered_set<int32_t> seen;
  const std::vector<int32_t> from = states_[static_cast<size_t>(state)].stacks;
  for (const int32_t stack : from) {
    const Stack top = stacks_[static_cast<size_t>(stack)];
    const auto& symbols = sequences_[static_cast<size_t>(top.sequence)];
    if (!symbols[static_cast<size_t>(top.dot)].bytes.test(byte)) continue;
    expand(push(top.sequence, top.dot + 1, top.parent), next, seen);
  }
  return steps_[key] = intern(std::move(next));
}

}  // namespace euromodal
