// tar_scan.cpp — libarchive reads the headers (ustar, pax, GNU); its data pointers lie inside the
// mapping, which gives the offsets without any arithmetic on tar blocks of our own.
#include "training/data/tar_scan.h"

#include <memory>

#include <archive.h>
#include <archive_entry.h>

namespace euromodal {
namespace {

struct TarReaderDeleter {
  void operator()(archive* a) const { archive_read_free(a); }
};

std::string tar_after(const std::vector<TarMember>& members) {
  return members.empty() ? "at its beginning" : "after member '" + members.back().name + "'";
}

}  // namespace

std::vector<TarMember> scan_tar(const MappedFile& tar) {
  const std::string file = tar.path().string();
  const std::string_view bytes = tar.text();
  check<DataError>(!bytes.empty(), "{}: empty file, expected a tar", file);
  std::unique_ptr<archive, TarReaderDeleter> reader(archive_read_new());
  archive* a = reader.get();
  archive_read_support_format_tar(a);
  std::vector<TarMember> members;
  const auto require = [&](int code) {
    check<DataError>(code == ARCHIVE_OK || code == ARCHIVE_WARN || code == ARCHIVE_EOF,
                     "{}: broken or truncated tar {} ({}); expected an uncompressed tar", file,
                     tar_after(members),
                     archive_error_string(a) != nullptr ? archive_error_string(a) : "no tar");
    return code;
  };
  require(archive_read_open_memory(a, bytes.data(), bytes.size()));
  archive_entry* entry = nullptr;
  while (require(archive_read_next_header(a, &entry)) != ARCHIVE_EOF) {
    if (archive_entry_filetype(entry) != AE_IFREG || archive_entry_hardlink(entry) != nullptr)
      continue;
    const char* name = archive_entry_pathname(entry);
    TarMember member{name != nullptr ? name : "", 0, archive_entry_size(entry)};
    if (member.bytes > 0) {
      const void* block = nullptr;
      size_t block_bytes = 0;
      la_int64_t block_offset = 0;
      const int code = require(archive_read_data_block(a, &block, &block_bytes, &block_offset));
      const auto* data = static_cast<const char*>(block);
      const bool whole = code != ARCHIVE_EOF && block_offset == 0 &&
                         static_cast<int64_t>(block_bytes) == member.bytes &&
                         data >= bytes.data() && data + block_bytes <= bytes.data() + bytes.size();
      check<DataError>(whole, "{}: member '{}' of {} bytes is truncated or sparse", file,
                       member.name, member.bytes);
      member.offset = data - bytes.data();
    }
    members.push_back(std::move(member));
  }
  return members;
}

}  // namespace euromodal
