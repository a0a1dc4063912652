// safetensors_header.cpp — a strict reader of the header. Events instead of a document, because a
// document silently keeps the last of two equal names and takes any depth. The rules (no hole, no
// overlap, nothing behind the last tensor, at most 100 MB of header) are those of the reference
// implementation: https://github.com/huggingface/safetensors.
#include "backbone/weights/safetensors_header.h"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <unordered_set>
#include <utility>

#include <c10/core/ScalarType.h>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace euromodal {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kMaxRank = 64;

constexpr std::array<std::pair<const char*, at::ScalarType>, 10> kDtypes = {{
    {"F64", at::ScalarType::Double},
    {"F32", at::ScalarType::Float},
    {"F16", at::ScalarType::Half},
    {"BF16", at::ScalarType::BFloat16},
    {"I64", at::ScalarType::Long},
    {"I32", at::ScalarType::Int},
    {"I16", at::ScalarType::Short},
    {"I8", at::ScalarType::Char},
    {"U8", at::ScalarType::Byte},
    {"BOOL", at::ScalarType::Bool},
}};

// Takes the events of the JSON parser. Depth 1: names of tensors; 2: the keys of one tensor (or of
// __metadata__); 3: the numbers of a list.
class HeaderReader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderReader(std::string file, SafetensorsHeader& out) : file_(std::move(file)), out_(out) {}

  bool null() override { return wrong("null"); }
  bool boolean(bool) override { return wrong("a boolean"); }
  bool number_float(double, const std::string& word) override { return wrong(word); }
  bool binary(nlohmann::json::binary_t&) override { return wrong("binary"); }
  bool number_integer(int64_t value) override {
    fail("{} holds {}, expected a number >= 0 below 2^63", place(), value);
  }

  bool number_unsigned(uint64_t value) override {
    if (depth_ != 3) return wrong(fmt::format("{}", value));
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
      fail("{} holds {}, expected a number >= 0 below 2^63", place(), value);
    std::vector<uint64_t>& list = key_ == "shape" ? shape_ : offsets_;
    if (list.size() >= kMaxRank) fail("{} has more than {} entries", place(), kMaxRank);
    list.push_back(value);
    return true;
  }

  bool string(std::string& value) override {
    if (depth_ == 2 && name_ == "__metadata__") {
      out_.metadata[key_] = value;
      return true;
    }
    if (depth_ != 2 || key_ != "dtype") return wrong("a string");
    for (const auto& [word, dtype] : kDtypes) {
      if (value == word) dtype_ = dtype;
    }
    if (!dtype_)
      fail("tensor {}: dtype {} is not one of F64 F32 F16 BF16 I64 I32 I16 I8 U8 BOOL",
           shown_name(name_), shown_name(value));
    return true;
  }

  bool start_object(size_t) override {
    if (++depth_ > 2) return wrong("an object (nested too deep)");
    keys_.clear();
    dtype_.reset();
    shape_.clear();
    offsets_.clear();
    return true;
  }

  bool key(std::string& word) override {
    if (depth_ == 1) {
      name_ = word;
      key_.clear();
      if (!names_.insert(word).second) fail("tensor {} is there twice", shown_name(word));
      return true;
    }
    key_ = word;
    if (!keys_.insert(word).second) fail("{}: key {} is there twice", place(), shown_name(word));
    if (name_ != "__metadata__" && word != "dtype" && word != "shape" && word != "data_offsets")
      fail("tensor {}: unknown key {} (expected dtype, shape, data_offsets)", shown_name(name_),
           shown_name(word));
    return true;
  }

  bool end_object() override {
    if (--depth_ == 1 && name_ != "__metadata__") finish_tensor();
    return true;
  }

  bool start_array(size_t) override {
    if (depth_ != 2 || name_ == "__metadata__" || key_ == "dtype") return wrong("a list");
    depth_ = 3;
    return true;
  }

  bool end_array() override {
    depth_ = 2;
    return true;
  }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::json::exception& e) override {
    fail("header is not valid JSON at byte {}: {}", position, shown_name(e.what()));
  }

 private:
  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    throw CheckpointError(file_ + ": " + fmt::format(format, std::forward<Args>(args)...));
  }

  std::string place() const {
    if (name_ == "__metadata__" || depth_ == 0) return "header " + name_;
    return "tensor " + shown_name(name_) + (key_.empty() ? "" : " " + shown_name(key_));
  }

  bool wrong(const std::string& got) const {
    if (depth_ == 0) fail("header must be a JSON object, got {}", shown_name(got));
    if (name_ == "__metadata__") fail("__metadata__ must hold strings, got {}", shown_name(got));
    const char* expected = depth_ == 1                                 ? "an object"
                           : depth_ == 3                               ? "a whole number >= 0"
                           : key_ == "dtype"                           ? "a string"
                           : key_ == "shape" || key_ == "data_offsets" ? "a list of numbers"
                                                                       : "a known key";
    fail("{}: got {}, expected {}", place(), shown_name(got), expected);
  }

  void finish_tensor() {
    for (const char* key : {"dtype", "shape", "data_offsets"}) {
      if (keys_.count(key) == 0) fail("tensor {}: {} is missing", shown_name(name_), key);
    }
    if (offsets_.size() != 2 || offsets_[0] > offsets_[1])
      fail("tensor {}: data_offsets must be [begin, end] with begin <= end, got [{}]",
           shown_name(name_), fmt::join(offsets_, ", "));
    TensorInfo info;
    info.name = name_;
    info.dtype = *dtype_;
    info.begin = offsets_[0];
    info.end = offsets_[1];
    info.file = file_;
    // Zeros count as ones here: strides are products of the other dimensions and must fit as well.
    uint64_t bytes = c10::elementSize(info.dtype);
    bool empty = false;
    for (const uint64_t size : shape_) {
      empty = empty || size == 0;
      if (__builtin_mul_overflow(bytes, std::max<uint64_t>(size, 1), &bytes) ||
          bytes > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
        fail("tensor {}: shape [{}] overflows", shown_name(name_), fmt::join(shape_, ", "));
      info.shape.push_back(static_cast<int64_t>(size));
    }
    if (empty) bytes = 0;
    if (info.end - info.begin != bytes)
      fail("tensor {}: shape [{}] of {} takes {} bytes, data_offsets [{}, {}] span {}",
           shown_name(name_), fmt::join(shape_, ", "), safetensors_dtype_word(info.dtype), bytes,
           info.begin, info.end, info.end - info.begin);
    out_.infos.push_back(std::move(info));
  }

  std::string file_;
  SafetensorsHeader& out_;
  int depth_ = 0;
  std::unordered_set<std::string> names_, keys_;
  std::string name_, key_;
  std::optional<at::ScalarType> dtype_;
  std::vector<uint64_t> shape_, offsets_;
};

