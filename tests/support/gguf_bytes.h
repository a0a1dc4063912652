// gguf_bytes.h — writes GGUF files key by key for tests, also such as no writer would: counts,
// lengths, types and offsets are what the test says.
#pragma once
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

namespace euromodal::testing_support {

struct GgufTensorFaults {
  uint32_t type = 0;  // F32
  std::optional<uint64_t> offset = std::nullopt;
};

class GgufBytes {
 public:
  GgufBytes& version(uint32_t version) {
    version_ = version;
    return *this;
  }
  /// Instead of what there is.
  GgufBytes& counts(uint64_t tensors, uint64_t keys) {
    wrong_tensors_ = tensors;
    wrong_keys_ = keys;
    return *this;
  }
  GgufBytes& u32(const std::string& key, uint32_t value) { return entry(key, 4, raw(value)); }
  GgufBytes& i32(const std::string& key, int32_t value) { return entry(key, 5, raw(value)); }
  GgufBytes& f32(const std::string& key, float value) { return entry(key, 6, raw(value)); }
  GgufBytes& boolean(const std::string& key, bool value) {
    return entry(key, 7, raw(static_cast<uint8_t>(value)));
  }
  GgufBytes& text(const std::string& key, const std::string& value) {
    return entry(key, 8, word(value));
  }
  /// A text that claims this length.
  GgufBytes& text_length(const std::string& key, uint64_t length) {
    return entry(key, 8, raw(length));
  }
  /// The head of an array, without its elements.
  GgufBytes& array(const std::string& key, uint32_t type, uint64_t count) {
    return entry(key, 9, raw(type) + raw(count));
  }
  GgufBytes& texts(const std::string& key, const std::vector<std::string>& values) {
    std::string all = raw(uint32_t{8}) + raw(uint64_t{values.size()});
    for (const std::string& value : values) all += word(value);
    return entry(key, 9, all);
  }
  GgufBytes& f32s(const std::string& key, const std::vector<float>& values) {
    std::string all = raw(uint32_t{6}) + raw(uint64_t{values.size()});
    for (const float value : values) all += raw(value);
    return entry(key, 9, all);
  }

  /// `shape` as the file has it, the contiguous dimension first; 1 kB of data for each.
  GgufBytes& tensor(const std::string& name, const std::vector<uint64_t>& shape,
                    GgufTensorFaults faults = {}) {
    tensors_ += word(name) + raw(static_cast<uint32_t>(shape.size()));
    for (const uint64_t size : shape) tensors_ += raw(size);
    tensors_ += raw(faults.type) + raw(faults.offset.value_or(num_tensors_ * 1024));
    ++num_tensors_;
    return *this;
  }

  std::string finish() const {
    std::string out = "GGUF" + raw(version_) + raw(wrong_tensors_.value_or(num_tensors_)) +
                      raw(wrong_keys_.value_or(num_keys_)) + keys_ + tensors_;
    if (num_tensors_ == 0) return out;
    out.resize((out.size() + 31) / 32 * 32 + num_tensors_ * 1024);
    return out;
  }

 private:
  template <typename T>
  static std::string raw(T value) {
    std::string out(sizeof(T), '\0');
    std::memcpy(out.data(), &value, sizeof(T));
    return out;
  }
  static std::string word(const std::string& text) { return raw(uint64_t{text.size()}) + text; }
  GgufBytes& entry(const std::string& key, uint32_t type, const std::string& value) {
    keys_ += word(key) + raw(type) + value;
    ++num_keys_;
    return *this;
  }

  uint32_t version_ = 3;
  uint64_t num_keys_ = 0, num_tensors_ = 0;
  std::optional<uint64_t> wrong_tensors_, wrong_keys_;
  std::string keys_, tensors_;
};

}  // namespace euromodal::testing_support
