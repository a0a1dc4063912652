// files_test.cpp — files and folders are complete or absent; mapped files; UTF-8.
#include "core/files.h"

#include <csignal>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

namespace euromodal {
namespace {

namespace fs = std::filesystem;

class FilesTest : public testing::Test {
 protected:
  void SetUp() override {
    dir_ = fs::path(testing::TempDir()) /
           ("files_" + std::string(testing::UnitTest::GetInstance()->current_test_info()->name()));
    fs::remove_all(dir_);
    fs::create_directories(dir_);
  }
  size_t entries() const {
    return static_cast<size_t>(
        std::distance(fs::directory_iterator(dir_), fs::directory_iterator()));
  }
  fs::path dir_;
};

TEST_F(FilesTest, AtomicFileAppearsOnlyOnCommit) {
  const fs::path file = dir_ / "a.txt";
  {
    AtomicFile out(file);
    out.write("half");
    EXPECT_FALSE(fs::exists(file));
  }
  EXPECT_EQ(entries(), 0U);  // nothing is left behind
  write_text_atomic(file, "whole");
  EXPECT_EQ(read_text(file), "whole");
  write_text_atomic(file, "newer");
  EXPECT_EQ(read_text(file), "newer");
  EXPECT_EQ(entries(), 1U);
}

TEST_F(FilesTest, FullDiskLeavesTheOldFile) {
  const fs::path file = dir_ / "a.txt";
  write_text_atomic(file, "old");
  const pid_t child = fork();
  if (child == 0) {  // a file size limit stands in for a full disk
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{1000, 1000};
    setrlimit(RLIMIT_FSIZE, &limit);
    try {
      write_text_atomic(file, std::string(5000, 'x'));
    } catch (const Error& e) {
      _exit(std::string(e.what()).find("a.txt: cannot be written") != std::string::npos ? 7 : 8);
    }
    _exit(9);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 7);
  EXPECT_EQ(read_text(file), "old");
  EXPECT_EQ(entries(), 1U);
}

TEST_F(FilesTest, AtomicFolderReplacesWhole) {
  const fs::path target = dir_ / "model";
  {
    AtomicFolder out(target);
    write_text_atomic(out.path() / "a", "1");
    EXPECT_FALSE(fs::exists(target));
    out.commit();
  }
  EXPECT_EQ(read_text(target / "a"), "1");
  {
    AtomicFolder out(target);
    write_text_atomic(out.path() / "b", "2");
  }
  EXPECT_TRUE(fs::exists(target / "a"));  // not committed: untouched
  {
    AtomicFolder out(target);
    write_text_atomic(out.path() / "b", "2");
    out.commit();
  }
  EXPECT_FALSE(fs::exists(target / "a"));
  EXPECT_EQ(read_text(target / "b"), "2");
  EXPECT_EQ(entries(), 1U);
}

TEST_F(FilesTest, MappedFileHoldsTheBytes) {
  std::ofstream(dir_ / "x") << "abc";
  std::ofstream(dir_ / "empty");
  MappedFile a(dir_ / "x");
  const MappedFile b = std::move(a);
  EXPECT_EQ(b.text(), "abc");
  EXPECT_EQ(MappedFile(dir_ / "empty").text(), "");
  EXPECT_THROW(MappedFile(dir_ / "absent"), Error);
  EXPECT_THROW(MappedFile{dir_}, Error);
}

TEST_F(FilesTest, ErrorsNameTheFile) {
  try {
    (void)read_text(dir_ / "absent");
    FAIL() << "no error";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), testing::HasSubstr("absent: cannot be read: No such file"));
  }
  EXPECT_THROW((void)read_text(dir_), Error);
  EXPECT_THROW(AtomicFile(dir_ / "no" / "such" / "folder"), Error);
}

TEST_F(FilesTest, HashIsXxh3) {
  EXPECT_EQ(hash_hex(""),
            "99aa06d3014798d86001c324468d497f");  // XXH3 128 of nothing, from the reference
                                                  // implementation's test vectors
  EXPECT_NE(hash_hex("a"), hash_hex("b"));
}

TEST_F(FilesTest, FindsInvalidUtf8) {
  EXPECT_EQ(find_invalid_utf8("aä€😀"), std::string_view::npos);
  EXPECT_EQ(find_invalid_utf8(std::string_view("x\xc3\x28", 3)), 1U);         // bad continuation
  EXPECT_EQ(find_invalid_utf8(std::string_view("ab\xe2\x82", 4)), 2U);        // cut
  EXPECT_EQ(find_invalid_utf8(std::string_view("\xc0\xaf", 2)), 0U);          // overlong
  EXPECT_EQ(find_invalid_utf8(std::string_view("\xed\xa0\x80", 3)), 0U);      // surrogate
  EXPECT_EQ(find_invalid_utf8(std::string_view("\xf4\x90\x80\x80", 4)), 0U);  // beyond U+10FFFF
  EXPECT_EQ(find_invalid_utf8(std::string_view("\0a", 2)), std::string_view::npos);
}

}  // namespace
}  // namespace euromodal
