// llama_config_test.cpp — config.json of every EuroLLM generation, exact parameter counts without
// weights, both styles of RoPE, and what is refused.
#include "backbone/llama_config.h"

#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/temp.h"

namespace euromodal {
namespace {

// The published config.json files of the family, as far as they are known (22B: 54 layers).
Json llama_family(const std::string& name) {
  Json json = {{"architectures", {"LlamaForCausalLM"}},
               {"model_type", "llama"},
               {"attention_bias", false},
               {"bos_token_id", 1},
               {"eos_token_id", 2},
               {"hidden_act", "silu"},
               {"initializer_range", 0.02},
               {"mlp_bias", false},
               {"pretraining_tp", 1},
               {"rms_norm_eps", 1e-5},
               {"rope_scaling", nullptr},
               {"rope_theta", 10000.0},
               {"tie_word_embeddings", false},
               {"torch_dtype", "bfloat16"},
               {"use_cache", true},
               {"vocab_size", 128000},
               {"max_position_embeddings", 4096}};
  const bool small = name.starts_with("1.7B"), middle = name.starts_with("9B");
  json["hidden_size"] = small ? 2048 : middle ? 4096 : 6144;
  json["num_hidden_layers"] = small ? 24 : middle ? 42 : 54;
  json["num_attention_heads"] = small ? 16 : middle ? 32 : 48;
  json["num_key_value_heads"] = 8;
  json["intermediate_size"] = small ? 5632 : middle ? 12288 : 16384;
  if (name.ends_with("2512")) {  // the newer style of transformers 5
    json["max_position_embeddings"] = 32768;
    json.erase("rope_theta");
    json.erase("rope_scaling");
    json["rope_parameters"] = {{"rope_theta", 1e6}, {"rope_type", "default"}};
    json["head_dim"] = 128;
    json["eos_token_id"] = 4;
    json.erase("torch_dtype");
    json["dtype"] = "bfloat16";
  }
  return json;
}

LlamaConfig llama_parse(const Json& json) {
  return LlamaConfig::from_json(JsonView(json, "config.json"));
}

std::string llama_error(const std::function<void(Json&)>& change) {
  Json json = llama_family("1.7B");
  change(json);
  try {
    (void)llama_parse(json);
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "no error";
}

TEST(LlamaConfigTest, EveryGenerationHasItsExactParameterCount) {
  EXPECT_EQ(llama_parse(llama_family("1.7B")).num_parameters(), 1'656'850'432);
  EXPECT_EQ(llama_parse(llama_family("1.7B-2512")).num_parameters(), 1'656'850'432);
  EXPECT_EQ(llama_parse(llama_family("9B")).num_parameters(), 9'152'319'488);
  EXPECT_EQ(llama_parse(llama_family("9B-2512")).num_parameters(), 9'152'319'488);
  EXPECT_EQ(llama_parse(llama_family("22B-2512")).num_parameters(), 22'637'328'384);
}

TEST(LlamaConfigTest, ReadsBothStylesOfRope) {
  const LlamaConfig old_style = llama_parse(llama_family("9B")),
                    new_style = llama_parse(llama_family("22B-2512"));
  EXPECT_DOUBLE_EQ(old_style.rope.theta, 1e4);
  EXPECT_EQ(old_style.max_positions, 4096);
  EXPECT_EQ(old_style.head_dim, 128);
  EXPECT_EQ(old_style.eos_ids, (std::vector<int64_t>{2}));
  EXPECT_DOUBLE_EQ(new_style.rope.theta, 1e6);
  EXPECT_EQ(new_style.max_positions, 32768);
  EXPECT_EQ(new_style.num_layers, 54);
  EXPECT_EQ(new_style.dtype, "bfloat16");

  Json json = llama_family("1.7B");
  json["rope_scaling"] = {{"type", "linear"}, {"factor", 4.0}};  // `type` before `rope_type`
  EXPECT_EQ(llama_parse(json).rope.type, "linear");
  EXPECT_DOUBLE_EQ(llama_parse(json).rope.factor, 4.0);
  json["rope_scaling"] = {{"rope_type", "llama3"},
                          {"factor", 8.0},
                          {"low_freq_factor", 1.0},
                          {"high_freq_factor", 4.0},
                          {"original_max_position_embeddings", 2048}};
  EXPECT_EQ(llama_parse(json).rope.original_max_positions, 2048);
  EXPECT_DOUBLE_EQ(llama_parse(json).rope.theta, 1e4);
}

TEST(LlamaConfigTest, WritesWhatItReads) {
  Json json = llama_family("22B-2512");
  json["rope_parameters"] = {{"rope_theta", 1e6},
                             {"rope_type", "yarn"},
                             {"factor", 4.0},
                             {"original_max_position_embeddings", 8192},
                             {"beta_fast", 16.0}};
  json["eos_token_id"] = {2, 4};
  const LlamaConfig config = llama_parse(json), again = llama_parse(config.to_json());
  EXPECT_EQ(again.to_json().dump(), config.to_json().dump());
  EXPECT_EQ(again.rope.type, "yarn");
  EXPECT_DOUBLE_EQ(again.rope.beta_fast, 16.0);
  EXPECT_EQ(again.rope.original_max_positions, 8192);
  EXPECT_EQ(again.eos_ids, (std::vector<int64_t>{2, 4}));
  EXPECT_EQ(again.num_parameters(), config.num_parameters());
}

TEST(LlamaConfigTest, ErrorsNameFileKeyAndValue) {
  using testing::AllOf;
  using testing::HasSubstr;
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads", "max_position_embeddings"}) {
    EXPECT_THAT(llama_error([&](Json& j) { j.erase(key); }),
                AllOf(HasSubstr("config.json"), HasSubstr(key), HasSubstr("missing")));
    EXPECT_THAT(llama_error([&](Json& j) { j[key] = 0; }),
                AllOf(HasSubstr(key), HasSubstr("above 0")));
    EXPECT_THAT(llama_error([&](Json& j) { j[key] = -3; }), HasSubstr(key));
    EXPECT_THAT(llama_error([&](Json& j) { j[key] = "many"; }), HasSubstr(key));
    EXPECT_THAT(llama_error([&](Json& j) { j[key] = int64_t{1} << 50; }), HasSubstr(key));
  }
  EXPECT_THAT(llama_error([](Json& j) { j["model_type"] = "bert"; }),
              AllOf(HasSubstr("model_type"), HasSubstr("bert")));
  EXPECT_THAT(llama_error([](Json& j) { j["hidden_act"] = "gelu"; }),
              AllOf(HasSubstr("hidden_act"), HasSubstr("gelu")));
  EXPECT_THAT(llama_error([](Json& j) { j["num_key_value_heads"] = 5; }),
              HasSubstr("num_key_value_heads 5"));
  EXPECT_THAT(llama_error([](Json& j) {
                j["rope_scaling"] = {{"rope_type", "spiral"}, {"factor", 2.0}};
              }),
              AllOf(HasSubstr("rope_type"), HasSubstr("spiral")));
  EXPECT_THAT(llama_error([](Json& j) {
                j["rope_scaling"] = {{"rope_type", "linear"}};
              }),
              HasSubstr("factor is missing"));
  EXPECT_THAT(llama_error([](Json& j) { j["rope_theta"] = -1.0; }), HasSubstr("rope_theta"));
  EXPECT_THAT(llama_error([](Json& j) { j["head_dim"] = 7; }), HasSubstr("head_dim 7 is odd"));
  EXPECT_THAT(llama_error([](Json& j) { j["eos_token_id"] = "end"; }), HasSubstr("eos_token_id"));
  EXPECT_THAT(llama_error([](Json& j) { j["rms_norm_eps"] = 0.0; }), HasSubstr("rms_norm_eps"));
}

TEST(LlamaConfigTest, AFolderThatIsNoModelIsAnError) {
  EXPECT_THROW((void)LlamaConfig::load("no_such_folder"), ConfigError);
  const TempDir empty;  // not the system's: another program's model may lie there
  EXPECT_THROW((void)LlamaConfig::load(empty.path()), ConfigError);
}

}  // namespace
}  // namespace euromodal
