// regex.cpp — see regex.h. Recursive descent, one function per level of precedence.
#include "inference/grammar/regex.h"

#include <algorithm>
#include <string>

#include "backbone/weights/tokenizer/unicode.h"
#include "core/error.h"
#include "core/files.h"

namespace euromodal {

namespace {

constexpr int32_t kLast = 0x10FFFF;
constexpr int64_t kMostRepeats = 4096;
constexpr int kDeepest = 256;

using Ranges = std::vector<std::pair<int32_t, int32_t>>;

Ranges merged(Ranges ranges) {
  std::sort(ranges.begin(), ranges.end());
  Ranges out;
  for (const auto& range : ranges) {
    if (!out.empty() && range.first <= out.back().second + 1)
      out.back().second = std::max(out.back().second, range.second);
    else
      out.push_back(range);
  }
  return out;
}

Ranges complement(const Ranges& ranges) {
  Ranges out;
  int32_t next = 0;
  for (const auto& [first, last] : merged(ranges)) {
    if (next < first) out.emplace_back(next, first - 1);
    next = last + 1;
  }
  if (next <= kLast) out.emplace_back(next, kLast);
  return out;
}

Ranges characters_where(bool (*holds)(int32_t)) {
  Ranges out;
  for (int32_t c = 0; c <= kLast; ++c) {
    if (!holds(c)) continue;
    if (!out.empty() && out.back().second == c - 1)
      out.back().second = c;
    else
      out.emplace_back(c, c);
  }
  return out;
}

const Ranges& word_ranges() {
  static const Ranges ranges = characters_where(&unicode_word);
  return ranges;
}
const Ranges& space_ranges() {
  static const Ranges ranges = characters_where(&unicode_space);
  return ranges;
}

class RegexParser {
 public:
  RegexParser(Grammar& grammar, std::string_view pattern) : grammar_(grammar), pattern_(pattern) {
    const size_t bad = find_invalid_utf8(pattern);
    check<ConfigError>(bad == std::string::npos, "regular expression: not valid UTF-8 at byte {}",
                       bad);
  }

  GrammarSymbol whole() {
    const GrammarSymbol out = alternatives(0);
    expect(at_ == pattern_.size(), "there is a ) without its (");
    return out;
  }

 private:
  bool more() const { return at_ < pattern_.size(); }
  bool next_is(char c) const { return more() && pattern_[at_] == c; }
  bool take(std::string_view text) {
    if (!pattern_.substr(at_).starts_with(text)) return false;
    at_ += text.size();
    return true;
  }
  void expect(bool holds, std::string_view what) const {
    check<ConfigError>(holds, "regular expression '{}': at byte {}: {}", pattern_, at_, what);
  }
  int32_t character() {
    expect(more(), "the pattern ends too early");
    return utf8_next(pattern_, at_);
  }

  GrammarSymbol alternatives(int depth) {
    expect(depth < kDeepest, "groups are nested too deep");
    std::vector<GrammarSymbol> out = {row(depth)};
    while (take("|")) out.push_back(row(depth));
    return grammar_.choice(std::move(out));
  }

  GrammarSymbol row(int depth) {
    GrammarSequence symbols;
    while (more() && !next_is('|') && !next_is(')')) {
      if (next_is('^')) {
        expect(at_ == 0, "^ is taken only at the beginning (the whole text must match)");
        ++at_;
      } else if (next_is('$')) {
        expect(at_ + 1 == pattern_.size(),
               "$ is taken only at the end (the whole text must match)");
        ++at_;
      } else {
        const GrammarSymbol one = atom(depth);
        symbols.push_back(repeated(one));
      }
    }
    return grammar_.sequence(std::move(symbols));
  }

  GrammarSymbol atom(int depth) {
    if (take("(")) {
      if (take("?")) {
        if (take("P<")) {
          const size_t close = pattern_.find('>', at_);
          expect(close != std::string_view::npos, "the group's name has no end");
          at_ = close + 1;
        } else {
          expect(take(":"), "of the (? forms only (?: and (?P<name> are taken");
        }
      }
      const GrammarSymbol inside = alternatives(depth + 1);
      expect(take(")"), "a ( has no )");
      return inside;
    }
    expect(!next_is('*') && !next_is('+') && !next_is('?') && !next_is('{'),
           "nothing stands before the repetition");
    if (take("[")) return grammar_.characters(character_class());
    if (take(".")) return grammar_.characters({{0, '\n' - 1}, {'\n' + 1, kLast}});
    if (take("\\")) return grammar_.characters(escape());
    const int32_t c = character();
    return grammar_.characters({{c, c}});
  }

