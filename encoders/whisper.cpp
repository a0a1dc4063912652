// whisper.cpp — Whisper's speech encoder (Radford et al. 2022). Reference: transformers
// WhisperModel encoder.
//   mel [F, M] -> GELU(conv1) -> GELU(conv2, stride 2) [F/2, D] -> + positions -> blocks -> LN
// A sound is cut into windows (30 s in the published models), each attended by itself. With
// `pad_to_window` (as published) a window is padded with silence, which takes part in attention,
// and the rows of the sound are kept: ceil(samples / (2 hop)) in all. Without it a window has its
// own frames only; that is for encoders trained so. Packed varlen: F mel frames and T rows of all
// windows stand one after the other; both convolutions are matrix products over gathered
// neighbours, so nothing is padded to the longest.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>

#include <ATen/ATen.h>

#include "backbone/kernels/ops.h"
#include "backbone/kernels/to_device.h"
#include "core/files.h"
#include "encoders/feature_select.h"
#include "encoders/preprocess/log_mel.h"
#include "encoders/registry.h"
#include "encoders/vit_block.h"
#include "encoders/write_folder.h"

namespace euromodal {
namespace {

constexpr double kWhisperEps = 1e-5;
constexpr const char* kWhisperPositions = "embed_positions.weight";

struct WhisperConfig {
  int64_t width, layers, heads, ffn, mels, positions;
  Activation activation;
};

WhisperConfig whisper_config(const JsonView& json) {
  WhisperConfig c{};
  c.width = json.positive("d_model");
  c.layers = json.positive("encoder_layers");
  c.heads = json.positive("encoder_attention_heads");
  c.ffn = json.positive("encoder_ffn_dim");
  c.mels = json.positive("num_mel_bins");
  c.positions = json.positive("max_source_positions");
  c.activation = parse_activation(json.str("activation_function", "gelu"),
                                  json.what() + ": activation_function");
  check<ConfigError>(c.width % c.heads == 0 && c.width % 2 == 0 && c.width > 2,
                     "{}: d_model {} must be even and a multiple of encoder_attention_heads {}",
                     json.what(), c.width, c.heads);
  return c;
}

// Where the encoder's tensors stand in a file, by one that every encoder has.
std::string whisper_prefix(const Weights& weights, const Json& config) {
  if (weights.random()) {
    const std::string kind = config.value("architectures", Json::array({""}))[0].get<std::string>();
    return kind.ends_with("ForConditionalGeneration") ? "model.encoder." : "encoder.";
  }
  for (const char* prefix : {"model.encoder.", "encoder.", ""})
    if (weights.has(std::string(prefix) + "conv1.weight")) return prefix;
  return "model.encoder.";  // taking the first tensor names what is missing
}

// Sinusoids of the published models: sines in the first half of the width, cosines in the second.
void whisper_fill_positions_(const at::Tensor& table_PD) {
  const int64_t half = table_PD.size(1) / 2;
  at::Tensor values_PD = at::empty(table_PD.sizes(), at::kFloat);
  float* out = values_PD.data_ptr<float>();
  for (int64_t p = 0; p < table_PD.size(0); ++p) {
    for (int64_t i = 0; i < half; ++i) {
      const double rate =
          std::exp(-std::log(10000.0) * static_cast<double>(i) / static_cast<double>(half - 1));
      const double angle = static_cast<double>(p) * rate;
      out[p * 2 * half + i] = static_cast<float>(std::sin(angle));
      out[p * 2 * half + half + i] = static_cast<float>(std::cos(angle));
    }
  }
  table_PD.copy_(values_PD);
}

// 1 on every row but the first (or the last) of each segment: [T, 1].
at::Tensor whisper_inner_mask(const Segments& rows, bool first, const at::Tensor& like) {
  std::vector<float> mask(static_cast<size_t>(rows.rows()), 1.0f);
  for (int64_t s = 0; s < rows.count(); ++s)
    mask[static_cast<size_t>(first ? rows.begin(s) : rows.begin(s + 1) - 1)] = 0.0f;
  return to_device(at::tensor(mask).to(like.scalar_type()).unsqueeze(1), like.device());
}

// x_TC with every row replaced by the one before it (zeros before the first of a segment).
at::Tensor whisper_previous(const at::Tensor& x_TC, const Segments& rows) {
  const at::Tensor shifted_TC =
      at::cat({at::zeros_like(x_TC.narrow(0, 0, 1)), x_TC.narrow(0, 0, x_TC.size(0) - 1)});
  return shifted_TC * whisper_inner_mask(rows, /*first=*/true, x_TC);
}

// The same with the one after it.
at::Tensor whisper_next(const at::Tensor& x_TC, const Segments& rows) {
  const at::Tensor shifted_TC =
      at::cat({x_TC.narrow(0, 1, x_TC.size(0) - 1), at::zeros_like(x_TC.narrow(0, 0, 1))});
  return shifted_TC * whisper_inner_mask(rows, /*first=*/false, x_TC);
}

// [O, C, 3] as the matrix over (left, middle, right) neighbours: [O, 3 C].
at::Tensor whisper_conv_matrix(const at::Tensor& weight_OC3) {
  return weight_OC3.permute({0, 2, 1}).reshape({weight_OC3.size(0), -1});
}

class WhisperEncoder final : public Encoder {
 public:
  WhisperEncoder(const EncoderFiles& files, Weights weights)
      : files_(files),
        config_(whisper_config(JsonView(files_.config, files_.what + "/config.json"))),
        mel_(LogMelConfig::from_json(
            JsonView(files_.preprocessor, files_.what + "/preprocessor_config.json"))) {
    check<ConfigError>(mel_.mels == config_.mels,
                       "{}: num_mel_bins {} of config.json and feature_size {} of "
                       "preprocessor_config.json differ",
                       files_.what, config_.mels, mel_.mels);
    check<ConfigError>(mel_.window_frames() == 2 * config_.positions,
                       "{}: a window of {} mel frames does not fit max_source_positions {} (two "
                       "frames each)",
                       files_.what, mel_.window_frames(), config_.positions);
    take(weights);
  }

