// frames.cpp — a clip through an image encoder, frame by frame: F frames spread uniformly, each
// read as a picture; the image encoder takes them all as one input of F images.
#include <ATen/ATen.h>

#include "encoders/encoder.h"

namespace euromodal {
namespace {

class FramesEncoder final : public Encoder {
 public:
  FramesEncoder(std::shared_ptr<Encoder> image, int64_t num_frames)
      : image_(std::move(image)), num_frames_(num_frames) {
    check<ConfigError>(num_frames_ > 0 && num_frames_ <= 4096, "frames: got {}, expected 1 to 4096",
                       num_frames_);
    check<ConfigError>(image_->modality() == Modality::kImage,
                       "frames: an image encoder is needed, this one takes {}",
                       modality_name(image_->modality()));
  }

  Modality modality() const override { return Modality::kVideo; }
  int64_t width() const override { return image_->width(); }
  int64_t num_layers() const override { return image_->num_layers(); }
  RawMedia read(const MediaSource& source) const override {
    return media_reader().read_clip(source, {.count = num_frames_});
  }

  EncoderInput preprocess(const RawMedia& media) const override {
    return preprocess_on(media, at::kCPU);
  }
  EncoderInput preprocess_on(const RawMedia& media, at::Device device) const override {
    const Clip* clip = std::get_if<Clip>(&media);
    check<DataError>(clip != nullptr, "a frames encoder takes clips");
    check<DataError>(clip->frames == num_frames_, "clip of {} frames, the encoder takes {}",
                     clip->frames, num_frames_);
    const int64_t bytes = clip->height * clip->width * 3;
    std::vector<at::Tensor> frames;
    for (int64_t f = 0; f < clip->frames; ++f) {
      const auto begin = clip->rgb.begin() + f * bytes;
      const Image image{clip->height, clip->width, {begin, begin + bytes}};
      frames.push_back(image_->preprocess_on(image, device).x);
    }
    return {at::cat(frames), 0};
  }

  RowLayout layout(const EncoderInput& input, const FeatureSelect& select) const override {
    return image_->layout(input, select);
  }
  Features forward(const std::vector<EncoderInput>& inputs, const FeatureSelect& select,
                   bool per_item, const DropoutKeys& dropout) const override {
    return image_->forward(inputs, select, per_item, dropout);
  }
  std::string settings() const override {
    return fmt::format("frames={} {}", num_frames_, image_->settings());
  }
  const std::vector<NamedTensor>& parameters() const override { return image_->parameters(); }
  std::vector<Linear> linears() const override { return image_->linears(); }
  void set_checkpointing(Checkpointing checkpointing) override {
    image_->set_checkpointing(checkpointing);
  }
  void save(const std::filesystem::path& dir) const override { image_->save(dir); }

 private:
  std::shared_ptr<Encoder> image_;
  int64_t num_frames_;
};

}  // namespace

std::unique_ptr<Encoder> make_frames_encoder(std::shared_ptr<Encoder> image, int64_t num_frames) {
  return std::make_unique<FramesEncoder>(std::move(image), num_frames);
}

}  // namespace euromodal
