// tiny_world.h — a world small enough to train in a test: pictures (PPM), sounds (WAV) and text as
// JSONL, a backbone and two encoders of a few thousand parameters, and the YAML of a run on them.
#pragma once
#include <cmath>
#include <string>
#include <vector>

#include "core/config.h"
#include "core/files.h"
#include "core/rng.h"
#include "tests/support/temp.h"
#include "training/stages.h"

namespace euromodal {

constexpr const char* kTinyWords[] = {"balena", "tromba", "sushi", "Mikrobe"};

/// The repository: where it was built, else (a GPU host with the programs alone) the folder that
/// tests run in.
inline std::string tiny_source() {
  return std::filesystem::exists(EM_SOURCE_DIR) ? EM_SOURCE_DIR : ".";
}

/// 16 x 16 pixels of one colour with noise; the class is the colour.
inline std::string tiny_picture(int64_t kind, uint64_t seed) {
  Rng rng(seed);
  std::string out = "P6\n16 16\n255\n";
  for (int i = 0; i < 256; ++i) {
    for (int64_t c = 0; c < 3; ++c)
      out += static_cast<char>((c == kind % 3 ? 200 : 40) + rng.below(40) - (kind == 3 ? 20 : 0));
  }
  return out;
}

/// 16-bit mono WAV of 16 kHz: a tone, its pitch is the class.
inline std::string tiny_sound(int64_t kind, int64_t samples) {
  const auto u32 = [](uint32_t v) { return std::string(reinterpret_cast<const char*>(&v), 4); };
  const auto u16 = [](uint16_t v) { return std::string(reinterpret_cast<const char*>(&v), 2); };
  const auto bytes = static_cast<uint32_t>(2 * samples);
  std::string out = "RIFF" + u32(36 + bytes) + "WAVEfmt " + u32(16) + u16(1) + u16(1) + u32(16000) +
                    u32(32000) + u16(2) + u16(16) + "data" + u32(bytes);
  for (int64_t i = 0; i < samples; ++i) {
    out += u16(static_cast<uint16_t>(
        static_cast<int16_t>(8000.0 * std::sin(0.02 * static_cast<double>((kind + 1) * i)))));
  }
  return out;
}

/// A record that asks about sound or picture `i` and says what it stands for.
inline std::string tiny_medium_with_text(int64_t i, const std::string& kind) {
  const char *word = kTinyWords[i % 4], *other = kTinyWords[(i + 1) % 4];
  return fmt::format(
             R"({{"id": "d{0}", "messages": [{{"role": "user", "parts": [{{"kind": "{1}", "uri": "media/{0}.{2}", "text": "{3}, {4}"}}]}}, {{"role": "assistant", "parts": ["{3}"]}}]}})",
             i, kind, kind == "audio" ? "wav" : "ppm", word, other) +
         "\n";
}

/// Files below `dir`: text.jsonl, pictures.jsonl, sounds.jsonl, all of these in mixed.jsonl,
/// spoken.jsonl (sounds and pictures in turn, with the text that they stand for), the model
/// configs, classes.txt, alphabet.txt.
class TinyWorld {
 public:
  explicit TinyWorld(const TempDir& dir) : dir_(dir.path()) {
    std::string text, pictures, sounds, spoken;
    for (int64_t i = 0; i < 24; ++i) {
      const int64_t kind = i % 4, other = (i / 4 + kind) % 4;
      const std::string answer = R"("messages": [{"role": "user", "parts": [)";
      text += fmt::format(
                  R"({{"id": "t{}", {}"{}, {}"]}}, {{"role": "assistant", "parts": ["{}"]}}]}})", i,
                  answer, kTinyWords[kind], kTinyWords[other], kTinyWords[kind]) +
              "\n";
      dir.write(fmt::format("media/{}.ppm", i), tiny_picture(kind, static_cast<uint64_t>(i)));
      pictures +=
          fmt::format(
              R"({{"id": "p{0}", "label": "{2}", {1}{{"kind": "image", "uri": "media/{0}.ppm"}}, " {2}"]}}, {{"role": "assistant", "parts": ["{2}"]}}]}})",
              i, answer, kTinyWords[kind]) +
          "\n";
      dir.write(fmt::format("media/{}.wav", i), tiny_sound(kind, 3200 + 400 * (i % 7)));
      sounds +=
          fmt::format(
              R"({{"id": "s{0}", {1}{{"kind": "audio", "uri": "media/{0}.wav"}}, " {2}"]}}, {{"role": "assistant", "parts": ["{3}"]}}]}})",
              i, answer, kTinyWords[kind], std::string(1, static_cast<char>('a' + kind)) + "b") +
          "\n";
    }
    for (int64_t i = 0; i < 24; ++i)
      spoken += tiny_medium_with_text(i, i % 2 == 0 ? "audio" : "image");
    dir.write("text.jsonl", text);
    dir.write("spoken.jsonl", spoken);
    dir.write("pictures.jsonl", pictures);
    dir.write("sounds.jsonl", sounds);
    dir.write("mixed.jsonl", text + pictures + sounds);
    dir.write("classes.txt", "balena\ntromba\nsushi\nMikrobe\n");
    dir.write("alphabet.txt", "a\nb\nc\nd\n");
    dir.write(
        "backbone.json",
        R"({"model_type": "llama", "vocab_size": 921, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
      "num_key_value_heads": 1, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 4})");
    dir.write(
        "image.json",
        R"({"model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "num_channels": 3,
      "image_size": 16, "patch_size": 4, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "vision_use_head": false})");
    dir.write(
        "image_pre.json",
        R"({"image_processor_type": "SiglipImageProcessor", "do_convert_rgb": true, "do_resize": true, "size": {"height": 16, "width": 16}, "resample": 3,
      "do_rescale": true, "rescale_factor": 0.00392156862745098, "do_normalize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]})");
    dir.write(
        "speech.json",
        R"({"model_type": "whisper", "d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 24, "num_mel_bins": 8,
      "max_source_positions": 100, "activation_function": "gelu", "scale_embedding": false, "vocab_size": 8, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 24,
      "max_target_positions": 16})");
    dir.write(
        "speech_pre.json",
        R"({"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 8, "sampling_rate": 16000, "hop_length": 160, "n_fft": 400, "chunk_length": 2,
      "n_samples": 32000, "nb_max_frames": 200, "padding_value": 0.0, "dither": 0.0, "pad_to_window": false})");
  }

  /// The YAML of a run: objective "text", "pictures", "sounds" or "adapters" (after models()).
  std::string yaml(const std::string& objective, const std::string& run) const {
    const std::string d = dir_.string();
    std::string out =
        // The backbone of "adapters" is hardly trained.
        fmt::format(
            "run: {{dir: {}/{}, seed: 7, threads: 1, deterministic: true, "
            "allow_chance_start: true}}\n",
            d, run);
    std::string data = objective, trainable = "\"*\"";
    if (objective == "text") {
      out += fmt::format(
          "objective:\n  type: next_token\n  model: {{backbone: {{random: {{config: "
          "{}/backbone.json, tokenizer: {}/configs/nano/tokenizer}}}}}}\n",
          d, tiny_source());
    } else if (objective == "pictures") {
      out += fmt::format(
          "objective:\n  type: classification\n  encoder: {{random: {{config: {0}/image.json, "
          "preprocessor: {0}/image_pre.json}}}}\n  classes: {0}/classes.txt\n"
          "  augment: {{brightness: 0.1, noise: 0.05}}\n  label_smoothing: 0.1\n",
          d);
    } else if (objective == "sounds") {
      out += fmt::format(
          "objective:\n  type: ctc\n  encoder: {{random: {{config: {0}/speech.json, preprocessor: "
          "{0}/speech_pre.json}}}}\n  alphabet: {0}/alphabet.txt\n"
          "  augment: {{time_masks: 1, time_width: 3, freq_masks: 1, freq_width: 2}}\n",
          d);
    } else {
      data = "mixed";
      trainable = "\"adapter.*\"";
      out += fmt::format(
          "objective:\n  type: next_token\n  feature_cache_mb: 8\n  model:\n    backbone: {{model: "
          "{0}/text/model}}\n"
          "    image: {{placeholder: \"<image>\", encoder: {{model: {0}/pictures/model, features: "
          "last}}, adapter: {{type: pool, grid: [2, 2], hidden: 8, layer_norm: true, output: "
          "{{rms: true}}}}}}\n"
          "    audio: {{placeholder: \"<audio>\", encoder: {{model: {0}/sounds/model, features: "
          "last}}, adapter: {{type: stack_mlp, stack: 4, hidden: 8, layer_norm: true, output: "
          "{{rms: true}}}}}}\n",
          d);
    }
    return out + fmt::format(
                     "data: [{{path: {}/{}.jsonl, repeat: 1.0}}]\nbatch: {{samples: 6, parts: 3, "
                     "workers: 1}}\ntrainable: [{}]\n"
                     "optimizer:\n  - {{params: [\"*norm*\", \"*bias\", \"*embed*\", \"*gain*\", "
                     "\"*conv*\", \"*head*\"], type: adamw, lr: 0.003, betas: [0.9, 0.95], eps: "
                     "1.0e-8, weight_decay: 0.0}}\n  - {{params: [\"*\"], "
                     "type: muon, lr: 0.02, momentum: 0.95, ns_steps: 5}}\n"
                     "schedule: {{type: trapezoid, warmup: 0.2, constant: 0.4, final: "
                     "0.1}}\nclip_norm: 1.0\nsteps: 6\nlog_every: 2\n",
                     d, data, trainable);
  }
  /// Patterns that match nothing are errors: only those that this objective has stay.
  std::filesystem::path config(const std::string& objective, const std::string& run) const {
    std::string text = yaml(objective, run);
    const auto drop = [&](const std::string& pattern) {
      const std::string word = "\"" + pattern + "\", ";
      if (const auto at = text.find(word); at != std::string::npos) text.erase(at, word.size());
    };
    const auto drop_last = [&] { text.replace(text.find(", \"*head*\"]"), 11, "]"); };
    if (objective == "text" || objective == "adapters" || objective == "pictures") drop("*conv*");
    if (objective == "text") drop("*bias");
    if (objective != "adapters") drop("*gain*");
    if (objective == "adapters" || objective == "sounds") drop("*embed*");
    if (objective == "text" || objective == "adapters") drop_last();
    const std::filesystem::path file = dir_ / (run + ".yaml");
    write_text_atomic(file, text);
    return file;
  }

  /// Trains in this process, one rank.
  TrainEnd run(const std::filesystem::path& file, const std::vector<std::string>& overrides = {},
               const std::string& resume = "") const {
    const auto world = make_single();
    return train_file(file, overrides, {.resume = resume}, *world);
  }
  /// Text, picture and sound models for "adapters", trained for a few steps: in a fresh model the
  /// output projections are zero and no gradient would reach an adapter.
  void models() const {
    for (const char* objective : {"text", "pictures", "sounds"}) run(config(objective, objective));
  }

  std::filesystem::path path(const std::string& name) const { return dir_ / name; }
  /// Hash of the trained values, optimiser state and average after `step` steps.
  std::string state(const std::string& run, int64_t step = 6) const {
    const std::filesystem::path folder =
        dir_ / run / "checkpoints" / fmt::format("step-{:08}", step);
    std::string out = hash_hex(read_bytes(folder / "parameters.safetensors")) +
                      hash_hex(read_bytes(folder / "optimizer.safetensors"));
    if (std::filesystem::exists(folder / "average.safetensors"))
      out += hash_hex(read_bytes(folder / "average.safetensors"));
    return out;
  }

 private:
  std::filesystem::path dir_;
};

}  // namespace euromodal
