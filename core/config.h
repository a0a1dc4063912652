// config.h — strict, typed YAML. Every key must be read by somebody: finish() names the first one
// that was not, with file and line.
//
//   Config c = Config::load("configs/run.yaml", {"optimizer.lr=0.01"});
//   double lr = c.child("optimizer").f64("lr");
//   c.finish();
//
// Composition by reference: `key: {include: other.yaml}` (path relative to the file that says so)
// stands for that file's content; further keys beside `include` override the included ones, maps
// merged deeply. --set replaces (or adds) one value before anything is read.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"

namespace euromodal {

class Config {
 public:
  /// Reads `file`, resolves every `include`, applies `overrides` ("a.b=c", c is YAML). ConfigError
  /// with file:line on any fault.
  static Config load(const std::filesystem::path& file,
                     const std::vector<std::string>& overrides = {});
  static Config parse(const std::string& yaml, const std::string& name = "<text>");

  bool has(const std::string& key) const;  // present and not null (does not count as read)
  // Missing key, null or wrong type: ConfigError "file:line: a.b.key: expected ..., got ...". The
  // forms with a default return it when the key is missing.
  int64_t i64(const std::string& key) const;
  int64_t i64(const std::string& key, int64_t otherwise) const;
  double f64(const std::string& key) const;
  double f64(const std::string& key, double otherwise) const;
  bool boolean(const std::string& key) const;
  bool boolean(const std::string& key, bool otherwise) const;
  std::string str(const std::string& key) const;
  std::string str(const std::string& key, const std::string& otherwise) const;
  /// str() that must be one of `choices`.
  std::string choice(const std::string& key, const std::vector<std::string>& choices) const;
  std::vector<std::string> strs(const std::string& key) const;  // list of strings (or one string)
  std::vector<double> f64s(const std::string& key) const;
  /// A path: relative ones are taken relative to the working directory; $VAR and ${VAR} of the
  /// environment are replaced (unset: error).
  std::filesystem::path path(const std::string& key) const;

  Config child(const std::string& key) const;              // map below key; missing: error
  std::vector<Config> list(const std::string& key) const;  // list of maps below key; missing: empty
  std::vector<std::pair<std::string, Config>> items(
      const std::string& key) const;  // map of maps, in file order; missing: empty
  std::vector<std::string> keys() const;

  /// Throws ConfigError naming the first key, at any depth below this node, that nobody read.
  void finish() const;
  /// The whole config after includes and overrides, as YAML that load() reads back to the same.
  std::string dump() const;
  /// "file:line: a.b" of this node (or of its key), for messages of validators.
  std::string where(const std::string& key = "") const;

  struct Impl;  // internal

 private:
  explicit Config(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<Impl> impl_;
};

}  // namespace euromodal
