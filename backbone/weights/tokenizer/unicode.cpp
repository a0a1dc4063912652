// unicode.cpp — see unicode.h.
#include "backbone/weights/tokenizer/unicode.h"

#include <cstdlib>
#include <memory>

#include <utf8proc.h>

#include "core/error.h"
#include "core/files.h"

namespace euromodal {

size_t utf8_length(char first) {
  const auto c = static_cast<unsigned char>(first);
  return c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}

int32_t utf8_next(std::string_view text, size_t& at) {
  const size_t length = std::min(utf8_length(text[at]), text.size() - at);
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[at + i]); };
  int32_t c = length == 1   ? byte(0)
              : length == 2 ? byte(0) & 0x1F
              : length == 3 ? byte(0) & 0x0F
                            : byte(0) & 0x07;
  for (size_t i = 1; i < length; ++i) c = c << 6 | (byte(i) & 0x3F);
  at += length;
  return c;
}

void utf8_append(std::string& out, int32_t c) {
  utf8proc_uint8_t bytes[4];
  const auto length = utf8proc_encode_char(c, bytes);
  out.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(length));
}

std::string utf8_lossy(std::string_view bytes) {
  std::string out;
  for (;;) {
    const size_t bad = find_invalid_utf8(bytes);
    if (bad == std::string_view::npos) return out.append(bytes);
    out.append(bytes.substr(0, bad)).append("\xEF\xBF\xBD");
    // The longest start of a character counts as one fault.
    size_t length = 1;
    const auto first = static_cast<unsigned char>(bytes[bad]);
    if (first >= 0xC2 && first <= 0xF4) {
      const size_t wanted = utf8_length(bytes[bad]);
      while (length < wanted && bad + length < bytes.size()) {
        const auto c = static_cast<unsigned char>(bytes[bad + length]);
        unsigned char lo = 0x80, hi = 0xBF;
        if (length == 1) {
          if (first == 0xE0) lo = 0xA0;
          if (first == 0xED) hi = 0x9F;
          if (first == 0xF0) lo = 0x90;
          if (first == 0xF4) hi = 0x8F;
        }
        if (c < lo || c > hi) break;
        ++length;
      }
    }
    bytes.remove_prefix(bad + length);
  }
}

bool unicode_space(int32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool unicode_number(int32_t c) {
  const auto category = utf8proc_category(c);
  return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL ||
         category == UTF8PROC_CATEGORY_NO;
}

bool unicode_mark(int32_t c) {
  const auto category = utf8proc_category(c);
  return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC ||
         category == UTF8PROC_CATEGORY_ME;
}

bool unicode_word(int32_t c) {
  switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return c == 0x200C || c == 0x200D;
  }
}

void unicode_append_lower(std::string& out, int32_t c) {
  if (c == 0x130) {  // the only capital whose small form is two characters
    out += "i\xCC\x87";
    return;
  }
  utf8_append(out, utf8proc_tolower(c));
}

std::string unicode_normalize(std::string_view text, UnicodeForm form) {
  int options = UTF8PROC_STABLE;
  options |= form == UnicodeForm::kNfc || form == UnicodeForm::kNfkc ? UTF8PROC_COMPOSE
                                                                     : UTF8PROC_DECOMPOSE;
  if (form == UnicodeForm::kNfkc || form == UnicodeForm::kNfkd) options |= UTF8PROC_COMPAT;
  utf8proc_uint8_t* raw = nullptr;
  const auto length = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                   static_cast<utf8proc_ssize_t>(text.size()), &raw,
                                   static_cast<utf8proc_option_t>(options));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> hold(raw, &std::free);
  check<DataError>(length >= 0, "Unicode normalisation failed: {}", utf8proc_errmsg(length));
  return {reinterpret_cast<const char*>(raw), static_cast<size_t>(length)};
}

std::string replace_all(std::string_view text, std::string_view needle,
                        std::string_view replacement) {
  std::string out;
  size_t from = 0;
  for (size_t at = text.find(needle); at != std::string_view::npos; at = text.find(needle, from)) {
    out.append(text.substr(from, at - from)).append(replacement);
    from = at + needle.size();
  }
  return out.append(text.substr(from));
}

}  // namespace euromodal
