// corpus_test.cpp — every file of corpus/ through its target: inputs that once broke a reader, and
// the minimised corpus of the fuzzing runs, refused or taken without a fault.
#include <algorithm>
#include <filesystem>
#include <vector>

#include <gtest/gtest.h>

#include "tests/fuzz/targets.h"
#include "tests/support/temp.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

class FuzzCorpusTest : public testing::TestWithParam<fuzz::Target> {};

TEST_P(FuzzCorpusTest, IsTakenOrRefusedWithoutAFault) {
  std::vector<fs::path> files;
  for (const auto& entry :
       fs::directory_iterator(fs::path(EM_TEST_DIR) / "corpus" / GetParam().name))
    files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  ASSERT_GE(files.size(), 5U);
  for (const fs::path& file : files) {
    SCOPED_TRACE(file.string());
    const std::string bytes = read_bytes(file);
    EXPECT_NO_THROW(GetParam().run(bytes));
    // Cut off anywhere as well: files arrive truncated.
    for (size_t part = 1; part < 4; ++part)
      EXPECT_NO_THROW(GetParam().run(std::string_view(bytes).substr(0, bytes.size() * part / 4)));
  }
}

INSTANTIATE_TEST_SUITE_P(All, FuzzCorpusTest, testing::ValuesIn(fuzz::kTargets),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace euromodal
