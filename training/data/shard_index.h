// shard_index.h — `index.json` of a folder of tar shards: where every sample lies, so that the tar
// files are never read through again.
//
//   {"format": "euromodal-shards", "version": 1,
//    "shards":  [{"file": "shard-000000.tar", "bytes": 10240, "samples": 2, "hash": "..."}, ...],
//    "samples": [[shard, "stem", cost, "hash", offset, bytes, [[".0.jpg", offset, bytes], ...]],
//                ...]}
// offset and bytes: of the record `stem.json`, then of each medium `stem` + ".0.jpg". The sample's
// hash is over the bytes of record and media, the shard's over the rows of its samples.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "multimodal/record.h"

namespace euromodal {

struct MemberSpan {
  std::string suffix;  // member name = stem + suffix
  int64_t offset = 0, bytes = 0;
};

struct SampleEntry {
  int64_t shard = 0;
  std::string stem;
  int64_t cost = 1;
  std::string hash;
  MemberSpan record;  // suffix ".json"
  std::vector<MemberSpan> media;
};

struct ShardEntry {
  std::string file;  // plain file name, beside index.json
  int64_t bytes = 0, samples = 0;
  std::string hash;
};

struct ShardIndex {
  std::vector<ShardEntry> shards;
  std::vector<SampleEntry> samples;
};

/// DataError naming the file: missing, no index of ours, other version, wrong numbers.
ShardIndex read_shard_index(const std::filesystem::path& file);
/// Fills in the shards' `samples` and `hash`; atomic.
void write_shard_index(ShardIndex index, const std::filesystem::path& file);

/// Hash of a sample's bytes (`shard`: the whole tar file).
std::string sample_hash(const SampleEntry& sample, std::string_view shard);
/// The bytes of a member.
inline std::string_view member_bytes(const MemberSpan& member, std::string_view shard) {
  return shard.substr(static_cast<size_t>(member.offset), static_cast<size_t>(member.bytes));
}

/// parse_json + parse_record with every fault as DataError that begins with `where`.
Record parse_sample_record(std::string_view json, const std::string& where);

/// Rough number of token rows: text bytes / 4, and by kind of medium and its bytes (-1: unknown).
int64_t estimate_rows(const Record& record, const std::vector<int64_t>& media_bytes);

}  // namespace euromodal
