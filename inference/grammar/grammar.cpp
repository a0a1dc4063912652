// grammar.cpp — see grammar.h.
#include "inference/grammar/grammar.h"

#include <algorithm>
#include <array>

#include "core/error.h"

namespace euromodal {

namespace {

constexpr int32_t kLastCharacter = 0x10FFFF;
constexpr size_t kMostRules = 1 << 20;

struct Utf8 {
  std::array<unsigned char, 4> bytes{};
  int count = 0;
};

Utf8 utf8_bytes(int32_t c) {
  const auto u = static_cast<uint32_t>(c);
  const auto tail = [&](int shift) {
    return static_cast<unsigned char>(0x80 | ((u >> shift) & 0x3F));
  };
  if (u < 0x80) return {{static_cast<unsigned char>(u)}, 1};
  if (u < 0x800) return {{static_cast<unsigned char>(0xC0 | (u >> 6)), tail(0)}, 2};
  if (u < 0x10000) return {{static_cast<unsigned char>(0xE0 | (u >> 12)), tail(6), tail(0)}, 3};
  return {{static_cast<unsigned char>(0xF0 | (u >> 18)), tail(12), tail(6), tail(0)}, 4};
}

/// Cuts [first, last] into stretches whose encodings are a product of byte ranges. Reference: the
/// construction of R. Cox, "Regular Expression Matching in the Wild", as in utf8-ranges.
void utf8_cut(int32_t first, int32_t last, std::vector<GrammarSequence>& out) {
  if (first > last) return;
  for (const int32_t end : {0x7F, 0x7FF, 0xFFFF}) {  // one length of encoding
    if (first <= end && end < last) {
      utf8_cut(first, end, out);
      utf8_cut(end + 1, last, out);
      return;
    }
  }
  if (last > 0x7F) {
    for (int shift = 6; shift <= 18; shift += 6) {  // whole blocks of continuation bytes
      const int32_t mask = (1 << shift) - 1;
      if ((first & ~mask) == (last & ~mask)) break;
      if ((first & mask) != 0) {
        utf8_cut(first, first | mask, out);
        utf8_cut((first | mask) + 1, last, out);
        return;
      }
      if ((last & mask) != mask) {
        utf8_cut(first, (last & ~mask) - 1, out);
        utf8_cut(last & ~mask, last, out);
        return;
      }
    }
  }
  const Utf8 low = utf8_bytes(first), high = utf8_bytes(last);
  GrammarSequence sequence;
  for (int i = 0; i < low.count; ++i) {
    GrammarSymbol symbol;
    for (int b = low.bytes[static_cast<size_t>(i)]; b <= high.bytes[static_cast<size_t>(i)]; ++b)
      symbol.bytes.set(static_cast<size_t>(b));
    sequence.push_back(symbol);
  }
  out.push_back(std::move(sequence));
}

}  // namespace

GrammarSymbol Grammar::byte(unsigned char value) const { return byte_range(value, value); }

GrammarSymbol Grammar::byte_range(unsigned char first, unsigned char last) const {
  GrammarSymbol out;
  for (int b = first; b <= last; ++b) out.bytes.set(static_cast<size_t>(b));
  return out;
}

GrammarSymbol Grammar::text(std::string_view bytes) {
  GrammarSequence symbols;
  for (const char c : bytes) symbols.push_back(byte(static_cast<unsigned char>(c)));
  return sequence(std::move(symbols));
}

GrammarSymbol Grammar::characters(const std::vector<std::pair<int32_t, int32_t>>& ranges) {
  std::vector<GrammarSequence> sequences;
  for (const auto& [first, last] : ranges) {  // surrogates are no characters
    utf8_cut(first, std::min(last, 0xD7FF), sequences);
    utf8_cut(std::max(first, 0xE000), std::min(last, kLastCharacter), sequences);
  }
  GrammarSymbol single;  // all encodings of one byte are one symbol
  std::vector<GrammarSequence> alternatives;
  for (GrammarSequence& sequence : sequences) {
    if (sequence.size() == 1)
      single.bytes |= sequence[0].bytes;
    else
      alternatives.push_back(std::move(sequence));
  }
  if (alternatives.empty()) return single;
  if (single.bytes.any()) alternatives.push_back({single});
  const GrammarSymbol rule = declare();
  define(rule, std::move(alternatives));
  return rule;
}

GrammarSymbol Grammar::sequence(GrammarSequence symbols) {
  if (symbols.size() == 1) return symbols[0];
  const GrammarSymbol rule = declare();
  define(rule, {std::move(symbols)});
  return rule;
}

GrammarSymbol Grammar::choice(std::vector<GrammarSymbol> alternatives) {
  if (alternatives.size() == 1) return alternatives[0];
  std::vector<GrammarSequence> sequences;
  for (GrammarSymbol& symbol : alternatives) sequences.push_back({std::move(symbol)});
  const GrammarSymbol rule = declare();
  define(rule, std::move(sequences));
  return rule;
}

GrammarSymbol Grammar::repeat(const GrammarSymbol& what, int64_t least, int64_t most) {
  GrammarSequence symbols(static_cast<size_t>(least), what);
  if (most < 0) {
    const GrammarSymbol more = declare();
    define(more, {{}, {what, more}});
    symbols.push_back(more);
  } else {  // nested, so that each step is one of two ways: (x(x(x)?)?)?
    GrammarSymbol more;
    for (int64_t i = least; i < most; ++i) {
      const GrammarSymbol rule = declare();
      GrammarSequence once = {what};
      if (i > least) once.push_back(more);
      define(rule, {{}, std::move(once)});
      more = rule;
    }
    if (most > least) symbols.push_back(more);
  }
  return sequence(std::move(symbols));
}

GrammarSymbol Grammar::declare() {
  check<ConfigError>(rules_.size() < kMostRules,
                     "the constraint is too large (more than {} rules); use smaller counts of "
                     "repetitions",
                     kMostRules);
  rules_.emplace_back();
  GrammarSymbol out;
  out.rule = static_cast<int32_t>(rules_.size()) - 1;
  return out;
}

void Grammar::define(const GrammarSymbol& rule, std::vector<GrammarSequence> alternatives) {
  rules_.at(static_cast<size_t>(rule.rule)) = std::move(alternatives);
}

}  // namespace euromodal
