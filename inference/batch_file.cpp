// batch_file.cpp — see batch_file.h.
#include "inference/batch_file.h"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <unordered_map>
#include <unordered_set>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "core/error.h"
#include "core/files.h"
#include "core/json.h"
#include "core/log.h"
#include "core/progress.h"

namespace euromodal {

namespace fs = std::filesystem;

namespace {

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> out;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    out.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return out;
}

BatchLine parse_line(const Json& json, const std::string& what, size_t number) {
  check<DataError>(json.is_object(), "{}: expected an object", what);
  const JsonView view(json, what);
  BatchLine out;
  out.id = json.contains("id")
               ? json["id"].is_string() ? json["id"].get<std::string>() : json["id"].dump()
               : std::to_string(number);
  int sources = 0;
  for (const auto& [key, value] : json.items()) {
    if (key == "prompt") {
      out.prompt = view.str("prompt");
      ++sources;
    } else if (key == "tokens") {
      check<DataError>(value.is_array() && !value.empty(), "{}: tokens must be a list of ids",
                       what);
      for (const Json& id : value) {
        check<DataError>(id.is_number_integer(), "{}: tokens must be a list of ids", what);
        out.tokens.push_back(id.get<int64_t>());
      }
      ++sources;
    } else if (key == "messages") {
      check<DataError>(value.is_array() && !value.empty(), "{}: messages must be a list", what);
      for (const Json& message : value) {
        check<DataError>(message.is_object(), "{}: messages must be objects", what);
        const JsonView turn(message, what + ": messages");
        out.messages.push_back({turn.str("role"), turn.str("content")});
      }
      ++sources;
    } else if (key == "max_new_tokens" || key == "seed") {
      const int64_t number_of = view.i64(key);
      check<DataError>(number_of >= 0, "{}: {} is negative", what, key);
      (key == "seed" ? out.seed : out.max_new_tokens) = number_of;
    } else {
      check<DataError>(key == "id",
                       "{}: unknown key {} (id, prompt, tokens, messages, max_new_tokens, seed)",
                       what, key);
    }
  }
  check<DataError>(sources == 1, "{}: expected exactly one of prompt, tokens and messages", what);
  return out;
}

/// The part file: opened for appending, without what a kill cut off, held by one process alone.
class PartFile {
 public:
  explicit PartFile(const fs::path& file) : file_(file) {
    fd_ = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    check(fd_ >= 0, "{}: cannot be written: {}", file.string(), std::strerror(errno));
    check(::flock(fd_, LOCK_EX | LOCK_NB) == 0, "{}: another process is writing it", file.string());
    const std::string text = read_text(file);
    const size_t whole = text.rfind('\n') == std::string::npos ? 0 : text.rfind('\n') + 1;
    for (const std::string_view line : lines_of(std::string_view(text).substr(0, whole))) {
      const Json json = parse_json(line, file.string());
      check<DataError>(json.is_object() && json.contains("id") && json["id"].is_string(),
                       "{}: is there already and holds no answers; give another --output",
                       file.string());
      lines_[json["id"].get<std::string>()] = std::string(line);
    }
    check(::ftruncate(fd_, static_cast<off_t>(whole)) == 0 && ::lseek(fd_, 0, SEEK_END) >= 0,
          "{}: cannot be written: {}", file.string(), std::strerror(errno));
  }
  ~PartFile() { ::close(fd_); }
  PartFile(const PartFile&) = delete;
  PartFile& operator=(const PartFile&) = delete;

  const std::unordered_map<std::string, std::string>& lines() const { return lines_; }

  void add(const std::string& id, const Json& answer) {
    std::string line = answer.dump(-1, ' ', false, Json::error_handler_t::replace);
    const std::string bytes = line + "\n";
    for (size_t done = 0; done < bytes.size();) {
      const ssize_t n = ::write(fd_, bytes.data() + done, bytes.size() - done);
      check(n > 0 || errno == EINTR, "{}: cannot be written: {}", file_.string(),
            std::strerror(errno));
      if (n > 0) done += static_cast<size_t>(n);
    }
    lines_[id] = std::move(line);
  }

