// jsonl_dataset.cpp — one record a line; the media are files beside it. Lines are found once, when
// the file is opened, and parsed when they are read.
#include <algorithm>

#include "core/files.h"
#include "training/data/datasets.h"
#include "training/data/shard_index.h"

namespace euromodal {
namespace {

class JsonlDataset final : public Dataset {
 public:
  explicit JsonlDataset(const std::filesystem::path& file)
      : file_(open_file(file)), dir_(file.parent_path()) {
    const std::string_view text = file_.text();
    int64_t number = 0;
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = std::min(text.find('\n', begin), text.size());
      ++number;
      const std::string_view line = text.substr(begin, end - begin);
      if (line.find_first_not_of(" \t\r") != std::string_view::npos)
        lines_.push_back({line, number});
      begin = end + 1;
    }
    check<DataError>(!lines_.empty(), "{}: no records", file.string());
  }

  int64_t size() const override { return static_cast<int64_t>(lines_.size()); }
  std::string name() const override { return file_.path().string(); }
  std::string fingerprint() const override { return hash_hex(file_.text()); }

  double cost(int64_t index) const override {
    try {
      const Record record = parse(index);
      std::vector<int64_t> bytes;
      for (const MediaRef* ref : media_refs(record)) {
        std::error_code error;
        const auto size = std::filesystem::file_size(dir_ / ref->uri, error);
        bytes.push_back(error ? -1 : static_cast<int64_t>(size));
      }
      return static_cast<double>(estimate_rows(record, bytes));
    } catch (const Error&) {
      return 1.0;  // get() says what is wrong
    }
  }

  Sample get(int64_t index) const override {
    check<DataError>(index >= 0 && index < size(), "{}: sample {} of {}", name(), index, size());
    Sample sample;
    sample.index = index;
    sample.where = fmt::format("{}:{}", file_.path().filename().string(), lines_[index].number);
    sample.record = parse(index);
    for (const MediaRef* ref : media_refs(sample.record)) {
      const auto path = dir_ / ref->uri;
      std::error_code error;
      check<DataError>(std::filesystem::exists(path, error) && !std::filesystem::is_directory(path),
                       "{}: {} file is missing: {}", where(index), modality_name(ref->kind),
                       path.string());
      sample.media.push_back({path.string(), {}, /*in_memory=*/false});
    }
    return sample;
  }

 private:
  struct Line {
    std::string_view text;
    int64_t number;  // from 1
  };

  static MappedFile open_file(const std::filesystem::path& file) {
    try {
      return MappedFile(file);
    } catch (const Error& e) {
      throw DataError("{}", e.what());
    }
  }
  std::string where(int64_t index) const {
    return fmt::format("{}:{}", file_.path().string(), lines_[index].number);
  }
  Record parse(int64_t index) const {
    return parse_sample_record(lines_[index].text, where(index));
  }

  MappedFile file_;
  std::filesystem::path dir_;
  std::vector<Line> lines_;
};

}  // namespace

std::unique_ptr<Dataset> open_jsonl(const std::filesystem::path& file) {
  return std::make_unique<JsonlDataset>(file);
}

}  // namespace euromodal
