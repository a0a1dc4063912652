// jinja_nodes.h — a Jinja template as a flat list of literals, variables and statements: enough to
// tell whether a chat template is one that we know, however it is spelled.
#pragma once
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace euromodal {

struct JinjaNode {
  enum class Kind { kLiteral, kVariable, kStatement } kind;
  /// Literal: its text, neighbours joined. Variable and statement: the words in one spelling:
  /// message['role'] is message.role, double quotes are single ones, single spaces between words
  /// and none elsewhere.
  std::string text;
};

/// White space as transformers sets it: trim_blocks, lstrip_blocks, `-` marks. Variables named in
/// `values` become literals. False when the template uses more than output of sums and statements.
bool parse_jinja(std::string_view text, const std::map<std::string, std::string>& values,
                 std::vector<JinjaNode>& nodes);

}  // namespace euromodal
