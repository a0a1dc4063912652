"""Makes tests/backbone/goldens/: tiny random Llama models and what transformers computes with them.

Needs tests/requirements-oracle.txt (torch 2.11.0, transformers 5.23.0). Every tensor is drawn anew: norms 1 + N(0, 0.1), biases N(0, 0.1),
matrices N(0, 0.2). One file per model: weights, ids, logits, gradients of the mean cross-entropy, greedy tokens; config.json beside it.
"""
import json
import pathlib

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

OUT = pathlib.Path(__file__).parent / "goldens"
BASE = dict(vocab_size=96, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=6,
            max_position_embeddings=128, rms_norm_eps=1e-5, rope_theta=1e4, tie_word_embeddings=False, bos_token_id=1, eos_token_id=None)
MODELS = {
    "gqa1_theta1e4": {},
    "gqa2_theta1e6": dict(num_key_value_heads=3, rope_theta=1e6),
    "gqa6_tied": dict(num_key_value_heads=1, tie_word_embeddings=True, rope_theta=1e6),
    "biases_head_dim": dict(num_key_value_heads=2, head_dim=10, attention_bias=True, mlp_bias=True),
    "rope_linear": dict(rope_scaling=dict(rope_type="linear", factor=2.0)),
    "rope_dynamic": dict(rope_scaling=dict(rope_type="dynamic", factor=2.0)),
    "rope_llama3": dict(num_key_value_heads=2, rope_scaling=dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                                               original_max_position_embeddings=32)),
    "rope_yarn": dict(num_key_value_heads=2, head_dim=16, rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32)),
}
GRADIENTS = ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight", "model.layers.1.self_attn.v_proj.weight",
             "model.layers.0.input_layernorm.weight", "model.layers.1.mlp.down_proj.weight", "model.norm.weight"]


def main() -> None:
    OUT.mkdir(exist_ok=True)
    for number, (name, change) in enumerate(MODELS.items()):
        config = {**BASE, **change}
        torch.manual_seed(number)
        model = LlamaForCausalLM(LlamaConfig(**config, attn_implementation="eager")).eval().float()
        for key, p in model.named_parameters():
            noise = torch.randn_like(p)
            p.data = 1 + 0.1 * noise if "norm" in key else 0.1 * noise if key.endswith("bias") else 0.2 * noise
        ids = torch.randint(3, 96, (1, 50))
        out = model(ids, labels=ids)
        out.loss.backward()
        greedy = model.generate(ids[:, :9], attention_mask=torch.ones_like(ids[:, :9]), max_new_tokens=24, do_sample=False, pad_token_id=0)[0, 9:]
        tensors = {"weights." + k: p.detach().clone() for k, p in model.named_parameters()}
        tensors |= {"ids": ids[0], "logits": out.logits[0].detach().clone(), "loss": out.loss.detach().clone(), "greedy": greedy.clone()}
        grads = dict(model.named_parameters())
        tensors |= {"grad." + k: grads[k].grad.clone() for k in GRADIENTS}
        save_file({k: v.contiguous() for k, v in tensors.items()}, OUT / f"{name}.safetensors")
        (OUT / f"{name}.json").write_text(json.dumps({"model_type": "llama", "hidden_act": "silu", **config}, indent=1) + "\n")
        print(name, (OUT / f"{name}.safetensors").stat().st_size)


if __name__ == "__main__":
    main()