  Modality modality() const override { return Modality::kAudio; }
  int64_t width() const override { return config_.width; }
  int64_t num_layers() const override { return config_.layers; }
  RawMedia read(const MediaSource& source) const override {
    return media_reader().read_audio(source);
  }

  EncoderInput preprocess(const RawMedia& media) const override {
    return preprocess_on(media, at::kCPU);
  }
  EncoderInput preprocess_on(const RawMedia& media, at::Device device) const override {
    const Pcm* pcm = std::get_if<Pcm>(&media);
    check<DataError>(pcm != nullptr, "a Whisper encoder takes sound");
    return log_mel_windows(*pcm, mel_, device);
  }

  RowLayout layout(const EncoderInput& input, const FeatureSelect& select) const override {
    if (select.kind == FeatureSelect::Kind::kPooled) refuse_pooled("a Whisper encoder");
    select_blocks(select, config_.layers);
    return {.frames = 1, .height = 1, .width = (input.valid + row_samples() - 1) / row_samples()};
  }

  Features forward(const std::vector<EncoderInput>& inputs, const FeatureSelect& select,
                   bool per_item, const DropoutKeys& dropout) const override {
    Features out;
    std::vector<at::Tensor> mel_parts, position_parts;
    std::vector<int64_t> frames, rows, kept;
    const at::Tensor positions_PD = positions_on(conv1_bias_.device());
    for (const EncoderInput& input : inputs) {
      out.items.push_back(layout(input, select));
      add_windows(input, mel_parts, frames);
      int64_t left = out.items.back().width;
      while (rows.size() < frames.size()) {
        rows.push_back(frames[rows.size()] / 2);
        kept.push_back(std::min(left, rows.back()));
        left -= kept.back();
        position_parts.push_back(positions_PD.narrow(0, 0, rows.back()));
      }
    }
    check<DataError>(!mel_parts.empty(), "no sound to encode");
    const Segments frame_segments = Segments::from_lengths(frames, per_item);
    const Segments row_segments = Segments::from_lengths(rows, per_item);

    const at::Tensor mel_FM =
        to_device(at::cat(mel_parts), conv1_bias_.device()).to(conv1_bias_.scalar_type());
    at::Tensor x_TD = subsample(mel_FM, frame_segments, row_segments) + at::cat(position_parts);
    const int64_t blocks = select_blocks(select, config_.layers);
    x_TD = run_encoder_blocks({blocks_, row_segments, dropout}, blocks, checkpointing_, x_TD);
    if (blocks == config_.layers) x_TD = norm_(x_TD, row_segments);  // also of hidden_states[-1]
    out.rows_LE = keep_rows(x_TD, row_segments, kept);
    return out;
  }

  std::string settings() const override {
    return fmt::format("Whisper heads={} activation={} preprocessor={}", config_.heads,
                       static_cast<int>(config_.activation), files_.preprocessor.dump());
  }
  const std::vector<NamedTensor>& parameters() const override { return parameters_; }
  void set_checkpointing(Checkpointing checkpointing) override { checkpointing_ = checkpointing; }
  std::vector<Linear> linears() const override {
    std::vector<Linear> out;
    for (const EncoderBlock& block : blocks_) {
      for (const Linear& layer : block.linears()) out.push_back(layer);
    }
    return out;
  }

  void save(const std::filesystem::path& dir) const override {
    std::vector<NamedTensor> tensors = parameters_;
    tensors.push_back({prefix_ + kWhisperPositions, positions_PD_});
    write_encoder_folder(dir, files_.config, files_.preprocessor, tensors);
  }

 private:
  int64_t row_samples() const { return 2 * mel_.hop; }

