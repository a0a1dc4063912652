// gguf_header.cpp — the header of a GGUF file, parsed and checked in full: every length is held
// against what is left of the file before anything is allocated.
#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <unordered_set>

#include "backbone/weights/gguf.h"
#include "backbone/weights/safetensors_header.h"
#include "core/error.h"
#include "core/files.h"

namespace euromodal {
namespace {

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr uint64_t kDefaultAlignment = 32;
constexpr uint32_t kMostDimensions = 4;
constexpr uint64_t kLeastEntry = 8 + 4 + 1;       // bytes of a key's length, type, shortest value
constexpr uint64_t kLeastTensor = 8 + 4 + 4 + 8;  // name's length, dimensions, type, offset
constexpr const char* kAlignmentKey = "general.alignment";

/// Bytes of one number; 0: no number.
uint64_t gguf_size(GgufKind kind) {
  switch (kind) {
    case GgufKind::kU8:
    case GgufKind::kI8:
    case GgufKind::kBool:
      return 1;
    case GgufKind::kU16:
    case GgufKind::kI16:
      return 2;
    case GgufKind::kU32:
    case GgufKind::kI32:
    case GgufKind::kF32:
      return 4;
    case GgufKind::kU64:
    case GgufKind::kI64:
    case GgufKind::kF64:
      return 8;
    case GgufKind::kString:
    case GgufKind::kArray:
      return 0;
  }
  return 0;
}

template <typename T>
T gguf_read(const char* at) {
  T out;
  std::memcpy(&out, at, sizeof(T));
  return out;
}

/// The next bytes of the header; running out of them is an error that says where.
class GgufReader {
 public:
  GgufReader(std::string_view bytes, const std::string& file) : bytes_(bytes), file_(file) {}

  template <typename T>
  T number(const std::string& what) {
    return gguf_read<T>(take(sizeof(T), what).data());
  }
  std::string_view text(const std::string& what) {
    const auto length = number<uint64_t>(what + ": length");
    return take(length, what);
  }
  std::string_view take(uint64_t length, const std::string& what) {
    check<CheckpointError>(length <= left(),
                           "{}: truncated, or a wrong length: {} takes {} bytes at byte {}, the "
                           "file has {} more",
                           file_, what, length, at_, left());
    const std::string_view out = bytes_.substr(at_, length);
    at_ += length;
    return out;
  }
  uint64_t left() const { return bytes_.size() - at_; }
  uint64_t at() const { return at_; }

