// config_yaml.cpp — a tree of config_tree.h as YAML that reads back to the same tree. Text stands
// plain only where no reader could take it for something else; all other text is in double quotes.
#include <algorithm>
#include <string_view>

#include "core/config_tree.h"

namespace euromodal {

namespace {

using Impl = Config::Impl;

bool yaml_alnum(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/// `flow`: inside [a, b].
bool yaml_plain(std::string_view text, bool flow) {
  if (text.empty() || text == "null" || text == "Null" || text == "NULL") return false;
  if (text.starts_with("---") || text.starts_with("...") || text.back() == ' ') return false;
  const char first = text[0];
  const bool dash = first == '-' && text.size() > 1 && text[1] != ' ';
  const bool word = std::string_view("_./$+(<=").find(first) != std::string_view::npos;
  if (!yaml_alnum(first) && !dash && !word) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (yaml_alnum(c)) continue;
    if (c == ':') {  // ends a key before a blank, and in flow before much else
      if (i + 1 == text.size() || text[i + 1] == ' ' || (flow && !yaml_alnum(text[i + 1])))
        return false;
    } else if (std::string_view(flow ? " _./$+-%@()=*~<>;!'\"|^" : " _./$+-%@()=*~<>;!?'\"|^{}[],")
                   .find(c) == std::string_view::npos) {
      return false;
    }
  }
  return true;
}

uint32_t yaml_next(std::string_view text, size_t& at) {  // valid UTF-8
  const auto lead = static_cast<unsigned char>(text[at++]);
  const int more = lead < 0xC0 ? 0 : lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3;
  uint32_t code = more == 0 ? lead : lead & (0x3FU >> more);
  for (int i = 0; i < more && at < text.size(); ++i)
    code = code << 6 | (static_cast<unsigned char>(text[at++]) & 0x3FU);
  return code;
}

/// Characters that readers drop, fold or refuse when they stand there themselves.
bool yaml_needs_escape(uint32_t code) {
  return code < 0x20 || (code >= 0x7F && code <= 0xA0) || code == 0x2028 || code == 0x2029 ||
         code == 0xFEFF || (code >= 0xFDD0 && code <= 0xFDEF) || (code & 0xFFFE) == 0xFFFE;
}

std::string yaml_quoted(std::string_view text) {
  std::string out = "\"";
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const uint32_t code = yaml_next(text, at);
    if (code == '"' || code == '\\') {
      out += {'\\', static_cast<char>(code)};
    } else if (code == '\n') {
      out += "\\n";
    } else if (code == '\t') {
      out += "\\t";
    } else if (yaml_needs_escape(code)) {
      out += code < 0x100     ? fmt::format("\\x{:02X}", code)
             : code < 0x10000 ? fmt::format("\\u{:04X}", code)
                              : fmt::format("\\U{:08X}", code);
    } else {
      out += text.substr(begin, at - begin);
    }
  }
  return out + "\"";
}

std::string yaml_text(const std::string& text, bool quoted, bool flow) {
  return !quoted && yaml_plain(text, flow) ? text : yaml_quoted(text);
}

bool yaml_simple(const Impl& node) {
  return node.kind == Impl::Kind::kScalar || node.kind == Impl::Kind::kNull;
}

/// What fits behind its key: scalars, lists of them, what is empty.
bool yaml_inline(const Impl& node) {
  const auto simple = [](const auto& entry) { return yaml_simple(*entry.second); };
  return node.entries.empty() || (node.kind == Impl::Kind::kList &&
                                  std::all_of(node.entries.begin(), node.entries.end(), simple));
}

void yaml_put_inline(const Impl& node, bool flow, std::string& out) {
  switch (node.kind) {
    case Impl::Kind::kNull:
      out += "~";
      break;
    case Impl::Kind::kScalar:
      out += yaml_text(node.scalar, node.quoted, flow);
      break;
    case Impl::Kind::kMap:
      out += "{}";
      break;
    case Impl::Kind::kList:
      out += "[";
      for (const auto& entry : node.entries) {
        if (&entry != node.entries.data()) out += ", ";
        yaml_put_inline(*entry.second, /*flow=*/true, out);
      }
      out += "]";
      break;
  }
}

/// Lines of a map or list; the first goes on where `out` ends.
void yaml_put_lines(const Impl& node, size_t indent, std::string& out) {
  for (const auto& entry : node.entries) {
    const auto& [key, value] = entry;
    const bool list = node.kind == Impl::Kind::kList, fits = yaml_inline(*value);
    if (&entry != node.entries.data()) out += "\n" + std::string(indent, ' ');
    out += list ? "-" : yaml_text(key, /*quoted=*/false, /*flow=*/false) + ":";
    out += list || fits ? " " : "\n" + std::string(indent + 2, ' ');
    if (fits) {
      yaml_put_inline(*value, /*flow=*/false, out);
    } else {
      yaml_put_lines(*value, indent + 2, out);
    }
  }
}

}  // namespace

std::string config_yaml(const Impl& node) {
  std::string out;
  yaml_inline(node) ? yaml_put_inline(node, /*flow=*/false, out) : yaml_put_lines(node, 0, out);
  return out + "\n";
}

bool config_same(const Impl& a, const Impl& b) {
  if (a.kind != b.kind || a.scalar != b.scalar || a.entries.size() != b.entries.size())
    return false;
  // Quotes that plain text needs anyway say nothing.
  if (a.quoted != b.quoted && yaml_plain(a.scalar, /*flow=*/true)) return false;
  for (size_t i = 0; i < a.entries.size(); ++i) {
    if (a.entries[i].first != b.entries[i].first ||
        !config_same(*a.entries[i].second, *b.entries[i].second))
      return false;
  }
  return true;
}

}  // namespace euromodal
