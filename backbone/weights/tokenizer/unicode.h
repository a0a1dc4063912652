// unicode.h — the few Unicode questions that tokenisers ask, answered by utf8proc.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace euromodal {

/// The character at text[at]; `at` moves behind it. The text must be valid UTF-8.
int32_t utf8_next(std::string_view text, size_t& at);
/// Bytes of the character that starts with this byte.
size_t utf8_length(char first);
void utf8_append(std::string& out, int32_t c);
/// Invalid stretches become U+FFFD, one for each maximal part of a broken character.
std::string utf8_lossy(std::string_view bytes);

bool unicode_space(int32_t c);   // White_Space
bool unicode_number(int32_t c);  // Nd, Nl, No
bool unicode_word(int32_t c);    // \w: letters, marks, digits, connectors
bool unicode_mark(int32_t c);    // Mn, Mc, Me
void unicode_append_lower(std::string& out, int32_t c);

enum class UnicodeForm { kNfc, kNfd, kNfkc, kNfkd };
std::string unicode_normalize(std::string_view text, UnicodeForm form);

/// `needle` (not empty) by `replacement`, everywhere.
std::string replace_all(std::string_view text, std::string_view needle,
                        std::string_view replacement);

}  // namespace euromodal
