// data_bench.cpp — how long a trainer waits for data that are decoded as it goes: `data_bench
// PICTURE.jpg SOUND.flac [WORKERS [SAMPLES]]` prints, for steps that take 0.5 to 3 times what the
// workers need at best for their samples, the share of the time that the trainer waited (stall) and
// the rate of the data as a ratio to that limit: workers / seconds of one sample in one thread. The
// step itself sleeps: it stands for a device, and leaves the cores to the workers.
//
// A sample is a picture to 384 x 384 pixels (SigLIP) or a sound to windows of 128 mel bins
// (Whisper large), in turns. The aim: stall below 2 % with two workers once steps take 1.5 times
// the limit or more.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <unistd.h>

#include "core/files.h"
#include "core/json.h"
#include "encoders/preprocess/image_transform.h"
#include "encoders/preprocess/log_mel.h"
#include "training/data/datasets.h"
#include "training/data/loader.h"

namespace {

using namespace euromodal;
using Clock = std::chrono::steady_clock;

double bench_seconds(Clock::time_point since) {
  return std::chrono::duration<double>(Clock::now() - since).count();
}

Example bench_prepare(const Sample& sample) {
  static const ImageTransform transform = [] {
    ImageTransform out = ImageTransform::siglip_defaults();
    out.height = out.width = 384;
    return out;
  }();
  Example out;
  out.id = sample.record.id;
  out.kinds = {media_refs(sample.record).at(0)->kind};
  if (out.kinds[0] == Modality::kImage) {
    out.inputs.push_back({transform.apply(media_reader().read_image(sample.media[0])), 0});
  } else {
    LogMelConfig config;
    config.mels = 128;
    out.inputs.push_back(log_mel_windows(media_reader().read_audio(sample.media[0]), config));
  }
  out.plan.ids.assign(64, 0);
  out.plan.labels.assign(64, -100);
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3 || argc > 5) {
    std::fprintf(stderr, "usage: data_bench PICTURE.jpg SOUND.flac [WORKERS [SAMPLES]]\n");
    return 2;
  }
  const int64_t workers = argc > 3 ? std::atoll(argv[3]) : 2,
                samples = argc > 4 ? std::atoll(argv[4]) : 8;
  const auto dir =
      std::filesystem::temp_directory_path() / fmt::format("euromodal_data_bench_{}", ::getpid());
  std::filesystem::create_directories(dir);
  std::string lines;
  for (int i = 0; i < 64; ++i) {
    const char* kind = i % 2 == 0 ? "image" : "audio";
    lines += fmt::format(
        R"({{"id": "{}", "messages": [{{"role": "user", "parts": [{{"kind": "{}", "uri": {}}}]}}]}})"
        "\n",
        i, kind, Json(std::filesystem::absolute(argv[1 + i % 2]).string()).dump());
  }
  write_text_atomic(dir / "bench.jsonl", lines);
  const std::shared_ptr<const Dataset> data = Dataset::open(dir / "bench.jsonl");
  at::set_num_threads(1);

  double one[2] = {1e30, 1e30};  // best of a few, by kind
  for (int i = 0; i < 10; ++i) {
    const Sample sample = data->get(i);
    const auto start = Clock::now();
    bench_prepare(sample);
    one[i % 2] = std::min(one[i % 2], bench_seconds(start));
  }
  const double best =
      static_cast<double>(samples) * (one[0] + one[1]) / 2.0 / static_cast<double>(workers);
  std::printf("picture_ms=%.1f sound_ms=%.1f workers=%ld samples=%ld step_limit_ms=%.1f\n",
              1e3 * one[0], 1e3 * one[1], static_cast<long>(workers), static_cast<long>(samples),
              1e3 * best);
  for (const double factor : {0.5, 1.0, 1.5, 2.0, 3.0}) {
    LoaderOptions options;
    options.batch_samples = samples;
    options.workers = workers;
    options.prefetch_steps = 4;
    Loader loader(
        data, options, [](const Sample& sample, int64_t) { return bench_prepare(sample); },
        /*first_step=*/0);
    loader.next();  // the workers start with an empty window
    const double stalled = loader.figures().stall_s;
    const auto start = Clock::now();
    const int steps = std::max(4, static_cast<int>(2.0 / (factor * best)));
    for (int step = 0; step < steps; ++step) {
      std::this_thread::sleep_for(std::chrono::duration<double>(factor * best));
      loader.next();
    }
    const double seconds = bench_seconds(start);
    std::printf("step_ms=%.1f stall=%.1f%% rate/limit=%.2f ready_steps=%.1f\n", 1e3 * factor * best,
                100.0 * (loader.figures().stall_s - stalled) / seconds,
                static_cast<double>(steps) * best / seconds,
                loader.figures().ready_steps / static_cast<double>(loader.figures().steps));
  }
  std::filesystem::remove_all(dir);
  return 0;
}
