// grammar.h — a context-free grammar over bytes: what regular expressions and JSON schemas are
// turned into, and what decoding is held to.
#pragma once
#include <bitset>
#include <cstdint>
#include <string_view>
#include <vector>

namespace euromodal {

using ByteSet = std::bitset<256>;

/// One byte out of a set, or a rule.
struct GrammarSymbol {
  int32_t rule = -1;  // -1: a byte
  ByteSet bytes;
};

using GrammarSequence = std::vector<GrammarSymbol>;

/// rules[r] lists the alternatives of rule r. Made by its functions, which hand out symbols that
/// stand for what they describe. No rule may begin with itself.
class Grammar {
 public:
  GrammarSymbol byte(unsigned char value) const;
  GrammarSymbol byte_range(unsigned char first, unsigned char last) const;
  GrammarSymbol text(std::string_view bytes);
  /// Any character of [first, last], as UTF-8.
  GrammarSymbol characters(const std::vector<std::pair<int32_t, int32_t>>& ranges);
  GrammarSymbol sequence(GrammarSequence symbols);
  GrammarSymbol choice(std::vector<GrammarSymbol> alternatives);
  /// `least` to `most` times; most < 0: without end.
  GrammarSymbol repeat(const GrammarSymbol& what, int64_t least, int64_t most);

  /// A rule whose content comes later (recursion).
  GrammarSymbol declare();
  void define(const GrammarSymbol& rule, std::vector<GrammarSequence> alternatives);

  const std::vector<std::vector<GrammarSequence>>& rules() const { return rules_; }
  GrammarSymbol start;

 private:
  std::vector<std::vector<GrammarSequence>> rules_;
};

}  // namespace euromodal