 private:
  std::string_view bytes_;
  const std::string& file_;
  uint64_t at_ = 0;
};

GgufKind read_kind(GgufReader& in, const std::string& file, const std::string& what) {
  const auto kind = in.number<uint32_t>(what + ": type");
  check<CheckpointError>(kind <= static_cast<uint32_t>(GgufKind::kF64),
                         "{}: {}: unknown type of value {} (0 to 12 are known)", file, what, kind);
  return static_cast<GgufKind>(kind);
}

GgufValue read_value(GgufReader& in, const std::string& file, const std::string& what) {
  GgufValue out;
  out.kind = read_kind(in, file, what);
  if (out.kind == GgufKind::kArray) {
    out.array = true;
    out.kind = read_kind(in, file, what + ": elements");
    check<CheckpointError>(out.kind != GgufKind::kArray, "{}: {}: lists of lists are not read here",
                           file, what);
    out.count = in.number<uint64_t>(what + ": number of elements");
    const uint64_t least =
        std::max<uint64_t>(gguf_size(out.kind), out.kind == GgufKind::kString ? 8 : 1);
    check<CheckpointError>(out.count <= in.left() / least,
                           "{}: {}: {} elements do not fit into the {} bytes that are left "
                           "(truncated, or a wrong count)",
                           file, what, out.count, in.left());
  }
  if (out.kind == GgufKind::kString) {
    if (!out.array) {
      out.bytes = in.text(what);
      return out;
    }
    for (uint64_t i = 0; i < out.count; ++i) out.strings.push_back(in.text(what));
    return out;
  }
  out.bytes = in.take(out.count * gguf_size(out.kind), what);
  return out;
}

GgufTensor read_tensor(GgufReader& in, const std::string& file, uint64_t number) {
  GgufTensor out;
  out.name = in.text(fmt::format("the name of tensor {}", number));
  const std::string what = "tensor " + shown_name(out.name);
  check<CheckpointError>(!out.name.empty(), "{}: tensor {} has no name", file, number);
  const auto dimensions = in.number<uint32_t>(what + ": dimensions");
  check<CheckpointError>(dimensions >= 1 && dimensions <= kMostDimensions,
                         "{}: {} has {} dimensions, expected 1 to {}", file, what, dimensions,
                         kMostDimensions);
  uint64_t elements = 1;
  bool fits = true;
  for (uint32_t d = 0; d < dimensions; ++d) {
    const auto size = in.number<uint64_t>(what + ": shape");
    check<CheckpointError>(size > 0, "{}: {}: dimension {} is 0", file, what, d);
    fits = fits && !__builtin_mul_overflow(elements, size, &elements) &&
           elements <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    out.shape.insert(out.shape.begin(), static_cast<int64_t>(size));
  }
  out.type = static_cast<GgmlType>(in.number<uint32_t>(what + ": type"));
  const auto block = ggml_block(out.type);
  check<CheckpointError>(block.has_value(), "{}: {}: unknown type of numbers {}", file, what,
                         static_cast<uint32_t>(out.type));
  out.begin = in.number<uint64_t>(what + ": offset");
  check<CheckpointError>(fits, "{}: {}: shape [{}] overflows", file, what,
                         fmt::join(out.shape, ", "));
  check<CheckpointError>(out.shape.back() % block->elements == 0,
                         "{}: {}: rows of {} elements are not whole blocks of {} ({})", file, what,
                         out.shape.back(), block->elements, block->name);
  check<CheckpointError>(
      !__builtin_mul_overflow(elements / block->elements, uint64_t{block->bytes}, &out.bytes),
      "{}: {}: shape [{}] overflows", file, what, fmt::join(out.shape, ", "));
  return out;
}

void check_tensors(GgufHeader& header, uint64_t data_bytes, uint64_t alignment) {
  const std::string& file = header.file;
  std::unordered_set<std::string_view> names;
  for (const GgufTensor& t : header.tensors) {
    const std::string shown = shown_name(t.name);
    check<CheckpointError>(names.insert(t.name).second, "{}: tensor {} is there twice", file,
                           shown);
    check<CheckpointError>(t.begin % alignment == 0,
                           "{}: tensor {}: offset {} is no multiple of the alignment {}", file,
                           shown, t.begin, alignment);
    check<CheckpointError>(t.begin <= data_bytes && t.bytes <= data_bytes - t.begin,
                           "{}: tensor {}: {} bytes at offset {} lie outside the {} bytes of data "
                           "(the file is truncated, or its header wrong)",
                           file, shown, t.bytes, t.begin, data_bytes);
  }
  std::stable_sort(header.tensors.begin(), header.tensors.end(),
                   [](const GgufTensor& a, const GgufTensor& b) { return a.begin < b.begin; });
  for (size_t i = 1; i < header.tensors.size(); ++i) {
    const GgufTensor &a = header.tensors[i - 1], &b = header.tensors[i];
    check<CheckpointError>(a.begin + a.bytes <= b.begin, "{}: tensors {} and {} overlap at byte {}",
                           file, shown_name(a.name), shown_name(b.name), b.begin);
  }
}

double gguf_number(const GgufValue& value, uint64_t index) {
  const char* at = value.bytes.data() + index * gguf_size(value.kind);
  switch (value.kind) {
    case GgufKind::kU8:
    case GgufKind::kBool:
      return gguf_read<uint8_t>(at);
    case GgufKind::kI8:
      return gguf_read<int8_t>(at);
    case GgufKind::kU16:
      return gguf_read<uint16_t>(at);
    case GgufKind::kI16:
      return gguf_read<int16_t>(at);
    case GgufKind::kU32:
      return gguf_read<uint32_t>(at);
    case GgufKind::kI32:
      return gguf_read<int32_t>(at);
    case GgufKind::kU64:
      return static_cast<double>(gguf_read<uint64_t>(at));
    case GgufKind::kI64:
      return static_cast<double>(gguf_read<int64_t>(at));
    case GgufKind::kF32:
      return gguf_read<float>(at);
    case GgufKind::kF64:
      return gguf_read<double>(at);
    case GgufKind::kString:
    case GgufKind::kArray:
      break;
  }
  return 0.0;
}

bool gguf_whole(GgufKind kind) {
  return kind != GgufKind::kF32 && kind != GgufKind::kF64 && kind != GgufKind::kBool &&
         kind != GgufKind::kString;
}

const GgufValue& gguf_value(const GgufHeader& header, std::string_view key,
                            bool fits(const GgufValue&), const char* expected) {
  const auto found = header.values.find(key);
  check<CheckpointError>(found != header.values.end(), "{}: key {} is missing", header.file, key);
  check<CheckpointError>(fits(found->second), "{}: key {}: expected {}", header.file, key,
                         expected);
  return found->second;
}

}  // namespace

bool GgufHeader::has(std::string_view key) const { return values.find(key) != values.end(); }

int64_t GgufHeader::size(std::string_view key) const {
  const auto whole = [](const GgufValue& v) { return !v.array && gguf_whole(v.kind); };
  const double value = gguf_number(gguf_value(*this, key, whole, "one whole number"), 0);
  check<CheckpointError>(value >= 0.0 && value < 0x1p40,
                         "{}: key {} is {:.0f}, expected a number from 0 to below 2^40", file, key,
                         value);
  return static_cast<int64_t>(value);
}

int64_t GgufHeader::size(std::string_view key, int64_t otherwise) const {
  return has(key) ? size(key) : otherwise;
}

double GgufHeader::f64(std::string_view key) const {
  const auto real = [](const GgufValue& v) {
    return !v.array && v.kind != GgufKind::kString && v.kind != GgufKind::kBool;
  };
  return gguf_number(gguf_value(*this, key, real, "one number"), 0);
}

double GgufHeader::f64(std::string_view key, double otherwise) const {
  return has(key) ? f64(key) : otherwise;
}

bool GgufHeader::boolean(std::string_view key, bool otherwise) const {
  if (!has(key)) return otherwise;
  const auto truth = [](const GgufValue& v) { return !v.array && v.kind == GgufKind::kBool; };
  return gguf_number(gguf_value(*this, key, truth, "true or false"), 0) != 0.0;
}

std::string GgufHeader::str(std::string_view key, std::string otherwise) const {
  if (!has(key)) return otherwise;
  const auto text = [](const GgufValue& v) { return !v.array && v.kind == GgufKind::kString; };
  const std::string out(gguf_value(*this, key, text, "a text").bytes);
  check<CheckpointError>(find_invalid_utf8(out) == std::string::npos,
                         "{}: key {} is not valid UTF-8", file, key);
  return out;
}

const std::vector<std::string_view>& GgufHeader::strings(std::string_view key) const {
  const auto texts = [](const GgufValue& v) { return v.array && v.kind == GgufKind::kString; };
  return gguf_value(*this, key, texts, "a list of texts").strings;
}

std::vector<double> GgufHeader::numbers(std::string_view key) const {
  const auto list = [](const GgufValue& v) { return v.array && v.kind != GgufKind::kString; };
  const GgufValue& value = gguf_value(*this, key, list, "a list of numbers");
  std::vector<double> out;
  for (uint64_t i = 0; i < value.count; ++i) out.push_back(gguf_number(value, i));
  return out;
}

GgufHeader parse_gguf_header(std::string_view bytes, const std::filesystem::path& file) {
  GgufHeader header;
  header.file = file.string();
  GgufReader in(bytes, header.file);
  check<CheckpointError>(bytes.size() >= 4 && in.number<uint32_t>("magic") == kMagic,
                         "{}: is neither a model folder nor a GGUF file (it starts with '{}', "
                         "expected 'GGUF')",
                         header.file, shown_name(bytes.substr(0, 4)));
  const auto version = in.number<uint32_t>("version");
  check<CheckpointError>(version == 2 || version == 3,
                         "{}: GGUF version {}; 2 and 3 are read here{}", header.file, version,
                         (version & 0xFFFFU) == 0 ? " (a file for big-endian machines?)" : "");
  const auto tensors = in.number<uint64_t>("number of tensors");
  const auto entries = in.number<uint64_t>("number of keys");
  check<CheckpointError>(tensors <= in.left() / kLeastTensor && entries <= in.left() / kLeastEntry,
                         "{}: {} tensors and {} keys do not fit into the {} bytes of the file "
                         "(truncated, or wrong counts)",
                         header.file, tensors, entries, bytes.size());
  for (uint64_t i = 0; i < entries; ++i) {
    const std::string key(in.text(fmt::format("key {}", i)));
    check<CheckpointError>(!key.empty(), "{}: key {} is empty", header.file, i);
    const std::string what = "key " + shown_name(key);
    const bool added = header.values.emplace(key, read_value(in, header.file, what)).second;
    check<CheckpointError>(added, "{}: {} is there twice", header.file, what);
  }
  const auto alignment =
      static_cast<uint64_t>(header.size(kAlignmentKey, static_cast<int64_t>(kDefaultAlignment)));
  check<CheckpointError>(std::has_single_bit(alignment) && alignment <= (uint64_t{1} << 20),
                         "{}: {} is {}, expected a power of two", header.file, kAlignmentKey,
                         alignment);
  for (uint64_t i = 0; i < tensors; ++i) header.tensors.push_back(read_tensor(in, header.file, i));
  header.data_begin = (in.at() + alignment - 1) / alignment * alignment;
  // A file without tensors may end before the padding.
  const uint64_t data = bytes.size() - std::min<uint64_t>(header.data_begin, bytes.size());
  check_tensors(header, data, alignment);
  return header;
}

}  // namespace euromodal