// The tensors must tile the data exactly.
void check_layout(std::vector<TensorInfo>& infos, uint64_t data_bytes, const std::string& file) {
  std::stable_sort(infos.begin(), infos.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t at = 0;
  const TensorInfo* before = nullptr;
  for (const TensorInfo& info : infos) {
    check<CheckpointError>(info.end <= data_bytes,
                           "{}: tensor {}: bytes {} to {} lie outside the {} bytes of data (the "
                           "file is truncated, or its header wrong)",
                           file, shown_name(info.name), info.begin, info.end, data_bytes);
    check<CheckpointError>(info.begin >= at, "{}: tensors {} and {} overlap at byte {}", file,
                           before ? shown_name(before->name) : "", shown_name(info.name),
                           info.begin);
    check<CheckpointError>(info.begin == at,
                           "{}: hole of {} bytes before tensor {} (bytes {} to {} belong to none)",
                           file, info.begin - at, shown_name(info.name), at, info.begin);
    at = info.end;
    before = &info;
  }
  check<CheckpointError>(at == data_bytes, "{}: {} bytes behind the last tensor", file,
                         data_bytes - at);
}

}  // namespace

std::string shown_name(std::string_view name) {
  constexpr size_t kLongest = 120;
  std::string out;
  for (const char c : name.substr(0, kLongest)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f)
      out += fmt::format("\\x{:02x}", byte);
    else
      out += c;
  }
  if (name.size() > kLongest) out += fmt::format("... ({} bytes)", name.size());
  return out;
}

const char* safetensors_dtype_word(at::ScalarType dtype) {
  for (const auto& [word, type] : kDtypes) {
    if (type == dtype) return word;
  }
  throw CheckpointError("safetensors: dtype {} cannot be stored", c10::toString(dtype));
}

SafetensorsHeader parse_safetensors_header(std::string_view bytes,
                                           const std::filesystem::path& file) {
  const std::string what = file.string();
  check<CheckpointError>(
      bytes.size() >= 8,
      "{}: truncated: {} bytes, a safetensors file starts with 8 bytes of header "
      "length",
      what, bytes.size());
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | static_cast<unsigned char>(bytes[i]);
  check<CheckpointError>(length <= kMaxHeaderBytes,
                         "{}: header length {} is above {} (not a safetensors file?)", what, length,
                         kMaxHeaderBytes);
  check<CheckpointError>(length <= bytes.size() - 8,
                         "{}: truncated: the header takes {} bytes, the file has {} behind its "
                         "length",
                         what, length, bytes.size() - 8);
  const std::string_view text = bytes.substr(8, length);
  check<CheckpointError>(!text.empty() && text.front() == '{',
                         "{}: the header does not start with '{{' (not a safetensors file?)", what);
  SafetensorsHeader header;
  header.data_begin = 8 + length;
  HeaderReader reader(what, header);
  nlohmann::json::sax_parse(text.begin(), text.end(), &reader);
  check_layout(header.infos, bytes.size() - header.data_begin, what);
  return header;
}

}  // namespace euromodal
