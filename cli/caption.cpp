// caption.cpp — `euromodal caption`: text for pictures, sound and clips: one prompt on the command
// line, or every record of a data set.
#include "inference/caption.h"

#include <chrono>
#include <cstdio>

#include "backbone/device.h"
#include "backbone/device_model.h"
#include "cli/commands.h"
#include "cli/generation_flags.h"
#include "cli/options.h"
#include "core/files.h"
#include "core/progress.h"
#include "inference/language.h"
#include "training/data/dataset.h"

namespace euromodal::cli {

namespace {

/// Answers to the records of a data set, one JSON line each; the file is complete or absent.
void caption_records(const MultimodalModel& model, const std::string& records,
                     const std::string& output, const GenerationFlags& flags) {
  const auto data = Dataset::open(records);
  AtomicFile out(output);
  Progress progress("caption", data->size(), "records");
  for (int64_t i = 0; i < data->size(); ++i) {
    const Sample sample = data->get(i);
    const Generated answer =
        caption(model, caption_record(model, sample.record, sample.media), flags.options);
    const Json line = {{"id", sample.record.id},
                       {"lang", sample.record.lang},
                       {"kind", record_kind(sample.record)},
                       {"prompt", record_prompt(sample.record)},
                       {"text", flags.text_of(answer.tokens)},
                       {"tokens", answer.tokens},
                       {"reference", record_reference(sample.record)}};
    out.write(line.dump() + "\n");
    progress.update(i + 1);
  }
  out.commit();
  progress.finish();
}

}  // namespace

int run_caption(int argc, char** argv) {
  Options parser("caption", "captions pictures, sound and video, or answers a question about them");
  GenerationFlags flags;
  std::string model_dir, prompt, language, records, output;
  std::vector<CaptionMedium> media;
  bool no_template = false;
  const auto add = [&](Modality kind) {
    return [&media, kind](const std::string& file) {
      MediaSource source;
      source.name = file;
      media.push_back({kind, std::move(source)});
    };
  };
  parser.text("--model", &model_dir, "DIR", "coupled model folder", /*required=*/true);
  parser.each("--image", "FILE", "a picture; media may be repeated and count in the order given",
              add(Modality::kImage));
  parser.each("--audio", "FILE", "a sound", add(Modality::kAudio));
  parser.each("--video", "FILE", "a clip", add(Modality::kVideo));
  parser.text(
      "--prompt", &prompt, "TEXT",
      "question; <image>, <audio> and <video> in it say where the media go (else they come first)");
  parser.text("--language", &language, "XX",
              "language of the answer, e.g. de: stands for {language} in the prompt, or asks for a "
              "description");
  parser.flag("--no-template", &no_template,
              "takes the prompt as it is, without the chat template");
  parser.text("--records", &records, "PATH",
              "instead of media: every record of a data set (index, shard folder or JSONL)");
  parser.text("--output", &output, "FILE", "with --records: one JSON line per record");
  flags.declare(parser);
  flags.declare_output(parser);
  if (!parser.parse(argc, argv)) return 0;
  flags.finish(parser);

  const bool batch = parser.given("--records");
  check<UsageError>(batch == parser.given("--output"), "--records and --output go together");
  for (const char* name : {"--prompt", "--language", "--no-template", "--json", "--dump-logits"}) {
    check<UsageError>(!batch || !parser.given(name),
                      "{} does not go with --records: the records say what is asked", name);
  }
  check<UsageError>(!batch || media.empty(),
                    "--records does not go with --image, --audio or --video");
  check<UsageError>(batch || !media.empty() || parser.given("--prompt"),
                    "give --image, --audio or --video (or --records)");
  const size_t bad = find_invalid_utf8(prompt);
  check<DataError>(bad == std::string::npos, "--prompt: not valid UTF-8 at byte {}", bad);
  const std::string question =
      no_template && language.empty() ? prompt : caption_prompt(prompt, language);
  check_captionable(model_dir);

  const auto start = std::chrono::steady_clock::now();
  const auto model = MultimodalModel::load(model_dir, flags.dtype);
  move_model(model->backbone(), model->parameters(), flags.device);
  const auto tokenizer = model->plan_context().tokenizer;
  flags.bind(tokenizer, model->backbone().config().eos_ids);
  flags.prepare(model->backbone(), 0);
  const std::chrono::duration<double> load_time = std::chrono::steady_clock::now() - start;
  if (batch) {
    caption_records(*model, records, output, flags);
    return 0;
  }

  TokenPrinter printer(tokenizer, flags.stops);
  const bool stream = !flags.json && flags.options.beams == 1;  // beams are known only at the end
  const Generated out =
      caption(*model, caption_example(*model, media, question, !no_template), flags.options,
              /*want_logits=*/!flags.dump_logits.empty(), [&](int64_t id) {
                if (stream) printer.push(id);
              });
  if (!flags.dump_logits.empty()) write_logits(flags.dump_logits, out.prompt_logits_TV);
  if (flags.json) {
    std::puts(generated_json(out, flags, load_time.count()).c_str());
    return 0;
  }
  if (!stream) {
    for (const int64_t id : out.tokens) printer.push(id);
  }
  printer.finish();
  return 0;
}

}  // namespace euromodal::cli
