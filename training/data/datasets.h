// datasets.h — the two kinds of data sets behind Dataset::open.
#pragma once
#include <filesystem>
#include <memory>

#include "training/data/dataset.h"

namespace euromodal {

/// `index`: an index.json. Opens and checks the sizes of all shards; maps a shard when first read.
std::unique_ptr<Dataset> open_shards(const std::filesystem::path& index);
/// One record a line; media paths relative to the file's folder. Empty lines are skipped.
std::unique_ptr<Dataset> open_jsonl(const std::filesystem::path& file);

/// The media parts of a record, in order.
std::vector<const MediaRef*> media_refs(const Record& record);
std::vector<MediaRef*> media_refs(Record& record);

}  // namespace euromodal
