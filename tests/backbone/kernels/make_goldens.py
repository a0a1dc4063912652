"""Goldens of the RoPE tables (cos and sin of transformers' LlamaRotaryEmbedding for every rope_type, near and far positions) and of
distillation (torch's kl_div and its gradient).

Needs tests/requirements-oracle.txt (torch 2.11.0, transformers 5.23.0). Run: python tests/backbone/kernels/make_goldens.py
"""
import json
import pathlib

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

HERE = pathlib.Path(__file__).parent / "goldens"
POSITIONS = [0, 1, 2, 17, 255, 4095, 20000, 32767]
CASES = {
    "default_1e4": dict(theta=1e4, head_dim=128),
    "default_1e6": dict(theta=1e6, head_dim=128),
    "linear": dict(theta=1e4, head_dim=64, rope_type="linear", factor=4.0),
    "dynamic_short": dict(theta=1e4, head_dim=64, rope_type="dynamic", factor=2.0, sequence_length=100),
    "dynamic_long": dict(theta=1e4, head_dim=64, rope_type="dynamic", factor=2.0, sequence_length=9000, max_positions=4096),
    "llama3": dict(theta=5e5, head_dim=128, rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=8192),
    "yarn": dict(theta=1e6, head_dim=64, rope_type="yarn", factor=4.0, original_max_position_embeddings=4096),
    "yarn_mscale": dict(theta=1e4, head_dim=48, rope_type="yarn", factor=40.0, original_max_position_embeddings=1024,
                        mscale=0.7, mscale_all_dim=1.0, beta_fast=16.0, beta_slow=2.0),
    "yarn_exact": dict(theta=1e4, head_dim=48, rope_type="yarn", factor=2.5, original_max_position_embeddings=2048,
                       attention_factor=1.25, truncate=False),
}


def distillation():
    """Sum over rows of weight x KL(teacher || student) at a temperature, as Ultravox has it, and its gradient in the student's rows."""
    torch.manual_seed(11)
    student, teacher = torch.randn(7, 6, requires_grad=True), torch.randn(7, 6)
    head, row_weight = torch.randn(23, 6), torch.rand(7)
    tensors = {"student": student.detach(), "teacher": teacher, "head": head, "row_weight": row_weight}
    for temperature in (1, 2):
        kl = torch.nn.functional.kl_div(
            torch.log_softmax(student @ head.T / temperature, -1), torch.softmax(teacher @ head.T / temperature, -1), reduction="none").sum(-1)
        loss = (kl * row_weight).sum()
        tensors[f"loss_{temperature}"] = loss.detach()
        tensors[f"gradient_{temperature}"] = torch.autograd.grad(loss, student)[0]
    save_file({k: v.contiguous() for k, v in tensors.items()}, HERE / "distillation.safetensors")


def main():
    HERE.mkdir(exist_ok=True)
    distillation()
    tensors, described = {}, {}
    for name, case in CASES.items():
        case = dict(case)
        described[name] = dict(case)
        theta, head_dim = case.pop("theta"), case.pop("head_dim")
        longest = case.pop("max_positions", 32768)
        length = case.pop("sequence_length", None)
        described[name]["max_positions"] = longest
        rope = {"rope_type": "default", "rope_theta": theta, **case}
        config = LlamaConfig(hidden_size=2 * head_dim, num_attention_heads=2, head_dim=head_dim,
                             max_position_embeddings=longest, rope_parameters=rope)
        table = LlamaRotaryEmbedding(config)
        if length is not None and length > longest:  # what a sequence of that length makes of the frequencies
            table(torch.zeros(1), torch.arange(length)[None])
        positions = [p for p in POSITIONS if length is None or p < max(length, longest)]
        freqs = torch.tensor(positions)[:, None].float() * table.inv_freq
        both = torch.cat((freqs, freqs), dim=-1)
        tensors[name + ".cos"] = (both.cos() * table.attention_scaling).contiguous()
        tensors[name + ".sin"] = (both.sin() * table.attention_scaling).contiguous()
        described[name]["positions"] = positions
    save_file(tensors, HERE / "rope_tables.safetensors")
    (HERE / "rope_tables.json").write_text(json.dumps(described, indent=1) + "\n")


if __name__ == "__main__":
    main()
