// watch.cpp — watches all kernel tests of this program for races: a race fails the test in which a
// kernel had it.
#include <memory>
#include <string_view>

#include <ATen/record_function.h>
#include <gtest/gtest.h>

#include "backbone/kernels/cuda/observer.h"
#include "backbone/kernels/cuda/race_check.h"

namespace euromodal {
namespace {

// On a GPU an operator of LibTorch is an ordinary kernel: when the next of ours begins, all
// launches before the operator have ended. Views and allocations are no kernels.
bool launches(std::string_view name) {
  constexpr std::string_view kNot[] = {
      "aten::select",  "aten::narrow",    "aten::slice",    "aten::view",   "aten::as_strided",
      "aten::alias",   "aten::detach",    "aten::empty",    "aten::expand", "aten::permute",
      "aten::squeeze", "aten::unsqueeze", "aten::transpose"};
  for (const std::string_view one : kNot)
    if (name.substr(0, one.size()) == one) return false;
  return true;
}
std::unique_ptr<at::ObserverContext> operator_begins(const at::RecordFunction& function) {
  if (launches(function.name())) emulation::observer->host_waits();
  return nullptr;
}

class Watch : public testing::EmptyTestEventListener {
  void OnTestStart(const testing::TestInfo& /*info*/) override { emulation::forget_accesses(); }
  void OnTestEnd(const testing::TestInfo& /*info*/) override {
    for (const std::string& race : emulation::take_races()) ADD_FAILURE() << race;
  }
};

class Setup : public testing::Environment {
  void SetUp() override {
    emulation::check_races();
    at::addGlobalCallback(at::RecordFunctionCallback(&operator_begins));
    testing::UnitTest::GetInstance()->listeners().Append(new Watch);
  }
};

const testing::Environment* const kSetup = testing::AddGlobalTestEnvironment(new Setup);

}  // namespace
}  // namespace euromodal
