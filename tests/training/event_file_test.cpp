// event_file_test.cpp — a TensorBoard event file read back by a decoder that shares nothing with
// the writer: frames, masked checksums (CRC-32C computed bit by bit), protobuf fields.
#include "training/event_file.h"

#include <bit>
#include <cstring>
#include <map>

#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/support/temp.h"

namespace euromodal {
namespace {

uint32_t slow_crc32c(const std::string& data) {
  uint32_t crc = ~0U;
  for (const char byte : data) {
    for (int bit = 0; bit < 8; ++bit) {
      const bool one = ((crc ^ (static_cast<uint8_t>(byte) >> bit)) & 1U) != 0;
      crc = (crc >> 1) ^ (one ? 0x82F63B78U : 0U);
    }
  }
  return ~crc;
}

template <typename T>
T read_number(const std::string& bytes, size_t at) {
  T out{};
  std::memcpy(&out, bytes.data() + at, sizeof out);
  return out;
}

uint32_t unmasked(uint32_t masked) {
  const uint32_t rotated = masked - 0xA282EAD8U;
  return (rotated >> 17) | (rotated << 15);
}

/// The frames of a file; checks lengths and checksums.
std::vector<std::string> frames_of(const std::string& bytes) {
  std::vector<std::string> out;
  for (size_t at = 0; at < bytes.size();) {
    EXPECT_LE(at + 12, bytes.size());
    const auto length = read_number<uint64_t>(bytes, at);
    EXPECT_EQ(unmasked(read_number<uint32_t>(bytes, at + 8)), slow_crc32c(bytes.substr(at, 8)));
    const std::string data = bytes.substr(at + 12, length);
    EXPECT_EQ(data.size(), length);
    EXPECT_EQ(unmasked(read_number<uint32_t>(bytes, at + 12 + length)), slow_crc32c(data));
    out.push_back(data);
    at += 16 + length;
  }
  return out;
}

/// Fields of a protobuf message: numbers as they stand (fixed32/64 as bits), strings as bytes.
struct Field {
  uint64_t number = 0;
  std::string bytes;
};
std::multimap<uint64_t, Field> fields_of(const std::string& message) {
  std::multimap<uint64_t, Field> out;
  size_t at = 0;
  const auto varint = [&] {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = static_cast<uint8_t>(message.at(at++));
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < message.size()) {
    const uint64_t key = varint();
    Field field;
    if (key % 8 == 0) field.number = varint();
    if (key % 8 == 1) field.number = read_number<uint64_t>(message, at), at += 8;
    if (key % 8 == 5) field.number = read_number<uint32_t>(message, at), at += 4;
    if (key % 8 == 2) {
      const uint64_t length = varint();
      field.bytes = message.substr(at, length);
      at += length;
    }
    out.emplace(key / 8, field);
  }
  EXPECT_EQ(at, message.size());
  return out;
}

std::string only_file(const std::filesystem::path& dir) {
  std::string out;
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(dir)) {
    EXPECT_NE(entry.path().filename().string().find("tfevents"), std::string::npos);
    out = read_bytes(entry.path());
    ++count;
  }
  EXPECT_EQ(count, 1);
  return out;
}

TEST(EventFileTest, ScalarsComeBackAsTheyWereWritten) {
  const TempDir dir;
  {
    EventFile file(dir / "tensorboard", /*first_step=*/0);
    file.scalars(7, {{"train/loss", 2.5F}, {"train/größe", -1e-30F}});
    file.scalars(300'000'000'000, {{"validation/loss", 0.1F}});
  }
  const auto frames = frames_of(only_file(dir / "tensorboard"));
  ASSERT_EQ(frames.size(), 3U);
  EXPECT_EQ(fields_of(frames[0]).find(3)->second.bytes, "brain.Event:2");
  const auto event = fields_of(frames[1]);
  EXPECT_EQ(event.find(2)->second.number, 7U);
  EXPECT_GT(std::bit_cast<double>(event.find(1)->second.number), 1.7e9);  // seconds since 1970
  const auto summary = fields_of(event.find(5)->second.bytes);
  ASSERT_EQ(summary.count(1), 2U);
  std::map<std::string, float> values;
  for (const auto& [number, field] : summary) {
    const auto value = fields_of(field.bytes);
    values[value.find(1)->second.bytes] =
        std::bit_cast<float>(static_cast<uint32_t>(value.find(2)->second.number));
  }
  EXPECT_EQ(values, (std::map<std::string, float>{{"train/loss", 2.5F}, {"train/größe", -1e-30F}}));
  EXPECT_EQ(fields_of(frames[2]).find(2)->second.number, 300'000'000'000U);
}

TEST(EventFileTest, AResumedRunTellsWhereItGoesOn) {
  const TempDir dir;
  { EventFile file(dir.path(), /*first_step=*/40); }
  const auto frames = frames_of(only_file(dir.path()));
  ASSERT_EQ(frames.size(), 2U);
  const auto event = fields_of(frames[1]);
  EXPECT_EQ(event.find(2)->second.number, 40U);
  EXPECT_EQ(fields_of(event.find(7)->second.bytes).find(1)->second.number, 1U);  // START
}

TEST(EventFileTest, Crc32cOfTheStandardsExamples) {
  EXPECT_EQ(crc32c("123456789"), 0xE3069283U);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAU);  // RFC 3720, B.4
  EXPECT_EQ(crc32c(std::string(32, '\xFF')), 0x62A8AB43U);
}

TEST(EventFileTest, AFolderThatCannotBeIsNamed) {
  const TempDir dir;
  dir.write("tensorboard", "a file");
  EXPECT_TRUE(throws_with<Error>([&] { EventFile(dir / "tensorboard", 0); }, {"tensorboard"}));
}

}  // namespace
}  // namespace euromodal
