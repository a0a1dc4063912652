// chat.cpp — `euromodal chat`: a conversation on the terminal or through a pipe, with the model's
// chat template. Answers go to stdout as they come; everything else to stderr.
#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <c10/util/Exception.h>
#include <unistd.h>

#include "backbone/device.h"
#include "backbone/device_model.h"
#include "backbone/llama.h"
#include "backbone/lora.h"
#include "backbone/weights/chat_template.h"
#include "backbone/weights/tokenizer.h"
#include "cli/commands.h"
#include "cli/generation_flags.h"
#include "cli/options.h"
#include "core/error.h"
#include "core/files.h"
#include "inference/generator.h"
#include "inference/kept_sequences.h"
#include "inference/memory.h"
#include "multimodal/model.h"

namespace euromodal::cli {

namespace {

constexpr int64_t kFeatureCacheBytes = int64_t{256} << 20;

constexpr const char* kChatHelp =
    "  /image FILE, /audio FILE, /video FILE   goes with your next message\n"
    "  /reset   forget the conversation\n  /quit    end\n";

volatile std::sig_atomic_t chat_interrupted = 0;

/// While it lives, Ctrl-C ends the answer and not the program.
class InterruptGuard {
 public:
  InterruptGuard() {
    chat_interrupted = 0;
    struct sigaction action = {};
    action.sa_handler = [](int) { chat_interrupted = 1; };
    sigaction(SIGINT, &action, &before_);
  }
  ~InterruptGuard() { sigaction(SIGINT, &before_, nullptr); }
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

 private:
  struct sigaction before_ = {};
};

/// The model behind the conversation: a text model, or a coupled one.
class ChatModel {
 public:
  ChatModel(const std::string& dir, const GenerationFlags& flags)
      : device_(flags.device), options_(flags.options) {
    if (MultimodalModel::is_folder(dir)) {
      coupled_ = MultimodalModel::load(dir, flags.dtype);
      move_model(coupled_->backbone(), coupled_->parameters(), device_);
      return;
    }
    text_context_.tokenizer = Tokenizer::load(dir);
    text_context_.chat = ChatTemplate::load(dir);
    text_ = load_text_model(dir, flags.dtype);
    merge_lora(text_.llama->linears());
    move_model(*text_.llama, text_.parameters, device_);
  }

  const PlanContext& context() const { return coupled_ ? coupled_->plan_context() : text_context_; }
  const Llama& llama() const { return coupled_ ? coupled_->backbone() : *text_.llama; }

  /// Reads a file and queues it for the conversation; DataError when the model takes no such media.
  void add_media(Modality kind, const std::string& file) {
    check<DataError>(coupled_ && coupled_->takes(kind), "this model takes no {}",
                     modality_name(kind));
    inputs_.push_back(coupled_->prepare(kind, {.name = file, .bytes = {}}));
    kinds_.push_back(kind);
    numbers_.push_back(next_number_++);
  }
  size_t media_count() const { return inputs_.size(); }
  void keep_media(size_t count) {
    inputs_.resize(count);
    kinds_.resize(count);
    numbers_.resize(count);
  }
  const std::vector<Modality>& kinds() const { return kinds_; }

  /// The whole conversation as the model takes it.
  Prompt prompt(const std::vector<ChatMessage>& messages) {
    const std::string text = context().chat.render_text(messages, /*add_generation_prompt=*/true);
    if (!coupled_) {
      Prompt out{context().tokenizer->encode(text, EncodeMode::kFull), {}};
      check_prompt(out.ids);
      return out;
    }
    std::vector<int64_t> counts;
    for (size_t i = 0; i < inputs_.size(); ++i)
      counts.push_back(coupled_->num_tokens(kinds_[i], inputs_[i]));
    Example example;
    example.id = "conversation";
    example.plan = plan_prompt(text, kinds_, counts, /*use_template=*/false, context());
    example.kinds = kinds_;
    example.inputs = inputs_;
    std::array<std::vector<int64_t>, 3> numbers;
    for (size_t i = 0; i < inputs_.size(); ++i) {
      example.media_keys.push_back(std::to_string(numbers_[i]));
      numbers[static_cast<size_t>(kinds_[i])].push_back(numbers_[i]);
    }
    Prompt out{example.plan.ids, {}, prompt_keys(example.plan, numbers)};
    check_prompt(out.ids);
    std::vector<Example> examples;
    examples.push_back(std::move(example));
    out.emb_TD = coupled_->embed(collate(std::move(examples), /*per_sample=*/false), &features_);
    return out;
  }

 private:
  void check_prompt(const std::vector<int64_t>& ids) const {
    const auto tokens = static_cast<int64_t>(ids.size());
    check_prompt_length(tokens, llama().config());
    check_generation_memory(llama(), tokens, options_);
  }

  at::Device device_;
  const GenerateOptions& options_;
  TextModel text_;
  PlanContext text_context_;
  std::unique_ptr<MultimodalModel> coupled_;
  FeatureCache features_{kFeatureCacheBytes};  // media of earlier turns are encoded once
  std::vector<EncoderInput> inputs_;           // of the conversation, in order
  std::vector<Modality> kinds_;
  std::vector<int64_t> numbers_;  // of each medium, never given twice
  int64_t next_number_ = 0;
};

class Conversation {
 public:
  Conversation(ChatModel& model, const GenerationFlags& flags, std::string system, bool timings)
      : model_(model),
        flags_(flags),
        options_(flags.options),
        system_(std::move(system)),
        timings_(timings) {
    options_.interrupted = [] { return chat_interrupted != 0; };
    reset();
  }

