#!/usr/bin/env python3
"""Goldens of the preprocessing: log-mel of transformers' WhisperFeatureExtractor (torch path), Pillow's resize, and the PIL
backend of transformers' CLIP and SigLIP image processors.

Needs tests/requirements-oracle.txt (torch 2.11.0, transformers 5.23.0, pillow 13.0.0). Writes goldens/ beside itself.
Inputs are formulas that both sides compute exactly:
  sound    sample i = ((7 i i + 131 i) mod 65521 - 32760) / 65521
  picture  byte of (y, x, c) = (37 y y + 59 x x + 13 x y (c + 1) + 101 c) >> 4, mod 256: smooth in places, wild in others
"""
import pathlib

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil, WhisperFeatureExtractor

OUT = pathlib.Path(__file__).parent / "goldens"


def sound(samples):
    i = np.arange(samples, dtype=np.int64)
    return (((7 * i * i + 131 * i) % 65521 - 32760).astype(np.float64) / 65521).astype(np.float32)


def picture(h, w):
    y, x, c = np.meshgrid(np.arange(h), np.arange(w), np.arange(3), indexing="ij")
    return ((37 * y * y + 59 * x * x + 13 * x * y * (c + 1) + 101 * c) >> 4).astype(np.uint8)


def log_mel():
    out = {}
    for mels in (80, 128):
        extractor = WhisperFeatureExtractor(feature_size=mels)
        out[f"filters.{mels}"] = torch.from_numpy(extractor.mel_filters.astype(np.float32))[::8].contiguous()
        for samples in (1, 479840, 480000, 480160):       # 29.99, 30 and 30.01 s
            pcm = sound(samples)
            for w, begin in enumerate(range(0, samples, 480000)):
                x = extractor(pcm[begin:begin + 480000], sampling_rate=16000)["input_features"][0]
                columns = [*range(0, 3000, 211), *range(2992, 3000)]
                out[f"mel{mels}.{samples}.{w}"] = torch.from_numpy(x[:, columns]).contiguous()
    save_file(out, OUT / "log_mel.safetensors")


def resize():
    out = {}
    for h, w in ((28, 28), (56, 28), (40, 100), (57, 29), (1, 5)):
        for th, tw in ((28, 28), (56, 13), (9, 40), (3, 3), (57, 31)):
            for filter in range(6):
                if (h, w) != (40, 100) and filter not in (3, (h + tw) % 6):
                    continue
                y = Image.fromarray(picture(h, w)).resize((tw, th), resample=filter)
                out[f"{h}x{w}.{th}x{tw}.{filter}"] = torch.from_numpy(np.array(y))
    save_file(out, OUT / "resize.safetensors")


def transform():
    out = {}
    siglip = SiglipImageProcessorPil(size={"height": 20, "width": 24})
    clip = CLIPImageProcessorPil(size={"shortest_edge": 21}, crop_size={"height": 18, "width": 20})
    wide = CLIPImageProcessorPil(size={"shortest_edge": 9}, crop_size={"height": 12, "width": 14})     # the crop is larger than the picture
    for h, w in ((28, 28), (56, 28), (40, 100), (57, 29), (33, 34)):
        for name, processor in (("siglip", siglip), ("clip", clip), ("wide", wide)):
            x = processor(images=Image.fromarray(picture(h, w)), return_tensors="pt")["pixel_values"]
            out[f"{name}.{h}x{w}"] = x.float().contiguous()
    save_file(out, OUT / "transform.safetensors")


if __name__ == "__main__":
    log_mel()
    resize()
    transform()