 private:
  fs::path file_;
  int fd_ = -1;
  std::unordered_map<std::string, std::string> lines_;  // by id
};

BatchRequest request_of(const BatchLine& line, int64_t number, const Tokenizer& tokenizer,
                        const ChatTemplate* chat, const GenerateOptions& options) {
  BatchRequest out;
  out.number = number;
  out.options = options;
  if (line.max_new_tokens >= 0) out.options.max_new_tokens = line.max_new_tokens;
  if (line.seed >= 0) out.options.seed = static_cast<uint64_t>(line.seed);
  if (!line.tokens.empty()) {
    out.prompt_ids = line.tokens;
  } else if (line.messages.empty()) {
    out.prompt_ids = tokenizer.encode(line.prompt, EncodeMode::kFull);
  } else {
    check<DataError>(chat != nullptr, "messages need a model folder with a chat template");
    out.prompt_ids =
        tokenizer.encode(chat->render_text(line.messages, /*add_generation_prompt=*/true),
                         chat->writes_bos() ? EncodeMode::kNoSpecial : EncodeMode::kFull);
  }
  return out;
}

}  // namespace

std::vector<BatchLine> read_batch_lines(const fs::path& file) {
  const std::string text = read_text(file);
  std::vector<BatchLine> out;
  std::unordered_set<std::string> ids;
  size_t number = 0;
  for (const std::string_view line : lines_of(text)) {
    const std::string what = fmt::format("{}:{}", file.string(), number + 1);
    if (line.find_first_not_of(" \t\r") != std::string_view::npos) {
      const size_t bad = find_invalid_utf8(line);
      check<DataError>(bad == std::string::npos, "{}: not valid UTF-8 at byte {}", what, bad);
      out.push_back(parse_line(parse_json(line, what), what, number));
      check<DataError>(ids.insert(out.back().id).second, "{}: the id {} comes twice", what,
                       out.back().id);
    }
    ++number;
  }
  check<DataError>(!out.empty(), "{}: holds no prompts", file.string());
  return out;
}

BatchFileResult run_batch_file(const Llama& llama, const Tokenizer& tokenizer,
                               const ChatTemplate* chat, const BatchFileJob& job) {
  const std::vector<BatchLine> lines = read_batch_lines(job.input);
  const fs::path part = job.output.string() + ".part";
  BatchFileResult out;
  out.lines = static_cast<int64_t>(lines.size());
  {
    PartFile answers(part);
    BatchEngine engine(llama, job.limits, job.options.decoder);
    int64_t done = 0;
    size_t next = 0;
    for (const BatchLine& line : lines) done += answers.lines().contains(line.id) ? 1 : 0;
    out.done_before = done;
    if (done > 0)
      log_info("{}: {} of {} answers are there already", part.string(), done, out.lines);
    const auto start = std::chrono::steady_clock::now();
    Progress progress("generate", out.lines, "prompts", true, done);
    const auto keep = [&](const std::string& id, Json answer) {
      answers.add(id, answer);
      progress.update(++done, fmt::format("new tokens {}", out.new_tokens));
    };
    while (next < lines.size() || engine.busy()) {
      if (job.stop && job.stop()) {
        progress.finish("stopped");
        return out;
      }
      // A prompt is read when there is room for it: all of them would fill the memory.
      while (next < lines.size() && engine.waiting() < static_cast<size_t>(job.limits.sequences)) {
        const BatchLine& line = lines[next];
        const auto number = static_cast<int64_t>(next++);
        if (answers.lines().contains(line.id)) continue;
        try {
          engine.add(request_of(line, number, tokenizer, chat, job.options));
        } catch (const DataError& e) {
          ++out.failed;
          keep(line.id, {{"id", line.id}, {"error", e.what()}});
        }
      }
      if (!engine.busy()) continue;
      engine.step([&](int64_t number, Generated answer) {
        const std::string& id = lines[static_cast<size_t>(number)].id;
        out.new_tokens += answer.timings.new_tokens;
        out.prompt_tokens += answer.timings.prompt_tokens;
        out.reused_tokens += answer.timings.reused_tokens;
        keep(id, {{"id", id},
                  {"text", job.text_of(answer.tokens)},
                  {"tokens", answer.tokens},
                  {"finish_reason", finish_reason_name(answer.finish)},
                  {"prompt_tokens", answer.timings.prompt_tokens}});
      });
    }
    progress.finish();
    out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    AtomicFile whole(job.output);
    for (const BatchLine& line : lines) whole.write(answers.lines().at(line.id) + "\n");
    whole.commit();
  }
  fs::remove(part);
  out.complete = true;
  return out;
}

}  // namespace euromodal