  void take(Weights& weights) {
    const int64_t d = config_.width;
    prefix_ = whisper_prefix(weights, files_.config);
    const WeightScope scope = weights.scope(prefix_);
    const auto conv_init = [](int64_t in) {
      return Init::normal(1.0 / std::sqrt(3.0 * static_cast<double>(in)));
    };
    conv1_OC3_ = scope.take("conv1.weight", {d, config_.mels, 3}, conv_init(config_.mels));
    conv1_bias_ = scope.take("conv1.bias", {d}, Init::zeros());
    conv2_OC3_ = scope.take("conv2.weight", {d, d, 3}, conv_init(d));
    conv2_bias_ = scope.take("conv2.bias", {d}, Init::zeros());
    positions_PD_ = scope.take(kWhisperPositions, {config_.positions, d}, Init::zeros());
    if (weights.random()) whisper_fill_positions_(positions_PD_);
    const BlockShape shape{d, config_.heads, config_.ffn, kWhisperEps, config_.activation};
    for (int64_t i = 0; i < config_.layers; ++i)
      blocks_.emplace_back(scope.scope(fmt::format("layers.{}.", i)), shape, kWhisperBlockNames);
    norm_ = NormLayer::take(scope, "layer_norm", d, kWhisperEps);
    if (!weights.random()) {  // the text half of a whole Whisper
      const std::string outer = prefix_.substr(0, prefix_.size() - std::strlen("encoder."));
      if (!prefix_.empty()) weights.ignore(outer + "decoder.*");
      weights.ignore("proj_out.weight");
      weights.finish();
    }
    // The position table is fixed, as in transformers: it is saved, but it is no parameter.
    for (const NamedTensor& tensor : weights.taken())
      if (!tensor.tensor.is_same(positions_PD_)) parameters_.push_back(tensor);
  }

  // The table is no parameter: it stays where it was loaded, and a device has a copy.
  at::Tensor positions_on(at::Device device) const {
    const std::scoped_lock lock(positions_mutex_);
    if (!positions_there_PD_.defined() || positions_there_PD_.device() != device)
      positions_there_PD_ = to_device(positions_PD_, device);
    return positions_there_PD_;
  }

  // The frames of an input's windows, [F, M] each.
  void add_windows(const EncoderInput& input, std::vector<at::Tensor>& parts,
                   std::vector<int64_t>& frames) const {
    const int64_t window = mel_.window_samples();
    check<DataError>(input.valid > 0 && input.x.dim() == 3 && input.x.size(1) == config_.mels &&
                         input.x.size(0) == (input.valid + window - 1) / window,
                     "sound of {} samples: its log-mel windows do not have the expected shape",
                     input.valid);
    for (int64_t w = 0; w < input.x.size(0); ++w) {
      const int64_t own = log_mel_frames(input.valid, w, mel_);
      check<DataError>(own <= input.x.size(2), "sound of {} samples: window {} lacks mel frames",
                       input.valid, w);
      parts.push_back(input.x.select(0, w).narrow(1, 0, own).t());
      frames.push_back(own);
    }
  }

  // Both convolutions: mel_FM [F, M] -> [T, D], T = F / 2 (every window has an even number of
  // frames).
  at::Tensor subsample(const at::Tensor& mel_FM, const Segments& frames,
                       const Segments& rows) const {
    const at::Tensor near_F3M =
        at::cat({whisper_previous(mel_FM, frames), mel_FM, whisper_next(mel_FM, frames)}, 1);
    const at::Tensor x_FD =
        activate(linear(near_F3M, whisper_conv_matrix(conv1_OC3_), conv1_bias_, frames),
                 Activation::kGelu, frames);
    // Row t sees frames 2t-1, 2t and 2t+1: the last two are a pair, the first ends the pair before.
    const at::Tensor pairs_T2D = x_FD.view({-1, 2 * config_.width});
    const at::Tensor odd_TD = pairs_T2D.narrow(1, config_.width, config_.width);
    const at::Tensor near_T3D = at::cat({whisper_previous(odd_TD, rows), pairs_T2D}, 1);
    return activate(linear(near_T3D, whisper_conv_matrix(conv2_OC3_), conv2_bias_, rows),
                    Activation::kGelu, rows);
  }

  // Drops the rows of padded silence.
  static at::Tensor keep_rows(const at::Tensor& x_TD, const Segments& rows,
                              const std::vector<int64_t>& kept) {
    std::vector<at::Tensor> parts;
    bool all = true;
    for (int64_t s = 0; s < rows.count(); ++s) {
      parts.push_back(x_TD.narrow(0, rows.begin(s), kept[s]));
      all = all && kept[s] == rows.length(s);
    }
    return all ? x_TD : at::cat(parts);
  }

  EncoderFiles files_;
  WhisperConfig config_;
  LogMelConfig mel_;
  std::string prefix_;
  at::Tensor conv1_OC3_, conv1_bias_, conv2_OC3_, conv2_bias_, positions_PD_;
  mutable at::Tensor positions_there_PD_;
  mutable std::mutex positions_mutex_;
  std::vector<EncoderBlock> blocks_;
  Checkpointing checkpointing_;
  NormLayer norm_;
  std::vector<NamedTensor> parameters_;
};

}  // namespace

std::unique_ptr<Encoder> make_whisper(const EncoderFiles& files, Weights weights) {
  return std::make_unique<WhisperEncoder>(files, std::move(weights));
}

}  // namespace euromodal
