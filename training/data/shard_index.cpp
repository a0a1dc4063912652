// shard_index.cpp — reading, checking and writing of index.json; hashes and cost of a sample.
#include "training/data/shard_index.h"

#include <algorithm>

#include "core/files.h"
#include "core/json.h"

namespace euromodal {
namespace {

constexpr const char* kIndexFormat = "euromodal-shards";
constexpr int64_t kIndexVersion = 1;

int64_t index_number(const Json& value, const std::string& where) {
  check<DataError>(value.is_number_integer() &&
                       (!value.is_number_unsigned() || value.get<uint64_t>() <= uint64_t{1} << 62),
                   "{}: expected a whole number, got {}", where, value.dump());
  const auto number = value.get<int64_t>();
  check<DataError>(number >= 0, "{}: expected 0 or more, got {}", where, number);
  return number;
}

std::string index_text(const Json& value, const std::string& where) {
  check<DataError>(value.is_string(), "{}: expected a string, got {}", where, value.dump());
  return value.get<std::string>();
}

MemberSpan index_member(std::string suffix, const Json& offset, const Json& bytes,
                        const std::string& where) {
  return {std::move(suffix), index_number(offset, where), index_number(bytes, where)};
}

SampleEntry index_sample(const Json& row, const std::vector<ShardEntry>& shards,
                         const std::string& where) {
  check<DataError>(row.is_array() && row.size() == 7 && row[6].is_array(),
                   "{}: expected [shard, stem, cost, hash, offset, bytes, media]", where);
  SampleEntry sample;
  sample.shard = index_number(row[0], where);
  check<DataError>(sample.shard < static_cast<int64_t>(shards.size()), "{}: shard {} of {} shards",
                   where, sample.shard, shards.size());
  sample.stem = index_text(row[1], where);
  sample.cost = std::max<int64_t>(index_number(row[2], where), 1);
  sample.hash = index_text(row[3], where);
  sample.record = index_member(".json", row[4], row[5], where);
  for (const Json& medium : row[6]) {
    check<DataError>(medium.is_array() && medium.size() == 3,
                     "{}: expected media as [suffix, offset, bytes]", where);
    sample.media.push_back(index_member(index_text(medium[0], where), medium[1], medium[2], where));
  }
  const ShardEntry& shard = shards[sample.shard];
  const auto inside = [&](const MemberSpan& m) {
    return m.bytes <= shard.bytes && m.offset <= shard.bytes - m.bytes;
  };
  check<DataError>(
      inside(sample.record) && std::all_of(sample.media.begin(), sample.media.end(), inside),
      "{}: bytes outside {} ({} bytes)", where, shard.file, shard.bytes);
  return sample;
}

Json index_row(const SampleEntry& sample) {
  Json media = Json::array();
  for (const MemberSpan& m : sample.media)
    media.push_back(Json::array({m.suffix, m.offset, m.bytes}));
  return Json::array({sample.shard, sample.stem, sample.cost, sample.hash, sample.record.offset,
                      sample.record.bytes, std::move(media)});
}

}  // namespace

ShardIndex read_shard_index(const std::filesystem::path& file) {
  const std::string name = file.string();
  Json json;
  try {
    json = read_json(file);
  } catch (const Error& e) {
    throw DataError("{}", e.what());
  }
  check<DataError>(json.is_object() && json.contains("format") && json["format"] == kIndexFormat,
                   "{}: no index of shards (expected \"format\": \"{}\")", name, kIndexFormat);
  check<DataError>(json.contains("version") && json["version"] == kIndexVersion,
                   "{}: expected version {}; make it anew: euromodal data index {}", name,
                   kIndexVersion, file.parent_path().string());
  check<DataError>(json.contains("shards") && json["shards"].is_array() &&
                       json.contains("samples") && json["samples"].is_array(),
                   "{}: expected lists \"shards\" and \"samples\"", name);
  ShardIndex index;
  for (const Json& row : json["shards"]) {
    const std::string where = fmt::format("{}: shards[{}]", name, index.shards.size());
    check<DataError>(row.is_object() && row.contains("file") && row.contains("bytes") &&
                         row.contains("samples") && row.contains("hash"),
                     "{}: expected file, bytes, samples and hash", where);
    ShardEntry shard{index_text(row["file"], where), index_number(row["bytes"], where),
                     index_number(row["samples"], where), index_text(row["hash"], where)};
    check<DataError>(!shard.file.empty() && std::filesystem::path(shard.file).filename() ==
                                                std::filesystem::path(shard.file),
                     "{}: expected a file name without folders, got '{}'", where, shard.file);
    index.shards.push_back(std::move(shard));
  }
  index.samples.reserve(json["samples"].size());
  for (const Json& row : json["samples"])
    index.samples.push_back(index_sample(
        row, index.shards, fmt::format("{}: samples[{}]", name, index.samples.size())));
  return index;
}

void write_shard_index(ShardIndex index, const std::filesystem::path& file) {
  std::vector<std::string> rows_of(index.shards.size());
  for (ShardEntry& shard : index.shards) shard.samples = 0;
  std::string samples;
  for (const SampleEntry& sample : index.samples) {
    const std::string row = index_row(sample).dump();
    rows_of[sample.shard] += row;
    ++index.shards[sample.shard].samples;
    samples += (samples.empty() ? "\n" : ",\n") + row;
  }
  std::string shards;
  for (size_t s = 0; s < index.shards.size(); ++s) {
    const ShardEntry& shard = index.shards[s];
    const Json row = {{"file", shard.file},
                      {"bytes", shard.bytes},
                      {"samples", shard.samples},
                      {"hash", hash_hex(rows_of[s])}};
    shards += (s == 0 ? "\n" : ",\n") + row.dump();
  }
  write_text_atomic(
      file, fmt::format(
                "{{\"format\": \"{}\", \"version\": {},\n\"shards\": [{}],\n\"samples\": [{}]}}\n",
                kIndexFormat, kIndexVersion, shards, samples));
}

std::string sample_hash(const SampleEntry& sample, std::string_view shard) {
  std::string parts = hash_hex(member_bytes(sample.record, shard));
  for (const MemberSpan& medium : sample.media)
    parts += medium.suffix + hash_hex(member_bytes(medium, shard));
  return hash_hex(parts).substr(0, 16);
}

Record parse_sample_record(std::string_view json, const std::string& where) {
  try {
    return parse_record(parse_json(json, where), where);
  } catch (const DataError&) {
    throw;
  } catch (const Error& e) {  // broken JSON is a ConfigError there; here it is a bad sample
    throw DataError("{}", e.what());
  }
}

int64_t estimate_rows(const Record& record, const std::vector<int64_t>& media_bytes) {
  int64_t text = 0, rows = 0;
  size_t medium = 0;
  for (const Message& message : record.messages) {
    for (const Part& part : message.parts) {
      if (!part.is_media) {
        text += static_cast<int64_t>(part.text.size());
        continue;
      }
      const int64_t bytes = medium < media_bytes.size() ? media_bytes[medium++] : -1;
      // What common encoders make of usual files: 256 rows a picture, 10 rows a second of speech
      // (about 20 kB of FLAC, or 130 kB of features in 16 bits), 1 row a kB of video. The balance
      // of parts hangs on it, and what a budget of tokens holds.
      if (part.media.kind == Modality::kImage || bytes < 0) {
        rows += 256;
      } else if (!part.media.tensor.empty()) {
        rows += bytes / 13000;
      } else {
        rows += bytes / (part.media.kind == Modality::kAudio ? 2000 : 1000);
      }
    }
  }
  return std::max<int64_t>(rows + text / 4, 1);
}

}  // namespace euromodal
