"""pictures.py: emoji on backgrounds. Noto Color Emoji at its only bitmap size, cropped, scaled, anywhere on a 64x64 canvas.

Training: flat, gradient or noise backgrounds of hue 0-0.8, even positions. Held out: stripes, or gradients of hue 0.8-1, odd positions.
"""
import colorsys
import io
import random
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
BITMAP_SIZE = 109
SIDE = 64
SCALES = (0.5, 0.9)
JPEG_QUALITY = 92


@lru_cache(maxsize=1)
def font():
    if not FONT.is_file():
        raise FileNotFoundError(f"{FONT} is missing; install Debian's fonts-noto-color-emoji")
    return ImageFont.truetype(str(FONT), BITMAP_SIZE, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=None)
def glyph(emoji: str):
    """RGBA, cropped to what is drawn."""
    canvas = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(canvas).text((12, 12), emoji, font=font(), embedded_color=True)
    box = canvas.getbbox()
    if box is None:
        raise ValueError(f"{FONT} has no picture of U+{ord(emoji):X}")
    return canvas.crop(box)


def colour(rng: random.Random, hues) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(rng.uniform(*hues), rng.uniform(0.1, 0.7), rng.uniform(0.45, 1.0)), np.float32)


def gradient(rng: random.Random, hues) -> np.ndarray:
    ramp = np.linspace(0, 1, SIDE, dtype=np.float32)
    weight = np.outer(ramp, np.ones(SIDE, np.float32)) if rng.random() < 0.5 else (ramp[:, None] + ramp[None, :]) / 2
    return colour(rng, hues) * (1 - weight[..., None]) + colour(rng, hues) * weight[..., None]


def stripes(rng: random.Random) -> np.ndarray:
    period, phase, slope = rng.randint(6, 16), rng.randint(0, 15), rng.choice([(1, 0), (0, 1), (1, 1)])
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    odd = ((slope[0] * x + slope[1] * y + phase) // period % 2).astype(np.float32)[..., None]
    return colour(rng, (0, 1)) * odd + colour(rng, (0, 1)) * (1 - odd)


def background(rng: random.Random, held_out: bool) -> np.ndarray:
    """[SIDE, SIDE, 3] f32 in 0..1."""
    if held_out:
        return stripes(rng) if rng.random() < 0.5 else gradient(rng, (0.8, 1.0))
    kind = rng.choice(["flat", "gradient", "noise"])
    if kind == "gradient":
        return gradient(rng, (0, 0.8))
    flat = np.broadcast_to(colour(rng, (0, 0.8)), (SIDE, SIDE, 3))
    if kind == "flat":
        return flat
    noise = np.random.default_rng(rng.getrandbits(64)).normal(0, rng.uniform(0.03, 0.2), (SIDE, SIDE, 3))
    return flat + noise.astype(np.float32)


def position(rng: random.Random, room: int, held_out: bool) -> int:
    """0..room, even in training and odd when held out."""
    place = rng.randint(0, room) // 2 * 2 + (1 if held_out else 0)
    return min(place, room if (room % 2 == 1) == held_out else max(room - 1, 0))


def draw(emoji: str, rng: random.Random, held_out: bool) -> Image.Image:
    canvas = Image.fromarray((np.clip(background(rng, held_out), 0, 1) * 255 + 0.5).astype(np.uint8), "RGB")
    picture, side = glyph(emoji), SIDE * rng.uniform(*SCALES)
    factor = side / max(picture.size)
    size = tuple(max(1, round(n * factor)) for n in picture.size)
    scaled = picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    place = tuple(position(rng, SIDE - n, held_out) for n in size)
    canvas.paste(scaled, place, scaled)
    return canvas


def jpeg(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()
