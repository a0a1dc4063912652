// device_test.cpp — --device without a GPU: one clear error for each word.
#include "backbone/device.h"

#include <cstdlib>

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"

namespace euromodal {
namespace {

TEST(DeviceTest, KnowsTheCpuAndRefusesUnknownWords) {
  EXPECT_TRUE(open_device("cpu").is_cpu());
  for (const char* word : {"gpu", "cuda:", "cuda:-1", "cuda:x", "cuda:1x", "CPU", ""})
    EXPECT_THROW((void)open_device(word), UsageError) << word;
}

TEST(DeviceTest, WithoutADriverTheErrorSaysSo) {
  if (::dlopen("libcuda.so.1", RTLD_NOW))
    GTEST_SKIP()
        << "this host has an NVIDIA driver; tests_ops_gpu of preset cuda runs there instead";
  try {
    (void)open_device("cuda");
    FAIL() << "no error";
  } catch (const UsageError&) {
    FAIL() << "a missing driver is no wrong use";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), testing::AllOf(testing::HasSubstr("no NVIDIA driver"),
                                         testing::HasSubstr("--device cpu")));
  }
}

}  // namespace
}  // namespace euromodal
