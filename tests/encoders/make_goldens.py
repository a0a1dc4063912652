#!/usr/bin/env python3
"""Goldens of the encoders: tiny models of transformers with EVERY tensor re-randomised, and what they answer.

Needs tests/requirements-oracle.txt (torch 2.11.0, transformers 5.23.0). Writes beside itself into goldens/:
  whisper/ siglip/ clip/   model folders (whisper: whole with decoder; clip: whole with text tower; siglip: tower alone)
  NAME.safetensors         inputs and outputs
Sounds are a formula both sides compute exactly: sample i = ((7 i i + 131 i) mod 65521 - 32760) / 65521.
"""
import json
import pathlib

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import (CLIPConfig, CLIPModel, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel, WhisperConfig,
                          WhisperFeatureExtractor, WhisperForConditionalGeneration)

OUT = pathlib.Path(__file__).parent / "goldens"


def randomise(model, seed):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            r = torch.randn(p.shape, generator=g)
            norm = "norm" in name or "layrnorm" in name
            p.copy_(1 + 0.1 * r if norm and name.endswith("weight") else 0.1 * r if name.endswith("bias") else 0.2 * r)
    return model.eval()


def sound(samples):
    i = np.arange(samples, dtype=np.int64)
    return (((7 * i * i + 131 * i) % 65521 - 32760).astype(np.float64) / 65521).astype(np.float32)


def write(name, model, preprocessor):
    model.save_pretrained(OUT / name)
    (OUT / name / "generation_config.json").unlink(missing_ok=True)
    (OUT / name / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=1) + "\n")


@torch.no_grad()
def whisper():
    mel = dict(feature_extractor_type="WhisperFeatureExtractor", feature_size=16, sampling_rate=16000, hop_length=160, n_fft=400, chunk_length=1,
               padding_value=0.0)
    config = WhisperConfig(d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=48, decoder_layers=1, decoder_attention_heads=2,
                           decoder_ffn_dim=16, num_mel_bins=16, max_source_positions=50, max_target_positions=8, vocab_size=16, pad_token_id=0, bos_token_id=1,
                           eos_token_id=2, decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None, attn_implementation="eager")
    model = randomise(WhisperForConditionalGeneration(config), 1)
    write("whisper", model, mel)
    extractor, encoder = WhisperFeatureExtractor(**{k: v for k, v in mel.items() if k != "feature_extractor_type"}), model.model.encoder
    out = {}
    for samples in (1, 320, 321, 8000, 15999, 16000, 16001, 27123):
        pcm, rows, hidden = sound(samples), [], [[], [], []]
        for begin in range(0, samples, 16000):
            x = torch.from_numpy(extractor(pcm[begin:begin + 16000], sampling_rate=16000)["input_features"])
            y = encoder(x, output_hidden_states=True)
            rows.append(y.last_hidden_state[0])
            for h, v in zip(hidden, y.hidden_states):
                h.append(v[0])
        keep = (samples + 319) // 320
        out[f"last.{samples}"] = torch.cat(rows)[:keep]
        for i, h in enumerate(hidden):
            out[f"hidden{i}.{samples}"] = torch.cat(h)[:keep]
        # pad_to_window false: the frames of the sound alone, positions sliced
        rows = []
        for begin in range(0, samples, 16000):
            part = pcm[begin:begin + 16000]
            part = np.pad(part, (0, -len(part) % 320))
            x = torch.from_numpy(extractor._torch_extract_fbank_features(part[None]))
            x = torch.nn.functional.gelu(encoder.conv2(torch.nn.functional.gelu(encoder.conv1(x)))).transpose(1, 2)
            x = x + encoder.embed_positions.weight[:x.shape[1]]
            for layer in encoder.layers:
                x = layer(x, None)
                x = x[0] if isinstance(x, tuple) else x
            rows.append(encoder.layer_norm(x)[0])
        out[f"own.{samples}"] = torch.cat(rows)
    save_file({k: v.contiguous() for k, v in out.items()}, OUT / "whisper.safetensors")


def pictures(size, seed):
    return torch.randn((3, 3, size, size), generator=torch.Generator().manual_seed(seed))


def image_out(model, x):
    y = model(pixel_values=x, output_hidden_states=True)
    out = {"x": x, "last": y.last_hidden_state, "pooled": y.pooler_output}
    out.update({f"hidden{i}": h for i, h in enumerate(y.hidden_states)})
    return {k: v.detach().contiguous().clone() for k, v in out.items()}


@torch.no_grad()
def siglip():
    config = SiglipVisionConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, image_size=30, patch_size=7,
                                attn_implementation="eager")
    model = randomise(SiglipVisionModel(config), 2)
    write("siglip", model, dict(image_processor_type="SiglipImageProcessor", size={"height": 30, "width": 30}, resample=3,
                                image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5]))
    save_file(image_out(model, pictures(30, 5)), OUT / "siglip.safetensors")


@torch.no_grad()
def clip():
    config = CLIPConfig(text_config=dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=16,
                                         max_position_embeddings=8, bos_token_id=1, eos_token_id=2, pad_token_id=0),
                        vision_config=dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=7),
                        projection_dim=8)
    model = randomise(CLIPModel(config), 3)
    write("clip", model, dict(image_processor_type="CLIPImageProcessor", size={"shortest_edge": 28}, crop_size=28, resample=3))
    tower = CLIPVisionModel.from_pretrained(OUT / "clip", attn_implementation="eager").eval()
    save_file(image_out(tower, pictures(28, 6)), OUT / "clip.safetensors")


if __name__ == "__main__":
    whisper()
    siglip()
    clip()
