"""Goldens of AWQ and GPTQ folders (needs tests/requirements-oracle.txt: torch 2.11.0, transformers 5.23.0). It rewrites goldens/hub/.

Packing and dequantising are written here from the definition of the formats (AutoAWQ packing_utils.py and gemm.py; AutoGPTQ qlinear_*.py), one number at a
time: transformers itself needs gptqmodel, which has no part in this. NAME/ is a folder as on the hub; logits.safetensors holds ids.NAME and logits.NAME
(LlamaForCausalLM in f32 with the dequantised weights) and weight.NAME, 16 rows of that of model.layers.0.mlp.down_proj.
"""
import json, pathlib, shutil

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

HERE = pathlib.Path(__file__).parent
OUT = HERE / "goldens" / "hub"
BASE = dict(vocab_size=32, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
            max_position_embeddings=128, rms_norm_eps=1e-5, rope_theta=1e4, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2)
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def int32(value):
    return value - (1 << 32) if value >= 1 << 31 else value


def pack(matrix, bits, down, order=None):
    """[R, C] of codes -> words: of `32 / bits` rows below each other (down), or columns beside each other."""
    n = 32 // bits
    order = order or list(range(n))
    rows, columns = matrix.shape
    out = torch.zeros((rows // n, columns) if down else (rows, columns // n), dtype=torch.int32)
    for r in range(out.shape[0]):
        for c in range(out.shape[1]):
            word = 0
            for k in range(n):
                code = matrix[r * n + order[k], c] if down else matrix[r, c * n + order[k]]
                word |= int(code) << (bits * k)
            out[r, c] = int32(word)
    return out


def quantise(weight, bits, groups, symmetric):
    """weight [O, I], groups [I] -> codes [I, O], zeros [G, O], scales [G, O] f16, and the weight that they stand for."""
    top, count = (1 << bits) - 1, int(groups.max()) + 1
    zeros, scales = torch.zeros(count, weight.shape[0], dtype=torch.int64), torch.zeros(count, weight.shape[0], dtype=torch.float16)
    codes, back = torch.zeros(weight.shape[1], weight.shape[0], dtype=torch.int64), torch.zeros_like(weight)
    for g in range(count):
        part = weight[:, groups == g]
        if symmetric:
            scale, zero = (part.abs().amax(1) * 2 / top).half(), torch.full((weight.shape[0],), (top + 1) // 2)
        else:
            low, high = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
            scale = ((high - low) / top).half()
            zero = (-low / scale.float()).round().clamp(1, top).long()
        q = ((part / scale.float()[:, None]).round() + zero[:, None]).clamp(0, top).long()
        zeros[g], scales[g], codes[groups == g] = zero, scale, q.T
        back[:, groups == g] = (q - zero[:, None]).float() * scale.float()[:, None]
    return codes, zeros, scales, back


def make(name, quantization, plain=("lm_head",), seed=0, out=None):
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**BASE, attn_implementation="eager")).eval().float()
    for key, p in model.named_parameters():
        noise = torch.randn_like(p)
        p.data = (1 + 0.1 * noise if "norm" in key else 0.1 * noise).half().float()
    awq, bits = quantization["quant_method"] == "awq", quantization["bits"]
    tensors = {}
    for key, p in model.named_parameters():
        module = key.removesuffix(".weight")
        if p.dim() == 1 or "embed" in key or any(word in module for word in plain):
            tensors[key] = p.data.half()
            continue
        inputs = p.shape[1]
        group = inputs if quantization["group_size"] == -1 else quantization["group_size"]
        groups = torch.arange(inputs) // group
        if quantization.get("desc_act"):
            groups = groups[torch.randperm(inputs)]
        codes, zeros, scales, p.data = quantise(p.data, bits, groups, not quantization.get("zero_point", not quantization.get("sym", False)))
        tensors[module + ".scales"] = scales
        if awq:
            tensors[module + ".qweight"] = pack(codes, 4, False, AWQ_ORDER)
            tensors[module + ".qzeros"] = pack(zeros, 4, False, AWQ_ORDER)
        else:
            tensors[module + ".qweight"] = pack(codes, bits, True)
            less = 1 if quantization.get("checkpoint_format", "gptq") == "gptq" else 0
            tensors[module + ".qzeros"] = pack(zeros - less, bits, False)
            tensors[module + ".g_idx"] = groups.int()
            if name == "gptq":
                tensors[module + ".bias"] = torch.zeros(p.shape[0], dtype=torch.float16)
    folder = OUT / name
    folder.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    config = {"model_type": "llama", "hidden_act": "silu", "torch_dtype": "float16", **BASE, "quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    ids = torch.randint(3, 32, (1, 20))
    with torch.no_grad():
        out["ids." + name], out["logits." + name] = ids[0], model(ids).logits[0].clone()
    out["weight." + name] = model.model.layers[0].mlp.down_proj.weight.data[:16].clone()


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    out = {}
    awq = dict(quant_method="awq", bits=4, group_size=32, version="gemm", zero_point=True, modules_to_not_convert=None)
    make("awq", awq, out=out)
    make("awq_g64", {**awq, "group_size": 64, "version": "GEMM", "modules_to_not_convert": ["mlp.gate_proj"]}, ("lm_head", "mlp.gate_proj"), 1, out)
    make("awq_symmetric", {**awq, "zero_point": False}, seed=2, out=out)
    gptq = dict(quant_method="gptq", bits=4, group_size=32, sym=False, desc_act=False)
    make("gptq", gptq, seed=3, out=out)
    make("gptq_v2_rows", {**gptq, "group_size": -1, "checkpoint_format": "gptq_v2"}, seed=4, out=out)
    make("gptq_symmetric", {**gptq, "sym": True, "checkpoint_format": "gptq", "lm_head": True}, (), 5, out)
    make("gptq_act", {**gptq, "desc_act": True, "sym": True}, seed=6, out=out)
    make("gptq_8", {**gptq, "bits": 8, "group_size": 64}, seed=7, out=out)
    save_file({k: v.contiguous() for k, v in out.items()}, OUT / "logits.safetensors")
    for file in sorted(OUT.rglob("*.safetensors")):
        print(file.relative_to(OUT), file.stat().st_size)
        assert file.stat().st_size < 200_000


if __name__ == "__main__":
    main()
