// tar_scan.h — the regular files of an uncompressed tar, as spans of the mapped file.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/files.h"

namespace euromodal {

struct TarMember {
  std::string name;
  int64_t offset = 0, bytes = 0;  // of the data in the tar file
};

/// In file order. DataError naming the file and the last good member: no tar (compressed ones
/// cannot be mapped), truncated, sparse members.
std::vector<TarMember> scan_tar(const MappedFile& tar);

}  // namespace euromodal
