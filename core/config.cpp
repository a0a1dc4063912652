// config.cpp — see config.h: overrides, and typed access to the tree of config_tree.h.
#include "core/config.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <optional>

#include "core/config_tree.h"

namespace euromodal {

namespace fs = std::filesystem;

namespace {

using Impl = Config::Impl;
using Node = ConfigNode;

std::string config_join(const std::string& path, const std::string& key) {
  return path.empty() ? key : path + "." + key;
}

const char* config_kind(const Impl& node) {
  switch (node.kind) {
    case Impl::Kind::kNull:
      return "nothing";
    case Impl::Kind::kList:
      return "a list";
    case Impl::Kind::kMap:
      return "a map";
    case Impl::Kind::kScalar:
      break;
  }
  return "a scalar";
}

std::string config_got(const Impl& node) {
  return node.kind == Impl::Kind::kScalar ? "'" + node.scalar + "'" : config_kind(node);
}

void config_paths(const Node& node, const std::string& path) {
  node->path = path;
  size_t i = 0;
  for (auto& [key, value] : node->entries)
    config_paths(value, node->kind == Impl::Kind::kList ? fmt::format("{}[{}]", path, i++)
                                                        : config_join(path, key));
}

// "@LIST.N": entry N of the list stands over the root, maps merged deeply; the list itself and the
// entry's name go.
void config_select(const Node& root, const std::string& text) {
  const auto dot = std::min(text.rfind('.'), text.size());
  const std::string key = text.substr(1, dot - 1),
                    digits = text.substr(std::min(dot + 1, text.size()));
  size_t number = 0;
  const char* end = digits.data() + digits.size();
  const bool ok = std::from_chars(digits.data(), end, number).ptr == end && !digits.empty();
  const Node list = [&] {
    for (const auto& [name, value] : root->entries) {
      if (name == key && value->kind == Impl::Kind::kList && ok && number < value->entries.size())
        return value;
    }
    throw ConfigError("{}: {} names no entry of a list", root->file, text);
  }();
  const Node entry = list->entries[number].second;
  check<ConfigError>(entry->kind == Impl::Kind::kMap, "{}:{}: {}: expected a map, got {}",
                     entry->file, entry->line, key, config_got(*entry));
  std::erase_if(root->entries, [&](const auto& item) { return item.first == key; });
  std::erase_if(entry->entries, [](const auto& item) { return item.first == "name"; });
  config_merge(root, entry);
}

// "${NAME}=TEXT": every "${NAME}" inside a value becomes TEXT.
void config_substitute(const Node& node, const std::string& name, const std::string& text) {
  for (size_t at = 0; (at = node->scalar.find(name, at)) != std::string::npos; at += text.size())
    node->scalar.replace(at, name.size(), text);
  for (const auto& [key, value] : node->entries) config_substitute(value, name, text);
}

// "a.b=c": c is YAML. List entries are named by number: data.0.path=...
void config_override(const Node& root, const std::string& text) {
  if (text.starts_with('@')) return config_select(root, text);
  const auto eq = text.find('=');
  check<ConfigError>(eq != std::string::npos && eq > 0,
                     "--set {}: expected key=value, e.g. optimizer.lr=0.01", text);
  const std::string key = text.substr(0, eq);
  if (key.starts_with("${") && key.ends_with('}'))
    return config_substitute(root, key, text.substr(eq + 1));
  Node at = root;
  size_t begin = 0;
  while (true) {
    const size_t dot = key.find('.', begin);
    const std::string word = key.substr(begin, dot == std::string::npos ? dot : dot - begin);
    check<ConfigError>(!word.empty(), "--set {}: empty word in the key", text);
    Node* slot = nullptr;
    if (at->kind == Impl::Kind::kList) {
      size_t index = 0;
      const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), index);
      check<ConfigError>(
          error == std::errc() && end == word.data() + word.size() && index < at->entries.size(),
          "--set {}: {} is a list of {} entries, '{}' is none of its numbers", text,
          key.substr(0, begin ? begin - 1 : 0), at->entries.size(), word);
      slot = &at->entries[index].second;
    } else {
      if (at->kind == Impl::Kind::kNull) at->kind = Impl::Kind::kMap;
      check<ConfigError>(at->kind == Impl::Kind::kMap, "--set {}: {} is {}, not a map", text,
                         key.substr(0, begin ? begin - 1 : 0), config_got(*at));
      for (auto& [name, value] : at->entries) {
        if (name == word) slot = &value;
      }
      if (!slot) {
        at->entries.emplace_back(word, std::make_shared<Impl>());
        slot = &at->entries.back().second;
        (*slot)->file = "--set";
      }
    }
    if (dot == std::string::npos) {
      *slot = config_read(text.substr(eq + 1), "--set " + text);
      check<ConfigError>(
          word != "include" || (*slot)->kind != Impl::Kind::kScalar,
          "--set {}: files are included by files; set {{include: FILE}} as the value "
          "of the key above",
          text);
      return;
    }
    at = *slot;
    begin = dot + 1;
  }
}

