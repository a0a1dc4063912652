// log.cpp — spdlog to stderr.
#include "core/log.h"

#include <memory>

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include "core/error.h"

namespace euromodal {
namespace {

spdlog::logger& log_instance() {
  static const std::shared_ptr<spdlog::logger> logger = [] {
    auto made = std::make_shared<spdlog::logger>(
        "euromodal", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
    made->set_pattern("%^%H:%M:%S %L%$ %v");
    return made;
  }();
  return *logger;
}

spdlog::level::level_enum log_spd(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarn:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
    case LogLevel::kOff:
      return spdlog::level::off;
  }
  return spdlog::level::info;
}

}  // namespace

void set_log_level(LogLevel level) { log_instance().set_level(log_spd(level)); }

LogLevel parse_log_level(const std::string& word) {
  if (word == "debug") return LogLevel::kDebug;
  if (word == "info") return LogLevel::kInfo;
  if (word == "warn") return LogLevel::kWarn;
  if (word == "error") return LogLevel::kError;
  if (word == "off") return LogLevel::kOff;
  throw ConfigError("log level '{}' is unknown; expected debug, info, warn, error or off", word);
}

void set_log_prefix(const std::string& prefix) {
  log_instance().set_pattern(prefix.empty() ? "%^%H:%M:%S %L%$ %v"
                                            : "%^%H:%M:%S %L%$ [" + prefix + "] %v");
}

void log_line(LogLevel level, std::string_view line) {
  log_instance().log(log_spd(level), spdlog::string_view_t(line.data(), line.size()));
}

}  // namespace euromodal
