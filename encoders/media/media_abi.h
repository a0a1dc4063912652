// media_abi.h — the C entry points of libeuromodal_media.so, as the loader (media.cpp) looks them
// up and lib/reader.cpp defines them.
#pragma once

namespace euromodal {

class MediaReader;

/// Raised whenever MediaReader or the structs of media.h change.
inline constexpr int kMediaAbi = 1;
inline constexpr const char* kMediaAbiSymbol = "euromodal_media_abi";
inline constexpr const char* kMediaReaderSymbol = "euromodal_media_reader";
using MediaAbiFn = int (*)();
using MediaReaderFn = const MediaReader* (*)();

}  // namespace euromodal