const Impl* config_unread(const Impl& node) {
  for (const auto& [key, value] : node.entries) {
    if (!value->read) return value.get();
    if (const Impl* below = config_unread(*value)) return below;
  }
  return nullptr;
}

void config_mark(const Impl& node) {
  node.read = true;
  for (const auto& [key, value] : node.entries) config_mark(*value);
}

std::string config_where(const Impl& node, const std::string& key) {
  const Impl* value = key.empty() ? &node : node.find(key);
  return fmt::format("{}:{}: {}", (value ? *value : node).file, (value ? *value : node).line,
                     key.empty() ? node.path : config_join(node.path, key));
}

const Impl& config_require(const Impl& node, const std::string& key, const char* expected) {
  const Impl* value = node.find(key);
  if (!value || value->kind == Impl::Kind::kNull) {
    if (value) value->read = true;
    throw ConfigError("{}: is missing; expected {}", config_where(node, key), expected);
  }
  value->read = true;
  return *value;
}

[[noreturn]] void config_wrong(const Impl& value, const char* expected) {
  throw ConfigError("{}:{}: {}: expected {}, got {}", value.file, value.line, value.path, expected,
                    config_got(value));
}

std::optional<double> config_number(const Impl& value) {
  if (value.kind != Impl::Kind::kScalar || value.quoted) return std::nullopt;
  double out = 0.0;
  const char* begin = value.scalar.data();
  const char* end = begin + value.scalar.size();
  const auto [stop, error] = std::from_chars(begin, end, out);
  if (error != std::errc() || stop != end || !std::isfinite(out)) return std::nullopt;
  return out;
}

double config_f64(const Impl& value) {
  const auto number = config_number(value);
  if (!number) config_wrong(value, "a number");
  return *number;
}

std::string config_str(const Impl& value) {
  if (value.kind != Impl::Kind::kScalar) config_wrong(value, "a string");
  return value.scalar;
}

}  // namespace

Config Config::load(const fs::path& file, const std::vector<std::string>& overrides) {
  Node root = config_load(file);
  for (const auto& text : overrides) config_override(root, text);
  config_paths(root, "");
  check<ConfigError>(root->kind == Impl::Kind::kMap, "{}: expected a map of keys, got {}",
                     file.string(), config_got(*root));
  return Config(std::move(root));
}

Config Config::parse(const std::string& yaml, const std::string& name) {
  Node root = config_read(yaml, name);
  config_paths(root, "");
  check<ConfigError>(root->kind == Impl::Kind::kMap, "{}: expected a map of keys, got {}", name,
                     config_got(*root));
  return Config(std::move(root));
}

bool Config::has(const std::string& key) const {
  const Impl* value = impl_->find(key);
  if (value && value->kind == Impl::Kind::kNull)
    value->read = true;  // an explicit null is an answer
  return value && value->kind != Impl::Kind::kNull;
}

int64_t Config::i64(const std::string& key) const {
  const Impl& value = config_require(*impl_, key, "a whole number");
  int64_t out = 0;
  const char* begin = value.scalar.data();
  const char* end = begin + value.scalar.size();
  const auto [stop, error] = std::from_chars(begin, end, out);
  if (value.kind != Impl::Kind::kScalar || value.quoted || error != std::errc() || stop != end)
    config_wrong(value, "a whole number (64 bits)");
  return out;
}

int64_t Config::i64(const std::string& key, int64_t otherwise) const {
  return has(key) ? i64(key) : otherwise;
}

double Config::f64(const std::string& key) const {
  return config_f64(config_require(*impl_, key, "a number"));
}

double Config::f64(const std::string& key, double otherwise) const {
  return has(key) ? f64(key) : otherwise;
}

bool Config::boolean(const std::string& key) const {
  const Impl& value = config_require(*impl_, key, "true or false");
  if (value.kind == Impl::Kind::kScalar && !value.quoted && value.scalar == "true") return true;
  if (value.kind == Impl::Kind::kScalar && !value.quoted && value.scalar == "false") return false;
  config_wrong(value, "true or false");
}

