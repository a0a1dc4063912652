// tokenize.cpp — `euromodal tokenize`: text to a JSON array of ids, and back.
#include <cstdio>
#include <string>
#include <vector>

#include <fmt/ranges.h>

#include "backbone/weights/tokenizer.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "core/error.h"
#include "core/files.h"
#include "core/json.h"

namespace euromodal::cli {

namespace {

std::vector<int64_t> parse_ids(const std::string& text, const std::string& what) {
  const Json array = parse_json(text, what);
  check<DataError>(array.is_array(), "{}: expected a JSON array of token ids", what);
  std::vector<int64_t> ids;
  ids.reserve(array.size());
  for (const Json& id : array) {
    const bool whole = id.is_number_integer() &&
                       !(id.is_number_unsigned() && id.get<uint64_t>() > uint64_t{INT64_MAX});
    check<DataError>(whole, "{}: token id {} is not a whole number", what, id.dump().substr(0, 60));
    ids.push_back(id.get<int64_t>());
  }
  return ids;
}

}  // namespace

int run_tokenize(int argc, char** argv) {
  Options parser("tokenize", "token ids of a text as a JSON array, or the text of such an array");
  std::string model, text, file;
  bool no_special = false, decode = false;
  parser.text("--model", &model, "DIR", "model folder or GGUF file", /*required=*/true);
  parser.text("--text", &text, "TEXT", "the text, or with --decode the array");
  parser.text("--file", &file, "FILE", "a file that holds it, taken byte for byte");
  parser.flag("--no-special", &no_special,
              "add no special tokens; with --decode: leave special tokens out");
  parser.flag("--decode", &decode, "the input is a JSON array of ids; print their text");
  if (!parser.parse(argc, argv)) return 0;
  check<UsageError>(parser.given("--text") != parser.given("--file"),
                    "give either --text or --file");

  const auto tokenizer = Tokenizer::load(model);
  const std::string input = parser.given("--file") ? read_text(file) : text;
  const std::string what = parser.given("--file") ? file : "--text";
  std::string out;
  if (decode) {
    out = tokenizer->decode(parse_ids(input, what), no_special);
  } else {
    const size_t invalid = find_invalid_utf8(input);
    check<DataError>(invalid == std::string::npos, "{}: invalid UTF-8 at byte {}", what, invalid);
    const auto ids =
        tokenizer->encode(input, no_special ? EncodeMode::kNoSpecial : EncodeMode::kFull);
    out = fmt::format("[{}]", fmt::join(ids, ", "));
  }
  out += '\n';
  check<Error>(
      std::fwrite(out.data(), 1, out.size(), stdout) == out.size() && std::fflush(stdout) == 0,
      "standard output: cannot be written");
  return 0;
}

}  // namespace euromodal::cli
