// watch.cpp — watches all kernel tests of this program for races: a race fails the test in which a
// kernel had it.
#include <gtest/gtest.h>

#include "backbone/kernels/cuda/race_check.h"

namespace euromodal {
namespace {

class Watch : public testing::EmptyTestEventListener {
  void OnTestStart(const testing::TestInfo& /*info*/) override { emulation::forget_accesses(); }
  void OnTestEnd(const testing::TestInfo& /*info*/) override {
    for (const std::string& race : emulation::take_races()) ADD_FAILURE() << race;
  }
};

class Setup : public testing::Environment {
  void SetUp() override {
    emulation::check_races();
    testing::UnitTest::GetInstance()->listeners().Append(new Watch);
  }
};

const testing::Environment* const kSetup = testing::AddGlobalTestEnvironment(new Setup);

}  // namespace
}  // namespace euromodal
