// shard_writer.cpp — ustar headers (pax only where a name or size needs it) without time, user or
// group, so that the bytes depend on the members alone.
#include "training/data/shard_writer.h"

#include <algorithm>
#include <map>

#include <archive.h>
#include <archive_entry.h>

#include "core/error.h"
#include "core/files.h"
#include "training/data/datasets.h"

namespace euromodal {
namespace {

// ".jpg" of "pictures/Apple.JPG"; a name without a usable ending gets ".bin".
std::string writer_ending(const std::string& uri) {
  std::string ending = std::filesystem::path(uri).extension().string();
  std::transform(ending.begin(), ending.end(), ending.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const bool plain = ending.size() > 1 && std::all_of(ending.begin() + 1, ending.end(), [](char c) {
                       return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
                     });
  return plain && ending != ".json" ? ending : ".bin";
}

}  // namespace

ShardWriter::ShardWriter(const std::filesystem::path& file)
    : file_(file), archive_(archive_write_new()) {
  archive_write_set_format_pax_restricted(archive_);
  const int code = archive_write_open_filename(archive_, file.c_str());
  if (code == ARCHIVE_OK) return;
  const std::string reason = archive_error_string(archive_);
  archive_write_free(archive_);
  throw DataError("{}: cannot be written: {}", file.string(), reason);
}

ShardWriter::~ShardWriter() { archive_write_free(archive_); }

void ShardWriter::require(int code) const {
  check<DataError>(
      code >= ARCHIVE_WARN, "{}: cannot be written: {}", file_.string(),
      archive_error_string(archive_) != nullptr ? archive_error_string(archive_) : "unknown error");
}

void ShardWriter::add(const std::string& name, std::string_view bytes) {
  struct EntryDeleter {
    void operator()(archive_entry* e) const { archive_entry_free(e); }
  };
  const std::unique_ptr<archive_entry, EntryDeleter> entry(archive_entry_new());
  archive_entry_set_pathname(entry.get(), name.c_str());
  archive_entry_set_size(entry.get(), static_cast<la_int64_t>(bytes.size()));
  archive_entry_set_filetype(entry.get(), AE_IFREG);
  archive_entry_set_perm(entry.get(), 0644);
  archive_entry_set_mtime(entry.get(), 0, 0);
  require(archive_write_header(archive_, entry.get()));
  for (size_t at = 0; at < bytes.size();) {
    const la_ssize_t written = archive_write_data(archive_, bytes.data() + at, bytes.size() - at);
    require(written > 0 ? ARCHIVE_OK : ARCHIVE_FATAL);
    at += static_cast<size_t>(written);
  }
  require(archive_write_finish_entry(archive_));
  bytes_ += static_cast<int64_t>(bytes.size());
}

void ShardWriter::close() { require(archive_write_close(archive_)); }

void add_sample(ShardWriter& shard, Sample sample, const std::string& stem) {
  std::map<std::string, std::string> member_of;
  std::vector<std::pair<std::string, const MediaSource*>> members;
  const std::vector<MediaRef*> refs = media_refs(sample.record);
  for (size_t i = 0; i < refs.size(); ++i) {
    const auto [at, is_new] = member_of.try_emplace(refs[i]->uri);
    if (is_new) {
      at->second = fmt::format("{}.{}{}", stem, members.size(), writer_ending(refs[i]->uri));
      members.emplace_back(at->second, &sample.media[i]);
    }
    refs[i]->uri = at->second;
  }
  shard.add(stem + ".json", to_json(sample.record).dump());
  for (const auto& [member, source] : members) {
    if (source->in_memory) {
      shard.add(member, source->bytes);
    } else {
      const MappedFile bytes(source->name);
      shard.add(member, bytes.text());
    }
  }
}

}  // namespace euromodal
