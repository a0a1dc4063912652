// config_tree.h — what a Config is made of: a small tree that remembers file and line of every
// value (also across includes) and whether it was read. Internal to core.
#pragma once
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/config.h"

namespace euromodal {

struct Config::Impl {
  enum class Kind { kNull, kScalar, kList, kMap } kind = Kind::kNull;
  std::string scalar;
  bool quoted = false;  // "1" is a string, 1 a number
  std::vector<std::pair<std::string, std::shared_ptr<Impl>>>
      entries;             // map (in file order), or list with empty keys
  std::string file, path;  // path: "optimizer.lr"
  int line = 0;
  mutable bool read = false;

  Impl* find(const std::string& key) const {
    for (const auto& [name, value] : entries) {
      if (name == key) return value.get();
    }
    return nullptr;
  }
};

using ConfigNode = std::shared_ptr<Config::Impl>;

/// `over` wins; maps merge deeply.
ConfigNode config_merge(const ConfigNode& base, const ConfigNode& over);
/// YAML with its includes. ConfigError with file and line: not valid, nested too deep, too many
/// values, a key twice.
ConfigNode config_read(const std::string& text, const std::string& file);
ConfigNode config_load(const std::filesystem::path& file);
/// The tree as YAML that config_read() reads back to the same.
std::string config_yaml(const Config::Impl& node);
/// The same keys, kinds and texts, which would be read alike (files, lines and marks aside).
bool config_same(const Config::Impl& a, const Config::Impl& b);

}  // namespace euromodal
