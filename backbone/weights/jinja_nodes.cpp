// jinja_nodes.cpp — see jinja_nodes.h.
#include "backbone/weights/jinja_nodes.h"

#include <cctype>

namespace euromodal {
namespace {

constexpr std::string_view kBlank = " \t\n\r\f\v";

bool jinja_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

void jinja_trim(std::string_view& text) {
  while (!text.empty() && kBlank.find(text.front()) != std::string_view::npos)
    text.remove_prefix(1);
  while (!text.empty() && kBlank.find(text.back()) != std::string_view::npos) text.remove_suffix(1);
}

// The string literal at text[at], a quote; `at` moves behind it. False: it does not end.
bool jinja_string(std::string_view text, size_t& at, std::string& out) {
  const char quote = text[at++];
  for (; at < text.size(); ++at) {
    char c = text[at];
    if (c == quote) {
      ++at;
      return true;
    }
    if (c == '\\' && at + 1 < text.size()) {
      c = text[++at];
      if (c == 'n') c = '\n';
      if (c == 't') c = '\t';
      if (c == 'r') c = '\r';
    }
    out += c;
  }
  return false;
}

// One spelling of an expression or statement, with ['name'] as .name.
bool jinja_canonical(std::string_view text, std::string& out) {
  for (size_t at = 0; at < text.size();) {
    const char c = text[at];
    if (c == '\'' || c == '"') {
      std::string word;
      if (!jinja_string(text, at, word)) return false;
      size_t next = at;
      while (next < text.size() && kBlank.find(text[next]) != std::string_view::npos) ++next;
      if (out.ends_with('[') && next < text.size() && text[next] == ']') {
        out.back() = '.';
        out += word;
        at = next + 1;
      } else {
        out += "'" + word + "'";
      }
    } else if (kBlank.find(c) != std::string_view::npos) {
      while (at < text.size() && kBlank.find(text[at]) != std::string_view::npos) ++at;
      // a space only between two words
      if (at < text.size() && !out.empty() && (jinja_word(out.back()) || out.back() == ']') &&
          jinja_word(text[at]))
        out += ' ';
    } else {
      // 'x' and, !='system' and: the quote closed a word as well
      out += c;
      ++at;
    }
  }
  return true;
}

class JinjaParser {
 public:
  JinjaParser(std::string_view text, const std::map<std::string, std::string>& values,
              std::vector<JinjaNode>& nodes)
      : text_(text), values_(values), nodes_(nodes) {
    if (text_.ends_with('\n')) text_.remove_suffix(1);  // Jinja drops one newline at the end
  }

  bool parse() {
    while (at_ < text_.size()) {
      const size_t open = next_tag();
      std::string_view before = text_.substr(at_, open - at_);
      if (open == std::string_view::npos) {
        literal(before);
        return true;
      }
      const char kind = text_[open + 1];
      size_t begin = open + 2;
      const bool minus = begin < text_.size() && text_[begin] == '-';
      if (minus) {
        ++begin;
        while (!before.empty() && kBlank.find(before.back()) != std::string_view::npos)
          before.remove_suffix(1);
      } else if (kind != '{') {
        strip_line_start(before);
      }
      literal(before);
      const char* close = kind == '{' ? "}}" : kind == '%' ? "%}" : "#}";
      size_t end = find_close(begin, close, kind != '#');
      if (end == std::string_view::npos) return false;
      at_ = end + 2;
      const bool trim_after = end > begin && text_[end - 1] == '-';
      if (trim_after) {
        --end;
        while (at_ < text_.size() && kBlank.find(text_[at_]) != std::string_view::npos) ++at_;
      } else if (kind != '{' && at_ < text_.size() && text_[at_] == '\n') {
        ++at_;  // trim_blocks
      }
      if (kind == '#') continue;
      std::string_view inside = text_.substr(begin, end - begin);
      jinja_trim(inside);
      if (kind == '{' ? !output(inside) : !statement(inside)) return false;
    }
    return true;
  }

 private:
  size_t next_tag() const {
    for (size_t at = at_; at + 1 < text_.size(); ++at) {
      if (text_[at] == '{' &&
          (text_[at + 1] == '{' || text_[at + 1] == '%' || text_[at + 1] == '#'))
        return at;
    }
    return std::string_view::npos;
  }

  size_t find_close(size_t at, std::string_view close, bool strings) const {
    while (at + 1 < text_.size()) {
      if (strings && (text_[at] == '\'' || text_[at] == '"')) {
        std::string ignored;
        if (!jinja_string(text_, at, ignored)) return std::string_view::npos;
        continue;
      }
      if (text_.substr(at, 2) == close) return at;
      ++at;
    }
    return std::string_view::npos;
  }

  // lstrip_blocks: blanks between the line's start and the tag.
  void strip_line_start(std::string_view& before) const {
    std::string_view rest = before;
    while (!rest.empty() && (rest.back() == ' ' || rest.back() == '\t')) rest.remove_suffix(1);
    const bool line = rest.empty() ? at_ == 0 || text_[at_ - 1] == '\n' : rest.back() == '\n';
    if (line) before = rest;
  }

  void literal(std::string_view text) {
    if (text.empty()) return;
    if (!nodes_.empty() && nodes_.back().kind == JinjaNode::Kind::kLiteral)
      nodes_.back().text += text;
    else
      nodes_.push_back({JinjaNode::Kind::kLiteral, std::string(text)});
  }

  bool statement(std::string_view text) {
    JinjaNode node{JinjaNode::Kind::kStatement, ""};
    if (!jinja_canonical(text, node.text)) return false;
    nodes_.push_back(std::move(node));
    return true;
  }

  // a + b + c: each a string or a variable
  bool output(std::string_view text) {
    for (size_t at = 0; at < text.size();) {
      while (at < text.size() && kBlank.find(text[at]) != std::string_view::npos) ++at;
      if (at < text.size() && (text[at] == '\'' || text[at] == '"')) {
        std::string word;
        if (!jinja_string(text, at, word)) return false;
        literal(word);
      } else {
        const size_t begin = at;
        while (at < text.size() && text[at] != '+' && text[at] != '~') {
          if (text[at] == '\'' || text[at] == '"') {
            std::string ignored;
            if (!jinja_string(text, at, ignored)) return false;
          } else {
            ++at;
          }
        }
        std::string_view word = text.substr(begin, at - begin);
        jinja_trim(word);
        std::string name;
        if (word.empty() || !jinja_canonical(word, name)) return false;
        const auto value = values_.find(name);
        if (value != values_.end())
          literal(value->second);
        else
          nodes_.push_back({JinjaNode::Kind::kVariable, name});
      }
      while (at < text.size() && kBlank.find(text[at]) != std::string_view::npos) ++at;
      if (at == text.size()) return true;
      if (text[at] != '+' && text[at] != '~') return false;
      ++at;
    }
    return false;
  }

  std::string_view text_;
  const std::map<std::string, std::string>& values_;
  std::vector<JinjaNode>& nodes_;
  size_t at_ = 0;
};

}  // namespace

bool parse_jinja(std::string_view text, const std::map<std::string, std::string>& values,
                 std::vector<JinjaNode>& nodes) {
  return JinjaParser(text, values, nodes).parse();
}

}  // namespace euromodal
