// tiny_text_model.h — a model folder to try the program on: the tiny Llama of tests/inference with
// a character tokenizer made here.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/json.h"
#include "tests/support/program.h"

namespace euromodal {

class TinyTextModelTest : public testing::Test {
 protected:
  /// 96 tokens: <unk> <s> </s> <|im_start|> <|im_end|>, then printable characters.
  void SetUp() override {
    const std::filesystem::path from =
        std::filesystem::path(EM_SOURCE_DIR) / "tests/inference/goldens/llama";
    for (const char* file : {"config.json", "generation_config.json", "model.safetensors"})
      std::filesystem::copy_file(from / file, dir_ / file);
    Json vocab = Json::object(), added = Json::array();
    const std::vector<std::string> special = {"<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"};
    for (const std::string& token : special) {
      const auto id = static_cast<int64_t>(vocab.size());
      vocab[token] = id;
      added.push_back({{"id", id},
                       {"content", token},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", true}});
    }
    vocab["\n"] = vocab.size();
    for (char c = ' '; vocab.size() < 96; ++c) vocab[std::string(1, c)] = vocab.size();
    const Json tokenizer = {
        {"version", "1.0"},
        {"truncation", nullptr},
        {"padding", nullptr},
        {"added_tokens", added},
        {"normalizer", nullptr},
        {"pre_tokenizer", nullptr},
        {"post_processor",
         {{"type", "TemplateProcessing"},
          {"single",
           {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}},
            {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
          {"pair", {{{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
          {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {1}}, {"tokens", {"<s>"}}}}}}}},
        {"decoder", {{"type", "Fuse"}}},
        {"model",
         {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", "<unk>"},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", true},
          {"byte_fallback", false},
          {"vocab", vocab},
          {"merges", Json::array()}}}};
    dir_.write("tokenizer.json", tokenizer.dump());
    dir_.write("tokenizer_config.json",
               R"({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"})");
  }

  ProgramResult generate(std::vector<std::string> words) const {
    words.insert(words.begin(), {"generate", "--model", dir_.path().string()});
    return run_program(words);
  }

  TempDir dir_;
};

}  // namespace euromodal
