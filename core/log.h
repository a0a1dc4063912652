// log.h — the log goes to stderr, one line per event, key=value. Results go to stdout and never
// through here.
#pragma once
#include <string>
#include <string_view>

#include <fmt/format.h>

namespace euromodal {

enum class LogLevel { kDebug, kInfo, kWarn, kError, kOff };

void set_log_level(LogLevel level);
LogLevel parse_log_level(
    const std::string& word);  // "debug", "info", "warn", "error", "off"; else ConfigError
/// A prefix for every line, e.g. "rank 1"; empty: none.
void set_log_prefix(const std::string& prefix);
void log_line(LogLevel level, std::string_view line);

template <typename... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::kInfo, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void log_warn(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::kWarn, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void log_debug(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::kDebug, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace euromodal
