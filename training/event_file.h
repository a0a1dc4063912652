// event_file.h — a TensorBoard event file: TFRecord frames of Event messages, written without
// TensorFlow or protobuf. Formats: tensorflow/core/lib/io/record_writer.h (length, masked CRC32C of
// the length, data, masked CRC32C of the data), tensorflow/core/util/event.proto (fields 1
// wall_time, 2 step, 3 file_version, 5 summary, 7 session_log), summary.proto (1 value; in it 1
// tag, 2 simple_value).
#pragma once
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace euromodal {

class EventFile {
 public:
  /// A new file `dir`/events.out.tfevents.SECONDS.HOST.PID; `first_step` above 0 tells TensorBoard
  /// to forget what older files of the folder say of steps from there on. Error naming the file.
  EventFile(const std::filesystem::path& dir, int64_t first_step);
  /// Scalars of one step, on disk at once.
  void scalars(int64_t step, const std::vector<std::pair<std::string, float>>& values);

 private:
  void record(std::string_view data);
  std::filesystem::path file_;
  std::ofstream out_;
};

/// CRC-32C (Castagnoli), as in RFC 3720.
uint32_t crc32c(std::string_view data);

}  // namespace euromodal
