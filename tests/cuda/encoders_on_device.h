// encoders_on_device.h — SigLIP, CLIP and Whisper with drawn weights on a device against the CPU:
// media prepared there, rows of all layers. Two tests share it: on a GPU (ops), and on the stand-in
// for one (fake).
#pragma once
#include <cmath>
#include <string>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "backbone/device.h"
#include "core/json.h"
#include "encoders/encoder.h"
#include "tests/support/temp.h"

namespace euromodal::testing_support {

struct EncoderCase {
  const char *name, *config, *preprocessor;
};

inline const EncoderCase kEncoderCases[] = {
    {"siglip",
     R"({"model_type": "siglip_vision_model", "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4, "num_channels": 3,
         "image_size": 64, "patch_size": 8, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "vision_use_head": true})",
     R"({"image_processor_type": "SiglipImageProcessor", "do_convert_rgb": true, "do_resize": true, "size": {"height": 64, "width": 64}, "resample": 3,
         "do_rescale": true, "rescale_factor": 0.00392156862745098, "do_normalize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]})"},
    {"clip",
     R"({"model_type": "clip", "vision_config": {"model_type": "clip_vision_model", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
         "num_attention_heads": 2, "num_channels": 3, "image_size": 28, "patch_size": 7, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "projection_dim": 8}})",
     R"({"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 28}, "crop_size": 28, "resample": 3})"},
    {"whisper",
     R"({"model_type": "whisper", "d_model": 144, "encoder_layers": 3, "encoder_attention_heads": 4, "encoder_ffn_dim": 576, "num_mel_bins": 80,
         "max_source_positions": 100, "activation_function": "gelu", "scale_embedding": false, "vocab_size": 8, "decoder_layers": 1,
         "decoder_attention_heads": 4, "decoder_ffn_dim": 24, "max_target_positions": 16})",
     R"({"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 80, "sampling_rate": 16000, "hop_length": 160, "n_fft": 400, "chunk_length": 2,
         "n_samples": 32000, "nb_max_frames": 200, "padding_value": 0.0, "dither": 0.0, "pad_to_window": false})"}};

inline RawMedia drawn_medium(Modality kind, int number) {
  if (kind == Modality::kAudio) {
    Pcm pcm;
    pcm.sample_rate_hz = 16000;
    for (int i = 0; i < 9000 + 20000 * number; ++i)
      pcm.samples.push_back(static_cast<float>(0.3 * std::sin(0.02 * i * (1 + (i + number) % 7))));
    return pcm;
  }
  Image image{50 + 10 * number, 70, {}};
  for (int64_t i = 0; i < image.height * image.width * 3; ++i)
    image.rgb.push_back(static_cast<uint8_t>((i * (7 + number) + i / 97) % 256));
  return image;
}

inline double relative_difference(const at::Tensor& got, const at::Tensor& want) {
  const at::Tensor g = got.cpu().to(at::kDouble), w = want.to(at::kDouble);
  return ((g - w).norm() / w.norm()).item<double>();
}

inline void expect_encoder_of_the_cpu(const EncoderCase& test, at::ScalarType dtype,
                                      at::Device device) {
  const TempDir dir;
  const auto drawn =
      random_encoder(Json::parse(test.config), Json::parse(test.preprocessor), /*seed=*/5);
  at::manual_seed(6);
  for (const NamedTensor& p : drawn->parameters())  // what starts at zero or one, too
    p.tensor.add_(at::randn(p.tensor.sizes()).mul_(0.03));
  drawn->save(dir / "model");
  const auto host = load_encoder(dir / "model", dtype), there = load_encoder(dir / "model", dtype);
  move_parameters(there->parameters(), device);
  std::vector<EncoderInput> on_host, on_device;
  for (const int number : {0, 1}) {
    const RawMedia medium = drawn_medium(host->modality(), number);
    on_host.push_back(host->preprocess(medium));
    on_device.push_back(there->preprocess_on(medium, device));
    EXPECT_TRUE(on_device.back().x.is_cuda());
  }
  for (const char* features : {"1", "-2", "last"}) {
    const FeatureSelect select = FeatureSelect::parse(features);
    const Features want = host->forward(on_host, select), got = there->forward(on_device, select);
    ASSERT_TRUE(got.rows_LE.is_cuda());
    ASSERT_EQ(got.rows_LE.sizes(), want.rows_LE.sizes());
    EXPECT_GT(want.rows_LE.std().item<double>(), 0.01);
    EXPECT_LT(relative_difference(got.rows_LE, want.rows_LE), dtype == at::kFloat ? 1e-3 : 3e-2)
        << test.name << " " << features;
  }
}

inline void expect_encoders_of_the_cpu(at::ScalarType dtype, at::Device device) {
  const c10::NoGradGuard no_grad;
  for (const EncoderCase& test : kEncoderCases) expect_encoder_of_the_cpu(test, dtype, device);
}

}  // namespace euromodal::testing_support
