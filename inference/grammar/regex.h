// regex.h — a regular expression as a grammar of the texts that it matches from beginning to end.
#pragma once
#include <string_view>

#include "inference/grammar/grammar.h"

namespace euromodal {

/// Adds `pattern` to `grammar` and returns its symbol. Syntax of Python's re over whole characters:
/// literals, `.` (no line end), classes, \d \w \s and their opposites (\w \s of Unicode, \d 0-9),
/// escapes (\n \t \r \f \v \xHH \uHHHH), groups, |, * + ? {m} {m,} {m,n}, ^ at the beginning and $
/// at the end. ConfigError naming pattern and place for anything else (back references, looking
/// around, word boundaries) and for a broken pattern.
GrammarSymbol add_regex(Grammar& grammar, std::string_view pattern);

}  // namespace euromodal
