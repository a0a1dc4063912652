// json_test.cpp — typed access that names file and key.
#include "core/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace euromodal {
namespace {

template <typename F>
std::string json_error_of(F call) {
  try {
    call();
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "no error";
}

TEST(JsonTest, ReadsTypedValues) {
  const Json json =
      parse_json(R"({"a": 3, "b": 0.5, "c": true, "d": "x", "e": null, "f": {"g": 1}})", "c.json");
  const JsonView v(json, "c.json");
  EXPECT_EQ(v.i64("a"), 3);
  EXPECT_EQ(v.i64("e", 9), 9);  // null counts as missing
  EXPECT_DOUBLE_EQ(v.f64("b"), 0.5);
  EXPECT_DOUBLE_EQ(v.f64("a"), 3.0);
  EXPECT_TRUE(v.boolean("c", false));
  EXPECT_EQ(v.str("d"), "x");
  EXPECT_EQ(v.object("f").i64("g"), 1);
  EXPECT_FALSE(v.has("e"));
}

TEST(JsonTest, ErrorsNameFileAndKey) {
  const Json json =
      parse_json(R"({"a": 3.5, "n": 0, "big": 18446744073709551615, "o": {"p": "q"}})", "c.json");
  const JsonView v(json, "c.json");
  EXPECT_EQ(json_error_of([&] { (void)v.i64("z"); }), "c.json: z is missing");
  EXPECT_EQ(json_error_of([&] { (void)v.i64("a"); }),
            "c.json: a is a fraction, expected a whole number");
  EXPECT_EQ(json_error_of([&] { (void)v.positive("n"); }),
            "c.json: n is 0, expected a number above 0");
  EXPECT_THAT(json_error_of([&] { (void)v.i64("big"); }),
              testing::HasSubstr("larger than any 64-bit number"));
  EXPECT_THAT(json_error_of([&] { (void)v.object("o").i64("p"); }),
              testing::StartsWith("c.json: o: p is"));
}

TEST(JsonTest, BrokenAndDeepTextIsRefused) {
  EXPECT_EQ(json_error_of([] { (void)parse_json("{", "c.json"); }),
            "c.json: not valid JSON at byte 2");
  EXPECT_THAT(json_error_of([] { (void)parse_json(std::string(5000, '['), "c.json"); }),
              testing::HasSubstr("c.json"));
  EXPECT_THAT(json_error_of([] {
                (void)parse_json(std::string(500, '[') + std::string(500, ']'), "c.json");
              }),
              testing::HasSubstr("deeper than"));
}

}  // namespace
}  // namespace euromodal
