"""Goldens of the coupling: a tiny LLaVA (SigLIP tower, hidden_states[-2], Llama text) and what transformers computes with it.

Needs tests/requirements-oracle.txt (torch 2.11.0, transformers 5.23.0, tokenizers 0.23.3). Run: python make_goldens.py
Writes below goldens/: `llava/` in the layout of MultimodalModel::save() with the weights of the LLaVA, `plain/` a tokenizer that has no
<image>, and llava.safetensors (pixels, logits; ids of prompts whose markers were repeated by hand).
"""
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, PreTrainedTokenizerFast, SiglipVisionConfig

ROOT = Path(__file__).parent / "goldens"
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
CHATML = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
ROWS = 16  # 28 / 7 squared
PROMPTS = ["<image>\nWhat is this?", "First <image> then <image>: same or not?"]


def tokenizer(special: list) -> PreTrainedTokenizerFast:
    vocab = {token: i for i, token in enumerate(special)}
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    for letter in "▁abcdefghijklmnopqrstuvwxyz?.,":
        vocab[letter] = len(vocab)
    merges = [("t", "h"), ("▁", "t"), ("▁", "i"), ("▁t", "h"), ("▁i", "s"), ("o", "r"), ("▁", "a"), ("e", "n")]
    for a, b in merges:
        vocab.setdefault(a + b, len(vocab))
    core = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Replace(" ", "▁")
    core.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    fast = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="<|im_end|>", unk_token="<unk>", pad_token="</s>")
    fast.chat_template = CHATML
    return fast


def save_tokenizer(fast: PreTrainedTokenizerFast, path: Path) -> None:
    """The two files in their plain form: chat template inside tokenizer_config.json."""
    fast.backend_tokenizer.save(str(path / "tokenizer.json"), pretty=False)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "<|im_end|>", "unk_token": "<unk>", "pad_token": "</s>",
              "add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False, "chat_template": CHATML}
    (path / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


def ids_of(fast: PreTrainedTokenizerFast, prompt: str) -> list:
    text = fast.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
    return fast(text.replace("<image>", "<image>" * ROWS))["input_ids"]


def llava() -> None:
    fast = tokenizer(SPECIAL + ["<image>"])
    vision = SiglipVisionConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=7, vision_use_head=False)
    text = LlamaConfig(vocab_size=len(fast), hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                       rms_norm_eps=1e-5, max_position_embeddings=256, rope_theta=1e6, tie_word_embeddings=False, bos_token_id=1, eos_token_id=4)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=5, vision_feature_layer=-2, vision_feature_select_strategy="full",
                         image_seq_length=ROWS, tie_word_embeddings=False)
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config).float().eval()
    model.set_attn_implementation("eager")
    for name, parameter in model.named_parameters():
        parameter.data = 0.2 * torch.randn_like(parameter) + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
    folder = ROOT / "llava"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "encoder_image").mkdir(parents=True)
    save_tokenizer(fast, folder)
    state = {k: v.detach().contiguous().clone() for k, v in model.state_dict().items()}
    parts = {"model.language_model.": ("model.safetensors", "model."), "lm_head.": ("model.safetensors", "lm_head."),
             "model.multi_modal_projector.": ("adapters.safetensors", "image."), "model.vision_tower.": ("encoder_image/model.safetensors", "vision_model.")}
    files: dict = {}
    for name, tensor in state.items():
        prefix = next(p for p in parts if name.startswith(p))
        file, new = parts[prefix]
        rest = name[len(prefix):]
        if file.startswith("encoder") and rest.startswith("vision_model."):
            rest = rest[len("vision_model."):]
        files.setdefault(file, {})[new + rest] = tensor
    for file, tensors in files.items():
        save_file(tensors, folder / file, metadata={"format": "pt"})
    dump = lambda path, value: path.write_text(json.dumps(value, indent=1) + "\n")
    dump(folder / "config.json", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": text.vocab_size, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 1e-5, "max_position_embeddings": 256, "rope_theta": 1e6, "rope_scaling": None,
        "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 4, "torch_dtype": "float32"})
    dump(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 4})
    dump(folder / "encoder_image/config.json", {
        "architectures": ["SiglipVisionModel"], "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_channels": 3, "image_size": 28, "patch_size": 7, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "attention_dropout": 0.0, "vision_use_head": False,
        "torch_dtype": "float32"})
    dump(folder / "encoder_image/preprocessor_config.json", {
        "image_processor_type": "SiglipImageProcessor", "do_resize": True, "size": {"height": 28, "width": 28}, "resample": 3, "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_convert_rgb": True})
    (folder / "multimodal.yaml").write_text(
        'format: 1\nimage:\n  placeholder: "<image>"\n  placeholder_id: 5\n  encoder: {model: encoder_image, features: -2}\n'
        "  adapter:\n    type: mlp\n    hidden: 32\n    class_tokens: true\n")
    pixels = torch.randn(3, 3, 28, 28)
    out = {"pixels": pixels}
    first = 0
    for i, prompt in enumerate(PROMPTS):
        ids = torch.tensor([ids_of(fast, prompt)])
        count = prompt.count("<image>")
        with torch.no_grad():
            out[f"logits.{i}"] = model(input_ids=ids, pixel_values=pixels[first:first + count]).logits[0].clone()
        out[f"ids.{i}"] = ids[0]
        first += count
    save_file(out, ROOT / "llava.safetensors", metadata={f"prompt.{i}": p for i, p in enumerate(PROMPTS)})


if __name__ == "__main__":
    llava()
    (ROOT / "plain").mkdir(parents=True, exist_ok=True)
    save_tokenizer(tokenizer(SPECIAL), ROOT / "plain")
    for file in sorted(p for p in ROOT.rglob("*") if p.is_file()):
        print(f"{file.relative_to(ROOT)}: {file.stat().st_size} bytes")
