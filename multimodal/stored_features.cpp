// stored_features.cpp — see stored_features.h.
#include "multimodal/stored_features.h"

#include <charconv>

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include "backbone/weights/safetensors_bytes.h"
#include "core/error.h"
#include "core/files.h"

namespace euromodal {
namespace {

std::string features_layout_text(const RowLayout& layout) {
  return fmt::format("{} {} {} {}", layout.frames, layout.height, layout.width, layout.prefix);
}

RowLayout features_layout(const std::string& text, const std::string& where) {
  int64_t values[4] = {};
  const char* at = text.data();
  const char* end = at + text.size();
  for (int64_t& value : values) {
    while (at < end && *at == ' ') ++at;
    const auto [after, error] = std::from_chars(at, end, value);
    check<DataError>(error == std::errc() && value >= 0 && value <= 1'000'000,
                     "{}: layout '{}': expected frames, height, width and prefix", where, text);
    at = after;
  }
  check<DataError>(at == end, "{}: layout '{}': expected four numbers", where, text);
  return {values[0], values[1], values[2], values[3]};
}

}  // namespace

FeatureFile feature_file(const std::vector<StoredFeatures>& items,
                         const FeatureIdentity& identity) {
  FeatureFile out;
  out.options.metadata["encoder"] = identity.encoder;
  out.options.metadata["features"] = identity.features;
  for (const StoredFeatures& item : items) {
    const std::string name = fmt::format("features.{}", out.tensors.size());
    out.options.metadata["layout." + name] = features_layout_text(item.layout);
    out.tensors.push_back({name, item.rows_LE});
  }
  return out;
}

StoredFeatures read_features(const MediaSource& source, const std::string& tensor,
                             const FeatureIdentity* want) {
  const std::string where = source.name + "#" + tensor;
  SafetensorsTensor found;
  try {
    if (source.in_memory) {
      found = read_safetensors_tensor(source.bytes, source.name, tensor);
    } else {
      const MappedFile file(source.name);
      found = read_safetensors_tensor(file.text(), source.name, tensor);
    }
  } catch (const DataError&) {
    throw;
  } catch (const Error& e) {
    throw DataError("{}", e.what());
  }
  const auto meta = [&](const std::string& key) -> const std::string& {
    const auto value = found.metadata.find(key);
    check<DataError>(value != found.metadata.end(),
                     "{}: its metadata have no '{}': were these features written by `euromodal "
                     "encode` or `data encode`?",
                     where, key);
    return value->second;
  };
  if (want != nullptr) {
    check<DataError>(meta("encoder") == want->encoder,
                     "{}: features of another encoder than the model's (weights, dtype or "
                     "preprocessing): {}, expected {}; make them anew: euromodal data encode",
                     where, meta("encoder"), want->encoder);
    check<DataError>(meta("features") == want->features,
                     "{}: features '{}' of the encoder, but the model takes '{}'", where,
                     meta("features"), want->features);
  }
  StoredFeatures out{found.tensor, features_layout(meta("layout." + tensor), where)};
  check<DataError>(out.rows_LE.dim() == 2 && out.rows_LE.size(0) == out.layout.rows() &&
                       at::isFloatingType(out.rows_LE.scalar_type()),
                   "{}: {} [{}], but its layout has {} rows", where,
                   c10::toString(out.rows_LE.scalar_type()), fmt::join(out.rows_LE.sizes(), ", "),
                   out.layout.rows());
  return out;
}

}  // namespace euromodal
