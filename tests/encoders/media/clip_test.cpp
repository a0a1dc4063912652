// clip_test.cpp — which frames of a clip are taken, how they are turned, and what is refused. The
// clips have 10 frames: frame i is grey 20 + 20 i with a white upper left quarter.
#include <cmath>

#include <gtest/gtest.h>

#include "encoders/media/frame_plan.h"
#include "encoders/media/media.h"
#include "tests/support/temp.h"

namespace euromodal {
namespace {

const std::filesystem::path kData = std::filesystem::path(EM_TEST_DIR) / "data";

Clip read_clip(const std::filesystem::path& file, int64_t count) {
  MediaSource source;
  source.name = file.string();
  return media_reader().read_clip(source, {.count = count});
}

int pixel(const Clip& clip, int64_t frame, int64_t y, int64_t x) {
  return clip.rgb[static_cast<size_t>(((frame * clip.height + y) * clip.width + x) * 3)];
}

TEST(FramePlanTest, SpreadsUniformly) {
  EXPECT_EQ(plan_frames(10, 4), (std::vector<int64_t>{0, 2, 5, 7}));
  EXPECT_EQ(plan_frames(4, 4), (std::vector<int64_t>{0, 1, 2, 3}));
  EXPECT_EQ(plan_frames(100, 3), (std::vector<int64_t>{0, 33, 66}));
  EXPECT_EQ(plan_frames(2, 5), (std::vector<int64_t>{0, 0, 0, 1, 1}));
  EXPECT_EQ(plan_frames(3, 0), (std::vector<int64_t>{0, 1, 2}));
}

TEST(ClipTest, TakesThePlannedFrames) {
  for (const char* name : {"silent.mp4", "clip.mp4", "clip.webm"}) {
    for (const int64_t count : {1, 3, 4, 10, 15, 0}) {
      const Clip clip = read_clip(kData / name, count);
      const std::vector<int64_t> plan = plan_frames(10, count);
      ASSERT_EQ(clip.frames, static_cast<int64_t>(plan.size())) << name;
      ASSERT_EQ(clip.height, 24);
      ASSERT_EQ(clip.width, 32);
      ASSERT_EQ(clip.rgb.size(), plan.size() * 24 * 32 * 3);
      for (size_t f = 0; f < plan.size(); ++f) {
        EXPECT_NEAR(pixel(clip, static_cast<int64_t>(f), 20, 28), 20 + 20 * plan[f], 6) << name;
        EXPECT_NEAR(pixel(clip, static_cast<int64_t>(f), 4, 4), 255, 6) << name;
        EXPECT_NEAR(clip.pts_s[f], static_cast<double>(plan[f]) / 5.0, 0.02) << name;
      }
    }
  }
}

TEST(ClipTest, AppliesTheContainersRotation) {
  const Clip clip = read_clip(kData / "turned.mp4", 2);
  ASSERT_EQ(clip.height, 32);
  ASSERT_EQ(clip.width, 24);
  EXPECT_NEAR(pixel(clip, 0, 28, 4), 255, 6);  // as the ffmpeg program shows it: at the lower left
  EXPECT_NEAR(pixel(clip, 0, 4, 4), 20, 6);
  EXPECT_NEAR(pixel(clip, 0, 4, 20), 20, 6);
  EXPECT_NEAR(pixel(clip, 0, 28, 20), 20, 6);
}

TEST(ClipTest, RefusesWhatIsNoClip) {
  const TempDir dir;
  const auto refuse = [](const std::filesystem::path& file) {
    return throws_with<DataError>([&] { read_clip(file, 4); }, {file.string()});
  };
  EXPECT_TRUE(refuse(dir / "absent.mp4"));
  EXPECT_TRUE(refuse(dir.write("empty.mp4", "")));
  EXPECT_TRUE(refuse(dir.write("text.mp4", std::string(5000, 'a'))));
  EXPECT_TRUE(refuse(kData / "tone.flac"));
  const std::string bytes = read_bytes(kData / "silent.mp4");
  for (const size_t keep : {bytes.size() / 4, bytes.size() / 2, bytes.size() - 500})
    EXPECT_TRUE(refuse(dir.write("half.mp4", bytes.substr(0, keep)))) << keep;
}

}  // namespace
}  // namespace euromodal
