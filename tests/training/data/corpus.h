// corpus.h — a small JSONL corpus for the tests of training/data; the media are bytes that nobody
// decodes.
#pragma once
#include <cstdint>
#include <string>

#include <fmt/format.h>

#include "core/rng.h"
#include "tests/support/temp.h"

namespace euromodal {

inline std::string corpus_bytes(int64_t seed, int64_t count) {
  Rng rng(static_cast<uint64_t>(seed));
  std::string bytes(static_cast<size_t>(count), '\0');
  for (char& c : bytes) c = static_cast<char>(rng.below(256));
  return bytes;
}

/// `samples` records: an image each, every third also a sound. Returns the JSONL file.
inline std::filesystem::path make_corpus(const TempDir& dir, int64_t samples,
                                         int64_t media_bytes = 700) {
  std::string lines;
  for (int64_t i = 0; i < samples; ++i) {
    dir.write(fmt::format("media/p{}.JPG", i), corpus_bytes(i, media_bytes + i));
    std::string parts =
        fmt::format(R"({{"kind": "image", "uri": "media/p{}.JPG"}}, "frage {} ä\n")", i,
                    std::string(i % 7, 'x'));
    if (i % 3 == 0) {
      dir.write(fmt::format("media/s{}.flac", i), corpus_bytes(1000 + i, 2 * media_bytes));
      parts += fmt::format(
          R"(, {{"kind": "audio", "uri": "media/s{}.flac", "t0_s": 0.25, "t1_s": 1.5}})", i);
    }
    lines += fmt::format(
        R"({{"id": "s{0}", "lang": "de", "label": "l{1}", "messages": [{{"role": "user", "parts": [{2}]}}, {{"role": "assistant", "parts": ["Apfel {0}"]}}], "split": "train"}})",
        i, i % 5, parts);
    lines += i % 4 == 0 ? "\n\n" : "\n";  // empty lines are skipped
  }
  return dir.write("corpus.jsonl", lines);
}

}  // namespace euromodal
