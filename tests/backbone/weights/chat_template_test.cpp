// Chat templates: every usual spelling of ChatML against transformers, pieces, and what is refused.
#include "backbone/weights/chat_template.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "tests/support/temp.h"

namespace euromodal {
namespace {

using nlohmann::json;

std::vector<ChatMessage> messages_of(const json& list) {
  std::vector<ChatMessage> out;
  for (const json& message : list)
    out.push_back(
        {message.at("role").get<std::string>(), message.at("content").get<std::string>()});
  return out;
}

TEST(ChatTemplateTest, TextIsThatOfTransformers) {
  const json cases =
      json::parse(read_bytes(std::filesystem::path(EM_TEST_DIR) / "goldens/chat.json"));
  ASSERT_GT(cases.size(), 70u);
  for (const json& entry : cases) {
    TempDir dir;
    dir.write("tokenizer_config.json", entry.at("config").dump());
    const auto chat = ChatTemplate::load(dir.path());
    EXPECT_EQ(chat.render_text(messages_of(entry.at("messages")), entry.at("prompt").get<bool>()),
              entry.at("text").get<std::string>())
        << entry.at("name");
    EXPECT_EQ(chat.writes_bos(), entry.at("text").get<std::string>().starts_with("<s>"));
  }
}

TEST(ChatTemplateTest, PiecesMarkWhatTheAssistantSays) {
  TempDir dir;
  dir.write("chat_template.jinja", ChatTemplate::chatml_jinja());
  const auto pieces = ChatTemplate::load(dir.path())
                          .render({{"user", "Hi"}, {"assistant", "Tere"}, {"user", "x"}}, true);
  ASSERT_EQ(pieces.size(), 4u);
  EXPECT_EQ(pieces[0].text, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(pieces[1].text, "Tere<|im_end|>");
  EXPECT_EQ(pieces[2].text, "\n<|im_start|>user\nx<|im_end|>\n");
  EXPECT_EQ(pieces[3].text, "<|im_start|>assistant\n");
  for (size_t i = 0; i < pieces.size(); ++i) EXPECT_EQ(pieces[i].target, i == 1);
}

TEST(ChatTemplateTest, WhereTheTemplateStands) {
  TempDir dir;
  const auto load = [&] { (void)ChatTemplate::load(dir.path()); };
  EXPECT_TRUE((throws_with<ConfigError>(load, {"no chat template"})));
  dir.write("tokenizer.json", R"({"added_tokens":["<|im_start|>","<|im_end|>"]})");
  EXPECT_EQ(ChatTemplate::load(dir.path()).render_text({{"user", "a"}}, false),
            "<|im_start|>user\na<|im_end|>\n");
  const json list = {{{"name", "tool"}, {"template", "{{ tools }}"}},
                     {{"name", "default"}, {"template", ChatTemplate::chatml_jinja()}}};
  dir.write("tokenizer_config.json", json({{"chat_template", list}}).dump());
  EXPECT_NO_THROW(load());
  dir.write("chat_template.jinja", "{{ messages }}");  // wins over tokenizer_config.json
  EXPECT_TRUE((throws_with<ConfigError>(load, {"chat_template.jinja", "not ChatML"})));
}

// The usual templates of other families, shortened where they repeat themselves.
TEST(ChatTemplateTest, OtherFamiliesAreRefusedByName) {
  for (const char* text :
       {// Llama 2
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set "
        "system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% "
        "set system_message = false %}{% endif %}{% for message in loop_messages %}{% if "
        "message['role'] == 'user' %}{{ bos_token + '[INST] ' + message['content'].strip() + ' "
        "[/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'].strip() + "
        "' ' + eos_token }}{% endif %}{% endfor %}",
        // Llama 3
        "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
        "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | "
        "trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% "
        "endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ "
        "'<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        // Mistral
        "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != "
        "(loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{% if "
        "message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ "
        "message['content'] + eos_token }}{% endif %}{% endfor %}",
        // Gemma
        "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'assistant') %}{% "
        "set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ "
        "'<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% "
        "endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"}) {
    TempDir dir;
    dir.write("chat_template.jinja", text);
    EXPECT_TRUE((throws_with<ConfigError>([&] { (void)ChatTemplate::load(dir.path()); },
                                          {"chat_template.jinja", "not ChatML"})))
        << text;
  }
}

TEST(ChatTemplateTest, OtherTemplatesAreRefusedByName) {
  const std::string chatml = ChatTemplate::chatml_jinja();
  for (const std::string& text :
       {std::string("[INST] {{ messages[0]['content'] }} [/INST]"), chatml + "x",
        chatml.substr(0, chatml.size() - 4), std::string("{% for message in messages %}{{ '"),
        std::string("{{ '<|im_start|>' }}"), std::string("{{"), std::string("{% if"),
        std::string("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + "
                    "message['role'] + '<|im_end|>' + '\\n' }}{% endfor %}")}) {
    TempDir dir;
    dir.write("tokenizer_config.json", json({{"chat_template", text}}).dump());
    EXPECT_TRUE((throws_with<ConfigError>([&] { (void)ChatTemplate::load(dir.path()); },
                                          {"tokenizer_config.json", "not ChatML"})))
        << text;
  }
  TempDir dir;
  dir.write("tokenizer_config.json", R"({"chat_template": 3})");
  EXPECT_TRUE((throws_with<ConfigError>([&] { (void)ChatTemplate::load(dir.path()); },
                                        {"tokenizer_config.json", "chat_template"})));
  dir.write("tokenizer_config.json", json({{"chat_template", "{{ bos_token }}" + chatml}}).dump());
  EXPECT_TRUE((throws_with<ConfigError>([&] { (void)ChatTemplate::load(dir.path()); },
                                        {"bos_token", "names none"})));
}

}  // namespace
}  // namespace euromodal
