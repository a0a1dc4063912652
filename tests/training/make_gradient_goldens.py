#!/usr/bin/env python3
"""Goldens of training: losses, gradients and AdamW curves of a tiny LLaVA in transformers and PEFT.

Needs tests/requirements-oracle.txt (torch 2.11.0, transformers 5.23.0, peft 0.21.2). The LLaVA is tests/multimodal/goldens/llava; two
conversations with one and two pictures (pixels of llava.safetensors), labels on the answers only; the loss is the sum over labels / their
number. Parameters have the names of the coupled model.

gradients.safetensors       conversations; gradients of (a) the adapter, backbone and encoder frozen, (b) LoRA (A and B drawn) on q_proj, v_proj
                            and down_proj of the backbone and fc1 of the encoder, all else frozen; the losses of 50 AdamW steps of (a) and of
                            (b) from PEFT's start (A drawn, B zero; A is stored), betas 0.9 0.95, eps 1e-8, weight decay 0.01
full_gradients.safetensors  (c) gradients of every parameter of the backbone, encoder and adapter frozen
Usage: make_gradient_goldens.py   (writes goldens/ beside this file)
"""
import json
import pathlib

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

HERE = pathlib.Path(__file__).parent / "goldens"
LLAVA = pathlib.Path(__file__).parent.parent / "multimodal/goldens"
STEPS, RATE = 50, 5e-3
NAMES = {"model.language_model.": "backbone.model.", "lm_head.": "backbone.lm_head.", "model.multi_modal_projector.": "adapter.image.",
         "model.vision_tower.vision_model.": "encoder.image.vision_model.", "model.vision_tower.": "encoder.image.vision_model."}
TARGETS = r".*language_model.*\.(q_proj|v_proj|down_proj)|.*vision_tower.*layers\.[01]\.mlp\.fc1"


def our_name(name: str) -> str:
    name = name.removeprefix("base_model.model.").replace(".default.", ".").replace(".base_layer.", ".")
    prefix = next(p for p in NAMES if name.startswith(p))
    return NAMES[prefix] + name[len(prefix):]


def llava() -> LlavaForConditionalGeneration:
    keep = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps",
            "max_position_embeddings", "rope_theta", "tie_word_embeddings", "bos_token_id", "eos_token_id")
    text = json.loads((LLAVA / "llava/config.json").read_text())
    vision = json.loads((LLAVA / "llava/encoder_image/config.json").read_text())
    keep_vision = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size", "vision_use_head")
    config = LlavaConfig(vision_config=SiglipVisionConfig(**{k: vision[k] for k in keep_vision}), text_config=LlamaConfig(**{k: text[k] for k in keep}),
                         image_token_index=5, vision_feature_layer=-2, vision_feature_select_strategy="full", image_seq_length=16, tie_word_embeddings=False)
    model = LlavaForConditionalGeneration(config).float().eval()
    model.set_attn_implementation("eager")
    ours = {}
    for file, prefix in (("model", "backbone."), ("adapters", "adapter."), ("encoder_image/model", "encoder.image.")):
        ours |= {prefix + k: v for k, v in load_file(LLAVA / f"llava/{file}.safetensors").items()}
    left = set(ours)
    for name, parameter in model.named_parameters():
        parameter.data = ours[our_name(name)].clone()
        left.discard(our_name(name))
    assert not left, left
    for p in model.parameters():
        p.requires_grad_(False)
    return model


def conversations():
    stored = load_file(LLAVA / "llava.safetensors")
    g = torch.Generator().manual_seed(4)
    first, out = 0, []
    for i, images in enumerate((1, 2)):
        answer = torch.randint(270, 290, (7 + 4 * i,), generator=g)
        ids = torch.cat([stored[f"ids.{i}"], answer, torch.tensor([4])])
        labels = ids.clone()
        labels[: len(stored[f"ids.{i}"])] = -100
        out.append((ids, labels, stored["pixels"][first:first + images]))
        first += images
    return out


def mean_loss(model, data):
    total, count = 0.0, 0
    for ids, labels, pixels in data:
        logits = model(input_ids=ids[None], pixel_values=pixels).logits[0]
        total = total + torch.nn.functional.cross_entropy(logits[:-1], labels[1:], ignore_index=-100, reduction="sum")
        count += int((labels[1:] >= 0).sum())
    return total / count


def curve(model, data):
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=RATE, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01)
    losses = []
    for _ in range(STEPS):
        optimiser.zero_grad()
        loss = mean_loss(model, data)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    print("curve", losses[0], losses[-1])
    return torch.tensor(losses)


def gradients(model, data, prefix):
    loss = mean_loss(model, data)
    loss.backward()
    out = {f"{prefix}.loss": loss.detach().clone()}
    for name, p in model.named_parameters():
        if p.requires_grad and p.grad is not None:
            out[f"{prefix}.grad.{our_name(name)}"] = p.grad.clone().contiguous()
    print(prefix, loss.item(), len(out) - 1, "gradients")
    return out


def train(model, part):
    for name, p in model.named_parameters():
        p.requires_grad_(our_name(name).startswith(part))
    return model


def with_lora(seed):
    torch.manual_seed(seed)
    return get_peft_model(llava(), LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS)).eval()


def main() -> None:
    HERE.mkdir(exist_ok=True)
    data = conversations()
    out = {}
    for i, (ids, labels, _) in enumerate(data):
        out |= {f"ids.{i}": ids, f"labels.{i}": labels}
    out |= gradients(train(llava(), "adapter."), data, "adapter")
    out["adapter.curve"] = curve(train(llava(), "adapter."), data)
    model = with_lora(5)
    for name, p in model.named_parameters():
        if "lora_" in name:
            p.data = 0.2 * torch.randn_like(p)
            out["lora.value." + our_name(name)] = p.detach().clone()
    out |= gradients(model, data, "lora")
    model = with_lora(6)
    for name, p in model.named_parameters():
        if "lora_A" in name:
            out["lora.start." + our_name(name)] = p.detach().clone()
    out["lora.curve"] = curve(model, data)
    save_file(out, HERE / "gradients.safetensors")
    save_file(gradients(train(llava(), "backbone."), data, "full"), HERE / "full_gradients.safetensors")
    for file in ("gradients", "full_gradients"):
        print(file, (HERE / f"{file}.safetensors").stat().st_size)


if __name__ == "__main__":
    main()
