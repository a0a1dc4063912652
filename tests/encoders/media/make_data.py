#!/usr/bin/env python3
"""Small media files in data/ and what they decode to, in data/expected.safetensors ([H, W, 3] u8 as Pillow shows them, sound as f32).

Needs tests/requirements-oracle.txt (pillow 13.0.0, torch) and the ffmpeg program.
"""
import pathlib
import subprocess

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).parent / "data"


def picture(h, w, channels):
    y, x, c = np.meshgrid(np.arange(h), np.arange(w), np.arange(channels), indexing="ij")
    return ((37 * y * y + 59 * x * x + 13 * x * y * (c + 1) + 101 * c) >> 3).astype(np.uint8)


def shown(image):
    image = ImageOps.exif_transpose(image)
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return torch.from_numpy(np.array(image.convert("RGB")))


def images():
    h, w = 12, 20
    rgb, rgba, grey = picture(h, w, 3), picture(h, w, 4), picture(h, w, 1)[..., 0]
    files = {
        "rgb.png": (Image.fromarray(rgb), {}),
        "rgb.bmp": (Image.fromarray(rgb), {}),
        "rgb.tiff": (Image.fromarray(rgb), {}),
        "rgb.ppm": (Image.fromarray(rgb), {}),
        "rgb.webp": (Image.fromarray(rgb), {"lossless": True}),
        "rgba.png": (Image.fromarray(rgba), {}),
        "rgba.webp": (Image.fromarray(rgba), {"lossless": True, "exact": True}),
        "grey.png": (Image.fromarray(grey), {}),
        "grey.jpg": (Image.fromarray(grey), {"quality": 90}),
        "grey_key.png": (Image.fromarray(grey), {"transparency": int(grey[3, 4])}),
        "rgb_key.png": (Image.fromarray(rgb), {"transparency": tuple(int(v) for v in rgb[3, 4])}),
        "grey_alpha.png": (Image.fromarray(rgba[..., :2], "LA"), {}),
        "palette.png": (Image.fromarray(rgb).quantize(16), {}),
        "palette_key.png": (Image.fromarray(rgb).quantize(16), {"transparency": 3}),
        "bits1.png": (Image.fromarray(grey > 100), {}),
        "rgb.jpg": (Image.fromarray(rgb), {"quality": 90, "subsampling": 0}),
    }
    expected = {}
    for name, (image, options) in files.items():
        image.save(OUT / name, **options)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(rgb).save(OUT / f"exif{orientation}.jpg", quality=90, exif=exif)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(rgb).save(OUT / "exif6.png", exif=exif)
    Image.fromarray(rgb).save(OUT / "exif8.webp", exif=exif.tobytes().replace(b"\x06\x00", b"\x08\x00"), lossless=True)
    Image.fromarray(rgb).save(OUT / "exif6.tiff", tiffinfo={274: 6})
    Image.fromarray(rgb).save(OUT / "progressive.jpg", quality=90, progressive=True)
    for file in sorted(OUT.iterdir()):
        if file.suffix in (".png", ".jpg", ".bmp", ".tiff", ".webp", ".ppm"):
            expected[file.name] = shown(Image.open(file))
    # 16 bits: by the rule value / 257, which Pillow does not follow
    y, x = np.meshgrid(np.arange(h), np.arange(w), indexing="ij")
    deep = ((y * 3000 + x * 1777 + y * x * 131) % 65536).astype(np.uint16)
    Image.fromarray(deep).save(OUT / "grey16.png")
    expected["grey16.png"] = torch.from_numpy(np.rint(deep / 257).astype(np.uint8))[..., None].repeat(1, 1, 3)
    rgb16 = np.stack([deep, deep[::-1], deep[:, ::-1]], -1)
    subprocess.run(["ffmpeg", "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb48be", "-s", f"{w}x{h}", "-i", "-", OUT / "rgb16.png"],
                   input=rgb16.astype(">u2").tobytes(), check=True)
    expected["rgb16.png"] = torch.from_numpy(np.rint(rgb16 / 257).astype(np.uint8))
    return {k: v.contiguous() for k, v in expected.items()}


def ffmpeg(*args, data=None):
    subprocess.run(["ffmpeg", "-loglevel", "error", "-y", "-fflags", "+bitexact", *args], input=data, check=True)


def clips():
    # 10 frames of 32x24: frame i is grey 20 + 20 i with a white upper left quarter
    frames = np.stack([np.full((24, 32), 20 + 20 * i, np.uint8) for i in range(10)])
    frames[:, :12, :16] = 255
    raw = ["-f", "rawvideo", "-pix_fmt", "gray", "-s", "32x24", "-r", "5", "-i", "-"]
    x264 = ["-c:v", "libx264", "-qp", "4", "-pix_fmt", "yuv420p"]
    ffmpeg(*raw, *x264, OUT / "silent.mp4", data=frames.tobytes())
    ffmpeg("-i", OUT / "silent.mp4", "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=16000:duration=2", "-c:v", "copy", "-c:a", "aac", "-b:a", "32k",
           "-shortest", OUT / "clip.mp4")
    ffmpeg("-i", OUT / "silent.mp4", "-c", "copy", "-metadata:s:v:0", "rotate=90", OUT / "turned.mp4")
    ffmpeg("-i", OUT / "silent.mp4", "-c:v", "libvpx-vp9", "-crf", "10", "-b:v", "0", OUT / "clip.webm")


def sounds():
    t = np.arange(4000) / 16000
    tone = (0.4 * np.sin(2 * np.pi * 440 * t) + 0.1 * np.sin(2 * np.pi * 1234 * t)).astype(np.float32)
    s16 = np.rint(tone * 32768).astype(np.int16)
    raw = ["-f", "s16le", "-ar", "16000", "-ac", "1", "-i", "-"]
    for name, options in (("tone.flac", []), ("tone.mp3", ["-b:a", "64k"]), ("tone.ogg", ["-c:a", "libvorbis"]), ("tone.opus", ["-b:a", "48k"])):
        ffmpeg(*raw, *options, OUT / name, data=s16.tobytes())
    return {"tone": torch.from_numpy(s16.astype(np.float32) / 32768)}


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    expected = images()
    clips()
    expected.update(sounds())
    save_file(expected, OUT / "expected.safetensors")