  GrammarSymbol repeated(const GrammarSymbol& what) {
    int64_t least = 1, most = 1;
    if (take("*")) {
      least = 0, most = -1;
    } else if (take("+")) {
      most = -1;
    } else if (take("?")) {
      least = 0;
    } else if (take("{")) {
      least = number();
      most = least;
      if (take(",")) most = next_is('}') ? -1 : number();
      expect(take("}") && (most < 0 || most >= least), "expected {m}, {m,} or {m,n} with m <= n");
    } else {
      return what;
    }
    take("?");  // how greedy a repetition is makes no other set of texts
    expect(!next_is('*') && !next_is('+') && !next_is('{'), "two repetitions in a row");
    return grammar_.repeat(what, least, most);
  }

  int64_t number() {
    int64_t value = 0;
    const size_t begin = at_;
    while (more() && pattern_[at_] >= '0' && pattern_[at_] <= '9' && value <= kMostRepeats)
      value = value * 10 + (pattern_[at_++] - '0');
    expect(at_ > begin && value <= kMostRepeats, "expected a count of at most 4096");
    return value;
  }

  int32_t hex(int digits) {
    int32_t value = 0;
    for (int i = 0; i < digits; ++i) {
      const int32_t c = character();
      const int32_t digit = c >= '0' && c <= '9'   ? c - '0'
                            : c >= 'a' && c <= 'f' ? c - 'a' + 10
                            : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                   : -1;
      expect(digit >= 0, "expected hexadecimal digits");
      value = value * 16 + digit;
    }
    return value;
  }

  /// Behind a backslash.
  Ranges escape() {
    const int32_t c = character();
    switch (c) {
      case 'd':
        return {{'0', '9'}};
      case 'D':
        return complement({{'0', '9'}});
      case 'w':
        return word_ranges();
      case 'W':
        return complement(word_ranges());
      case 's':
        return space_ranges();
      case 'S':
        return complement(space_ranges());
      case 'n':
        return {{'\n', '\n'}};
      case 't':
        return {{'\t', '\t'}};
      case 'r':
        return {{'\r', '\r'}};
      case 'f':
        return {{'\f', '\f'}};
      case 'v':
        return {{'\v', '\v'}};
      case 'x': {
        const int32_t value = hex(2);
        return {{value, value}};
      }
      case 'u': {
        const int32_t value = hex(4);
        return {{value, value}};
      }
      default:
        break;
    }
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    expect(!letter,
           "this escape is not supported (\\d \\w \\s \\D \\W \\S \\n \\t \\r \\f \\v "
           "\\xHH \\uHHHH are)");
    return {{c, c}};
  }

  /// Behind the [.
  Ranges character_class() {
    const bool negated = take("^");
    Ranges out;
    bool first = true;
    while (first || !next_is(']')) {
      first = false;
      const bool escaped = take("\\");
      Ranges one;
      if (escaped) {
        one = escape();
      } else {
        const int32_t c = character();
        one = {{c, c}};
      }
      const bool single = one.size() == 1 && one[0].first == one[0].second;
      if (single && next_is('-') && at_ + 1 < pattern_.size() && pattern_[at_ + 1] != ']') {
        ++at_;
        Ranges end;
        if (take("\\")) {
          end = escape();
        } else {
          const int32_t c = character();
          end = {{c, c}};
        }
        expect(end.size() == 1 && end[0].first == end[0].second && end[0].first >= one[0].first,
               "a range in [] goes from a character to a later one");
        one[0].second = end[0].first;
      }
      out.insert(out.end(), one.begin(), one.end());
      expect(more(), "a [ has no ]");
    }
    ++at_;
    out = negated ? complement(out) : merged(std::move(out));
    expect(!out.empty(), "no character is in this class");
    return out;
  }

  Grammar& grammar_;
  std::string_view pattern_;
  size_t at_ = 0;
};

}  // namespace

GrammarSymbol add_regex(Grammar& grammar, std::string_view pattern) {
  return RegexParser(grammar, pattern).whole();
}

}  // namespace euromodal