  void reset() {
    messages_.clear();
    if (!system_.empty()) messages_.push_back({"system", system_});
    model_.keep_media(0);
    settled_media_ = 0;
  }

  /// False when the conversation ends.
  bool command(const std::string& line) {
    const size_t space = line.find(' ');
    const std::string word = line.substr(0, space);
    const std::string rest = space == std::string::npos ? "" : line.substr(space + 1);
    if (word == "/quit" || word == "/exit") return false;
    if (word == "/reset" || word == "/clear") {
      reset();
    } else if (word == "/help") {
      std::fputs(kChatHelp, stderr);
    } else if (word == "/image" || word == "/audio" || word == "/video") {
      check<UsageError>(!rest.empty(), "{}: name a file behind it", word);
      model_.add_media(word == "/image"   ? Modality::kImage
                       : word == "/audio" ? Modality::kAudio
                                          : Modality::kVideo,
                       rest);
    } else {
      throw UsageError("unknown command {}; /help lists them", word);
    }
    return true;
  }

  /// One turn: prints the answer. When it fails the conversation is as before.
  void say(const std::string& line) {
    const size_t bad = find_invalid_utf8(line);
    check<DataError>(bad == std::string::npos, "the message is not valid UTF-8 at byte {}", bad);
    std::string content;
    for (size_t i = settled_media_; i < model_.media_count(); ++i)
      content += model_.context().marker[static_cast<size_t>(model_.kinds()[i])] + "\n";
    messages_.push_back({"user", content + line});
    try {
      const std::string answer = answer_turn();
      messages_.push_back({"assistant", answer});
      settled_media_ = model_.media_count();
    } catch (...) {
      messages_.pop_back();
      model_.keep_media(settled_media_);
      throw;
    }
  }

 private:
  std::string answer_turn() {
    const Prompt prompt = model_.prompt(messages_);
    TokenPrinter printer(model_.context().tokenizer, flags_.stops);
    const InterruptGuard guard;
    const Generated out = generate(model_.llama(), prompt, options_,
                                   /*want_logits=*/false, [&](int64_t id) { printer.push(id); });
    if (options_.beams > 1)  // beams are known only at the end
      for (int64_t id : out.tokens) printer.push(id);
    printer.finish();
    if (timings_) {
      const GenerateTimings& t = out.timings;
      std::fputs(
          fmt::format("prompt_tokens={} reused_tokens={} first_token_s={:.4f} new_tokens={} "
                      "decode_s={:.4f}\n",
                      t.prompt_tokens, t.reused_tokens, t.prefill_s, t.new_tokens, t.decode_s)
              .c_str(),
          stderr);
    }
    return flags_.text_of(out.tokens);
  }

  ChatModel& model_;
  const GenerationFlags& flags_;
  GenerateOptions options_;
  std::string system_;
  bool timings_;
  std::vector<ChatMessage> messages_;
  size_t settled_media_ = 0;  // media of turns that have been answered
};

}  // namespace

int run_chat(int argc, char** argv) {
  Options parser("chat", "interactive chat; /help there lists its commands");
  GenerationFlags flags(/*max_new_tokens=*/1024);
  std::string dir, system;
  parser.text("--model", &dir, "DIR", "model folder: text, or coupled with media; or GGUF file",
              /*required=*/true);
  parser.text("--system", &system, "TEXT", "system message at the start");
  bool timings = false;
  parser.flag("--timings", &timings,
              "after each answer a line on stderr: tokens of the prompt, those reused, seconds");
  flags.declare(parser);
  if (!parser.parse(argc, argv)) return 0;
  flags.finish(parser);
  const size_t bad = find_invalid_utf8(system);
  check<DataError>(bad == std::string::npos, "--system: not valid UTF-8 at byte {}", bad);

  ChatModel model(dir, flags);
  // A base model's configuration may not name the end of a ChatML turn.
  std::vector<int64_t> stop_ids = model.llama().config().eos_ids;
  const auto turn_end = model.context().tokenizer->id_of("<|im_end|>");
  if (turn_end && std::find(stop_ids.begin(), stop_ids.end(), *turn_end) == stop_ids.end())
    stop_ids.push_back(*turn_end);
  flags.bind(model.context().tokenizer, std::move(stop_ids));
  flags.prepare(model.llama(), 0);

  Conversation conversation(model, flags, system, timings);
  const bool terminal = ::isatty(STDIN_FILENO) != 0;
  if (terminal) std::fputs(kChatHelp, stderr);
  bool failed = false;
  for (std::string line;;) {
    if (terminal) std::fputs("> ", stderr);
    if (!std::getline(std::cin, line)) break;
    if (line.empty()) continue;
    try {
      if (line[0] != '/') {
        conversation.say(line);
      } else if (!conversation.command(line)) {
        break;
      }
    } catch (const c10::Error& e) {
      failed = true;
      std::fprintf(stderr, "error: %s\n", e.what_without_backtrace());
    } catch (const Error& e) {  // a bad file or a full context ends the turn, not the conversation
      failed = true;
      std::fprintf(stderr, "error: %s\n", e.what());
    }
  }
  return failed && !terminal ? 1 : 0;
}

}  // namespace euromodal::cli
