// media.cpp — finds and loads libeuromodal_media.so. FFmpeg and OpenCV bring hundreds of libraries
// along, so a program that only handles text never loads them.
#include "encoders/media/media.h"

#include <cstdlib>
#include <filesystem>

#include <dlfcn.h>

#include "encoders/media/media_abi.h"

namespace euromodal {
namespace {

constexpr const char* kLibraryName = "libeuromodal_media.so";
constexpr const char* kLibraryVariable = "EUROMODAL_MEDIA_LIBRARY";

// The named file alone when the variable is set, else the one beside libeuromodal.so.
std::filesystem::path media_library_path() {
  if (const char* named = std::getenv(kLibraryVariable); named != nullptr && *named != '\0')
    return named;
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&media_reader), &info) == 0 || info.dli_fname == nullptr)
    return kLibraryName;
  return std::filesystem::path(info.dli_fname).parent_path() / kLibraryName;
}

const MediaReader* media_load() {
  const std::filesystem::path path = media_library_path();
  // Never closed: FFmpeg and OpenCV keep thread-local state. RTLD_NOW makes an incomplete
  // installation fail here and not in the middle of a file.
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* reason = dlerror();
    throw Error(
        "media library cannot be loaded, tried {}: {}. It is built as the target euromodal_media; "
        "{} names another file",
        path.string(), reason == nullptr ? "unknown reason" : reason, kLibraryVariable);
  }
  const auto abi = reinterpret_cast<MediaAbiFn>(dlsym(handle, kMediaAbiSymbol));
  const auto reader = reinterpret_cast<MediaReaderFn>(dlsym(handle, kMediaReaderSymbol));
  check(abi != nullptr && reader != nullptr, "{}: not the media library: {} and {} are not in it",
        path.string(), kMediaAbiSymbol, kMediaReaderSymbol);
  check(abi() == kMediaAbi, "{}: has interface {}, this program needs {}; build both together",
        path.string(), abi(), kMediaAbi);
  return reader();
}

}  // namespace

const char* modality_name(Modality kind) {
  switch (kind) {
    case Modality::kImage:
      return "image";
    case Modality::kAudio:
      return "audio";
    case Modality::kVideo:
      return "video";
  }
  return "unknown";
}

const MediaReader& media_reader() {
  static const MediaReader* const reader = media_load();  // a failed load is tried again next time
  return *reader;
}

}  // namespace euromodal