bool Config::boolean(const std::string& key, bool otherwise) const {
  return has(key) ? boolean(key) : otherwise;
}

std::string Config::str(const std::string& key) const {
  return config_str(config_require(*impl_, key, "a string"));
}

std::string Config::str(const std::string& key, const std::string& otherwise) const {
  return has(key) ? str(key) : otherwise;
}

std::string Config::choice(const std::string& key, const std::vector<std::string>& choices) const {
  std::string word = str(key);
  std::string list;
  for (const auto& choice : choices) {
    if (choice == word) return word;
    list += (list.empty() ? "" : ", ") + choice;
  }
  throw ConfigError("{}: expected one of {}; got '{}'", where(key), list, word);
}

std::vector<std::string> Config::strs(const std::string& key) const {
  const Impl& value = config_require(*impl_, key, "a list of strings");
  if (value.kind == Impl::Kind::kScalar) return {value.scalar};
  if (value.kind != Impl::Kind::kList) config_wrong(value, "a list of strings");
  config_mark(value);
  std::vector<std::string> out;
  for (const auto& entry : value.entries) out.push_back(config_str(*entry.second));
  return out;
}

std::vector<double> Config::f64s(const std::string& key) const {
  const Impl& value = config_require(*impl_, key, "a list of numbers");
  if (value.kind != Impl::Kind::kList) config_wrong(value, "a list of numbers");
  config_mark(value);
  std::vector<double> out;
  for (const auto& entry : value.entries) out.push_back(config_f64(*entry.second));
  return out;
}

fs::path Config::path(const std::string& key) const {
  const std::string text = str(key);
  std::string out;
  for (size_t i = 0; i < text.size();) {
    if (text[i] != '$') {
      out += text[i++];
      continue;
    }
    const bool brace = i + 1 < text.size() && text[i + 1] == '{';
    size_t begin = i + (brace ? 2 : 1), end = begin;
    while (end < text.size() &&
           (std::isalnum(static_cast<unsigned char>(text[end])) || text[end] == '_'))
      ++end;
    const std::string name = text.substr(begin, end - begin);
    check<ConfigError>(!name.empty() && (!brace || (end < text.size() && text[end] == '}')),
                       "{}: '{}' holds a $ that names no variable", where(key), text);
    const char* value =
        std::getenv(name.c_str());  // NOLINT(concurrency-mt-unsafe): read before threads start
    check<ConfigError>(value != nullptr, "{}: the environment has no {}", where(key), name);
    out += value;
    i = end + (brace ? 1 : 0);
  }
  check<ConfigError>(!out.empty(), "{}: expected a path, got nothing", where(key));
  return out;
}

Config Config::child(const std::string& key) const {
  const Impl& value = config_require(*impl_, key, "a map");
  if (value.kind != Impl::Kind::kMap) config_wrong(value, "a map");
  for (const auto& entry : impl_->entries) {
    if (entry.first == key) return Config(entry.second);
  }
  throw ConfigError("{}: is missing; expected a map", where(key));
}

std::vector<Config> Config::list(const std::string& key) const {
  std::vector<Config> out;
  if (!has(key)) return out;
  const Impl& value = config_require(*impl_, key, "a list of maps");
  if (value.kind != Impl::Kind::kList) config_wrong(value, "a list of maps");
  for (const auto& entry : value.entries) {
    if (entry.second->kind != Impl::Kind::kMap) config_wrong(*entry.second, "a map");
    entry.second->read = true;
    out.push_back(Config(entry.second));
  }
  return out;
}

std::vector<std::pair<std::string, Config>> Config::items(const std::string& key) const {
  std::vector<std::pair<std::string, Config>> out;
  if (!has(key)) return out;
  const Config map = child(key);
  for (const auto& entry : map.impl_->entries) {
    if (entry.second->kind != Impl::Kind::kMap) config_wrong(*entry.second, "a map");
    entry.second->read = true;
    out.emplace_back(entry.first, Config(entry.second));
  }
  return out;
}

std::vector<std::string> Config::keys() const {
  std::vector<std::string> out;
  for (const auto& entry : impl_->entries) out.push_back(entry.first);
  return out;
}

void Config::finish() const {
  if (const Impl* unread = config_unread(*impl_))
    throw ConfigError("{}:{}: {}: unknown key", unread->file, unread->line, unread->path);
}

std::string Config::dump() const { return config_yaml(*impl_); }

std::string Config::where(const std::string& key) const { return config_where(*impl_, key); }

}  // namespace euromodal
