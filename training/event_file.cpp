// event_file.cpp — see event_file.h.
#include "training/event_file.h"

#include <array>
#include <bit>
#include <chrono>
#include <cstring>

#include <unistd.h>

#include "core/error.h"

namespace euromodal {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

template <typename T>
std::string event_bytes(T value) {
  std::string out(sizeof value, '\0');
  std::memcpy(out.data(), &value, sizeof value);
  return out;
}

std::string event_varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>((value & 0x7F) | 0x80);
  return out + static_cast<char>(value);
}

// Protobuf wire types.
constexpr uint64_t kVarint = 0, kFixed64 = 1, kLength = 2, kFixed32 = 5;

std::string event_key(uint64_t field, uint64_t type) { return event_varint(field << 3 | type); }

std::string event_message(uint64_t field, std::string_view content) {
  return event_key(field, kLength) + event_varint(content.size()) + std::string(content);
}

/// wall_time and step of an Event.
std::string event_head(int64_t step) {
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  return event_key(1, kFixed64) + event_bytes(now.count()) + event_key(2, kVarint) +
         event_varint(static_cast<uint64_t>(step));
}

uint32_t event_masked_crc(std::string_view data) {
  const uint32_t crc = crc32c(data);
  return ((crc >> 15) | (crc << 17)) + 0xA282EAD8U;
}

}  // namespace

uint32_t crc32c(std::string_view data) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> out{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t c = i;
      for (int bit = 0; bit < 8; ++bit) c = (c & 1U) != 0 ? (c >> 1) ^ 0x82F63B78U : c >> 1;
      out[i] = c;
    }
    return out;
  }();
  uint32_t crc = 0xFFFFFFFFU;
  for (const char byte : data) crc = table[(crc ^ static_cast<uint8_t>(byte)) & 0xFF] ^ (crc >> 8);
  return ~crc;
}

EventFile::EventFile(const std::filesystem::path& dir, int64_t first_step) {
  char host[256] = {};
  ::gethostname(host, sizeof host - 1);
  const auto now = std::chrono::duration_cast<std::chrono::seconds>(
                       std::chrono::system_clock::now().time_since_epoch())
                       .count();
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  file_ = dir / fmt::format("events.out.tfevents.{:010}.{}.{}", now, host, ::getpid());
  out_.open(file_, std::ios::binary | std::ios::app);
  check(out_.good(), "{}: cannot be written", file_.string());
  record(event_head(0) + event_message(3, "brain.Event:2"));
  if (first_step > 0)  // SessionLog{status: START}
    record(event_head(first_step) + event_message(7, event_key(1, kVarint) + event_varint(1)));
}

void EventFile::scalars(int64_t step, const std::vector<std::pair<std::string, float>>& values) {
  std::string summary;
  for (const auto& [tag, value] : values)
    summary +=
        event_message(1, event_message(1, tag) + event_key(2, kFixed32) + event_bytes(value));
  record(event_head(step) + event_message(5, summary));
}

void EventFile::record(std::string_view data) {
  const std::string length = event_bytes(static_cast<uint64_t>(data.size()));
  out_ << length << event_bytes(event_masked_crc(length)) << data
       << event_bytes(event_masked_crc(data)) << std::flush;
  check(out_.good(), "{}: cannot be written (is the disk full?)", file_.string());
}

}  // namespace euromodal
