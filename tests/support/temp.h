// temp.h — a temporary folder per test, empty at the start and removed at the end; and the check of
// an exception's type and words.
//
//   TempDir dir;                                     // TempDir/SuiteName.CaseName
//   dir.write("config.json", "{}");
//   EXPECT_TRUE((throws_with<ConfigError>([&] { load(dir.path()); }, {"config.json",
//   "hidden_size"})));
#pragma once
#include <algorithm>
#include <exception>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <string>
#include <string_view>
#include <typeinfo>

#include <gtest/gtest.h>
#include <unistd.h>

namespace euromodal {

class TempDir {
 public:
  TempDir() {
    std::string name = "euromodal_" + std::to_string(::getpid());
    if (const auto* info = testing::UnitTest::GetInstance()->current_test_info())
      name += std::string("_") + info->test_suite_name() + "." + info->name();
    std::replace(name.begin(), name.end(), '/', '_');  // names of parametrised tests
    path_ = std::filesystem::path(testing::TempDir()) / name;
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  /// Writes a file below the folder (folders on the way are made) and returns its path.
  std::filesystem::path write(const std::string& name, std::string_view bytes) const {
    const std::filesystem::path file = path_ / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream out(file, std::ios::binary);
    out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    return file;
  }

 private:
  std::filesystem::path path_;
};

/// The whole file as bytes (empty when it cannot be read).
inline std::string read_bytes(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

/// Does `call` throw exactly an E whose message holds every one of `words`?
template <typename E, typename Call>
testing::AssertionResult throws_with(Call&& call, std::initializer_list<std::string_view> words) {
  try {
    call();
  } catch (const E& e) {
    if (typeid(e) != typeid(E))
      return testing::AssertionFailure() << "threw " << typeid(e).name() << ", not exactly "
                                         << typeid(E).name() << ": " << e.what();
    for (const std::string_view word : words) {
      if (std::string_view(e.what()).find(word) == std::string_view::npos)
        return testing::AssertionFailure() << "the message lacks \"" << word << "\": " << e.what();
    }
    return testing::AssertionSuccess();
  } catch (const std::exception& e) {
    return testing::AssertionFailure()
           << "threw " << typeid(e).name() << ", not " << typeid(E).name() << ": " << e.what();
  }
  return testing::AssertionFailure() << "threw nothing";
}

}  // namespace euromodal
