// config_tree.cpp — see config_tree.h. yaml-cpp parses.
#include "core/config_tree.h"

#include <yaml-cpp/yaml.h>

#include "core/files.h"

namespace euromodal {

namespace fs = std::filesystem;

namespace {

using Impl = Config::Impl;
using Node = ConfigNode;

constexpr size_t kLongestKey = 200;  // bytes; YAML itself wants less than 1024 characters
constexpr int64_t kMostNodes = 100'000;
constexpr int kMaxIncludes = 16;
constexpr int kMaxDepth = 64;

Node load_file(const fs::path& file, int includes);

// `nodes`: how many the file has so far; references to references (*a) can make them without end.
Node config_copy(const YAML::Node& yaml, const std::string& file, int includes, int64_t& nodes,
                 int depth = 0) {
  auto node = std::make_shared<Impl>();
  node->file = file;
  node->line = yaml.Mark().line + 1;
  check<ConfigError>(depth < kMaxDepth, "{}:{}: nested deeper than {}", file, node->line,
                     kMaxDepth);
  check<ConfigError>(++nodes <= kMostNodes, "{}:{}: more than {} values", file, node->line,
                     kMostNodes);
  if (yaml.IsScalar()) {
    node->kind = Impl::Kind::kScalar;
    node->scalar = yaml.Scalar();
    check<ConfigError>(find_invalid_utf8(node->scalar) == std::string::npos,
                       "{}:{}: an escape that is no character", file, node->line);
    node->quoted = yaml.Tag() == "!" || yaml.Tag() == "tag:yaml.org,2002:str";
  } else if (yaml.IsSequence()) {
    node->kind = Impl::Kind::kList;
    for (const auto& item : yaml)
      node->entries.emplace_back("", config_copy(item, file, includes, nodes, depth + 1));
  } else if (yaml.IsMap()) {
    node->kind = Impl::Kind::kMap;
    for (const auto& item : yaml) {
      const int line = item.first.Mark().line + 1;
      check<ConfigError>(item.first.IsScalar(), "{}:{}: a key must be a word", file, line);
      const std::string key = item.first.Scalar();
      check<ConfigError>(find_invalid_utf8(key) == std::string::npos,
                         "{}:{}: an escape that is no character", file, line);
      check<ConfigError>(key.size() <= kLongestKey, "{}:{}: a key of {} bytes; at most {}", file,
                         line, key.size(), kLongestKey);
      check<ConfigError>(!node->find(key), "{}:{}: {} stands twice", file, line, key);
      auto value = config_copy(item.second, file, includes, nodes, depth + 1);
      if (value->kind != Impl::Kind::kMap && value->kind != Impl::Kind::kList) value->line = line;
      node->entries.emplace_back(key, std::move(value));
    }
    if (const Impl* include = node->find("include");
        include && include->kind == Impl::Kind::kScalar) {
      check<ConfigError>(includes < kMaxIncludes,
                         "{}:{}: include: more than {} files deep; do they include each other?",
                         file, include->line, kMaxIncludes);
      const fs::path target = fs::path(file).parent_path() / include->scalar;
      std::error_code ignored;  // a name that is too long, say
      check<ConfigError>(fs::is_regular_file(target, ignored),
                         "{}:{}: include: there is no file {}", file, include->line,
                         target.string());
      auto base = load_file(target, includes + 1);
      std::erase_if(node->entries, [](const auto& entry) { return entry.first == "include"; });
      return node->entries.empty() ? base : config_merge(base, node);
    }
  }
  return node;
}

YAML::Node config_parse(const std::string& text, const std::string& file) {
  const size_t invalid = find_invalid_utf8(text);
  check<ConfigError>(invalid == std::string::npos, "{}: invalid UTF-8 at byte {}", file, invalid);
  try {
    return YAML::Load(text);
  } catch (const YAML::Exception& e) {
    throw ConfigError("{}:{}: not valid YAML: {}", file, e.mark.line + 1, e.msg);
  }
}

Node read_text_of(const std::string& text, const std::string& file, int includes) {
  int64_t nodes = 0;
  return config_copy(config_parse(text, file), file, includes, nodes);
}

Node load_file(const fs::path& file, int includes) {
  std::string text;
  try {
    text = read_text(file);
  } catch (const Error& e) {
    throw ConfigError(e.what());
  }
  return read_text_of(text, file.string(), includes);
}

}  // namespace

Node config_merge(const Node& base, const Node& over) {
  if (base->kind != Impl::Kind::kMap || over->kind != Impl::Kind::kMap) return over;
  for (const auto& [key, value] : over->entries) {
    bool found = false;
    for (auto& [name, old] : base->entries) {
      if (name == key) {
        old = config_merge(old, value);
        found = true;
      }
    }
    if (!found) base->entries.emplace_back(key, value);
  }
  base->file = over->file;
  base->line = over->line;
  return base;
}

Node config_read(const std::string& text, const std::string& file) {
  return read_text_of(text, file, 0);
}

Node config_load(const fs::path& file) { return load_file(file, 0); }

}  // namespace euromodal
