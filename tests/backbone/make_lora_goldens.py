"""Makes tests/backbone/goldens/peft/: LoRA folders that PEFT saved for a tiny Llama, and its logits with them.

Needs tests/requirements-oracle.txt (torch 2.11.0, transformers 5.23.0, peft 0.21.2). The Llama is goldens/gqa2_theta1e6 of make_goldens.py;
A and B are both drawn, N(0, 0.2).

--check BASE LORA LOGITS: the other way round. Loads LORA (a folder that this program saved) with PEFT onto the Llama in BASE and compares its
logits with those that `euromodal generate --model BASE --lora LORA --tokens ... --dump-logits LOGITS` wrote (ids: those of goldens/gqa2_theta1e6).
"""
import json
import pathlib
import shutil
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

GOLDENS = pathlib.Path(__file__).parent / "goldens"
BASE = "gqa2_theta1e6"
CONFIGS = {
    "plain": dict(r=4, lora_alpha=8, lora_dropout=0.1, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM"),
    "patterns": dict(r=4, lora_alpha=8, use_rslora=True, target_modules=r".*\.layers\.1\.(self_attn\.[qkvo]_proj|mlp\.up_proj)",
                     rank_pattern={"o_proj": 2, r"^model\.layers\.1\.mlp\.up_proj": 6}, alpha_pattern={"self_attn.k_proj": 5, "o_proj": 3}),
    "bare": dict(r=3, lora_alpha=3, target_modules=["layers.0.self_attn.o_proj", "gate_proj"]),  # of a LlamaModel: names without "model."
    "head": dict(r=3, lora_alpha=6, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM"),
}


def base():
    tensors = load_file(GOLDENS / f"{BASE}.safetensors")
    config = json.loads((GOLDENS / f"{BASE}.json").read_text())
    model = LlamaForCausalLM(LlamaConfig(**config, attn_implementation="eager")).eval().float()
    weights = {k[len("weights."):]: v for k, v in tensors.items() if k.startswith("weights.")}
    print("load:", model.load_state_dict(weights, strict=True))
    return model, tensors["ids"][None]


def make() -> None:
    shutil.rmtree(GOLDENS / "peft", ignore_errors=True)
    for number, (name, options) in enumerate(CONFIGS.items()):
        model, ids = base()
        torch.manual_seed(100 + number)
        wrapped = get_peft_model(model.model if name == "bare" else model, LoraConfig(**options)).eval()
        for key, p in wrapped.named_parameters():
            if "lora_" in key:
                p.data = 0.2 * torch.randn_like(p)
        if name == "bare":
            model.model = wrapped.base_model.model
        with torch.no_grad():
            logits = model(ids).logits[0]
        wrapped.save_pretrained(GOLDENS / "peft" / name)
        (GOLDENS / "peft" / name / "README.md").unlink()
        save_file({"logits": logits.contiguous()}, GOLDENS / "peft" / f"{name}.safetensors")
        print(name, sorted(load_file(GOLDENS / "peft" / name / "adapter_model.safetensors"))[:2])


def check(base_dir: str, lora: str, logits: str) -> None:
    model = LlamaForCausalLM.from_pretrained(base_dir, dtype=torch.float32, attn_implementation="eager")
    wrapped = PeftModel.from_pretrained(model, lora).eval()
    count = sum(p.numel() for key, p in wrapped.named_parameters() if "lora_" in key)
    ids = load_file(GOLDENS / f"{BASE}.safetensors")["ids"][None]
    with torch.no_grad():
        want, plain = wrapped(ids).logits[0], wrapped.disable_adapter
        with plain():
            without = model(ids).logits[0]
    got = load_file(logits)["logits"]
    print(f"LoRA parameters {count}, largest difference {(got - want).abs().max():.2e}; without the LoRA {(got - without).abs().max():.2e}")
    assert torch.allclose(got, want, atol=2e-5, rtol=2e-5) and not torch.allclose(got, without, atol=1e-3)


if __name__ == "__main__":
    check(*sys.argv[2:]) if sys.argv[1:2] == ["--check"] else make()
