"""Goldens of GGUF models (needs tests/requirements-oracle.txt: torch 2.11.0, transformers 5.23.0, gguf 0.19.0). It rewrites goldens/gguf/.

  f32, f16, bf16, q8_0, q4_0 .gguf   one small Llama (grouped queries) in each type of number
  folder/                            the same as a Hugging Face folder, f32
  k_quants.gguf                      Q4_K, Q5_K, Q6_K and, where rows are no multiple of 256, Q5_0 and Q4_1, as llama-quantize mixes them; random bytes
  llama3, yarn, linear .gguf         RoPE scalings; llama3 (rope_freqs.weight) with biases and a tied head
  parts/                             q8_0.gguf cut by `llama-gguf-split --split --split-max-tensors 8 q8_0.gguf parts/q8_0` (not rewritten here)
  chat.gguf                          Q8_0 with tied Q8_0 embedding, the vocabulary of ../weights/goldens/spm and the ChatML tokens: for the program
  logits.safetensors                 ids.NAME and logits.NAME by LlamaForCausalLM in f32 with what gguf.quants.dequantize reads from the file;
                                     q8_0.NAME, q4_0.NAME: some of those matrices in the order of Hugging Face
"""
import json, pathlib, shutil, sys

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Q
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE / "weights"))
from make_gguf_goldens import finish, random_blocks, spm_vocabulary  # noqa: E402 (tests/backbone/weights)

OUT = HERE / "goldens" / "gguf"
BASE = dict(vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
            max_position_embeddings=128, rms_norm_eps=1e-5, rope_theta=1e4, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2)
SMALL = dict(vocab_size=32, num_hidden_layers=1, intermediate_size=32)
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
         "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def stored_name(name):
    fixed = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
    if name in fixed:
        return fixed[name]
    _, _, layer, rest = name.split(".", 3)
    module, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{NAMES[module]}.{kind}"


def permute(w, heads):
    """As convert_hf_to_gguf.py does it."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def unpermute(w, heads):
    return w.reshape(heads, w.shape[0] // heads // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def heads_of(name, config):
    return config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads if ".k_proj." in name else 0


def drawn(config, seed):
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**config, attn_implementation="eager")).eval().float()
    for key, p in model.named_parameters():
        noise = torch.randn_like(p)
        p.data = 1 + 0.1 * noise if "norm" in key else 0.1 * noise if key.endswith("bias") else 0.2 * noise
    return model


def random_k_quants(draw, kind, rows, columns):
    """Blocks of random bytes whose weights are about as large as those of drawn()."""
    raw = random_blocks(draw, kind, rows, columns)
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = raw.reshape(rows, columns // elements, size)
    d = {Q.Q4_K: 2e-4, Q.Q5_K: 1e-4, Q.Q6_K: 4e-5, Q.Q5_0: 0.015, Q.Q4_1: 0.025}[kind] * (1 + 0.5 * draw.random(blocks.shape[:2]))
    half = lambda x: x.astype(np.float16)[..., None].view(np.uint8)
    if kind == Q.Q6_K:
        blocks[..., 208:210] = half(d)
    else:
        blocks[..., 0:2] = half(d)
    if kind in (Q.Q4_K, Q.Q5_K):
        blocks[..., 2:4] = half(d * (7.5 if kind == Q.Q4_K else 15.5))
    if kind == Q.Q4_1:
        blocks[..., 2:4] = half(-7.5 * d)
    return raw


def write(name, model, kind_of, extra=None, vocabulary=None):
    """The GGUF; afterwards `model` holds what was written, as dequantize() reads it."""
    c = model.config
    w = gguf.GGUFWriter(OUT / f"{name}.gguf", "llama")
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_block_count(c.num_hidden_layers)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_head_count(c.num_attention_heads)
    w.add_head_count_kv(c.num_key_value_heads)
    w.add_key_length(c.head_dim)
    w.add_value_length(c.head_dim)
    w.add_rope_dimension_count(c.head_dim)
    w.add_rope_freq_base(1e4)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    w.add_vocab_size(c.vocab_size)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    if extra:
        extra(w)
    if vocabulary:
        vocabulary(w)
    draw = np.random.default_rng(7)
    for key, p in model.named_parameters():
        heads, value = heads_of(key, c), p.data.numpy()
        value = permute(value, heads) if heads else value
        kind = kind_of(key, p) if p.dim() == 2 else Q.F32
        raw = random_k_quants(draw, kind, *value.shape) if kind in (Q.Q4_K, Q.Q5_K, Q.Q6_K, Q.Q5_0, Q.Q4_1) else gguf.quants.quantize(value, kind)
        w.add_tensor(stored_name(key), raw, raw_dtype=kind)
        back = gguf.quants.dequantize(raw, kind)
        p.data = torch.from_numpy(np.ascontiguousarray(unpermute(back, heads) if heads else back, np.float32))
    finish(w)
    return model


def llama3_factors(c):
    """As convert_hf_to_gguf.py (LlamaModel.generate_extra_tensors) computes them."""
    rope = c.rope_parameters
    base, dim, factor, old = 1e4, c.head_dim, rope["factor"], rope["original_max_position_embeddings"]
    out = []
    for f in 1.0 / (base ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)):
        wavelength = 2 * np.pi / f
        if wavelength < old / rope["high_freq_factor"]:
            out.append(1)
        elif wavelength > old / rope["low_freq_factor"]:
            out.append(factor)
        else:
            smooth = (old / wavelength - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
            out.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(out, np.float32)


def chat_vocabulary(w):
    tokens, scores, kinds = spm_vocabulary((HERE / "weights/goldens/spm/tokenizer.model").read_bytes())
    for word in (b"<|im_start|>", b"<|im_end|>"):
        tokens.append(word)
        scores.append(-1000.0)
        kinds.append(gguf.TokenType.CONTROL)
    w.add_tokenizer_model("llama")
    w.add_tokenizer_pre("default")
    w.add_token_list(tokens)
    w.add_token_scores(scores)
    w.add_token_types(kinds)
    w.add_unk_token_id(0)
    w.add_add_bos_token(True)
    w.add_chat_template("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
                        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def main():
    shutil.rmtree(OUT / "folder", ignore_errors=True)
    OUT.mkdir(parents=True, exist_ok=True)
    out = {}

    def golden(name, model):
        torch.manual_seed(1)
        ids = torch.randint(3, model.config.vocab_size, (1, 24))
        with torch.no_grad():
            out["ids." + name], out["logits." + name] = ids[0], model(ids).logits[0].clone()

    for kind in (Q.F32, Q.F16, Q.BF16, Q.Q8_0, Q.Q4_0):
        model, name = drawn(BASE, 0), kind.name.lower()
        if kind == Q.F32:
            (OUT / "folder").mkdir()
            save_file({k: p.data.clone() for k, p in model.named_parameters()}, OUT / "folder/model.safetensors")
            (OUT / "folder/config.json").write_text(json.dumps({"model_type": "llama", "hidden_act": "silu", **BASE}, indent=1) + "\n")
        write(name, model, lambda key, p: kind)
        golden(name, model)
        if kind in (Q.Q8_0, Q.Q4_0):
            for key in ("self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj"):
                out[f"{name}.{key}"] = model.get_parameter(f"model.layers.1.{key}.weight").data.clone()
            out[f"{name}.lm_head"] = model.lm_head.weight.data.clone()

    k_config = {**BASE, **SMALL, "hidden_size": 256, "num_attention_heads": 4, "num_hidden_layers": 1}
    kinds = {"q_proj": Q.Q4_K, "k_proj": Q.Q4_K, "v_proj": Q.Q6_K, "gate_proj": Q.Q4_K, "up_proj": Q.Q5_K, "o_proj": Q.Q5_0, "down_proj": Q.Q4_1, "lm_head": Q.Q6_K,
             "embed_tokens": Q.Q4_K}
    golden("k_quants", write("k_quants", drawn(k_config, 1), lambda key, p: kinds[key.split(".")[-2]]))

    llama3 = dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
    model = drawn({**BASE, **SMALL, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "rope_scaling": llama3}, 2)
    golden("llama3", write("llama3", model, lambda key, p: Q.F32, lambda w: w.add_tensor("rope_freqs.weight", llama3_factors(model.config))))

    def yarn(w):
        w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        w.add_rope_scaling_factor(4.0)
        w.add_rope_scaling_orig_ctx_len(32)

    model = drawn({**BASE, **SMALL, "rope_scaling": dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32)}, 3)
    golden("yarn", write("yarn", model, lambda key, p: Q.F32, yarn))

    def linear(w):
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(2.0)

    golden("linear", write("linear", drawn({**BASE, **SMALL, "rope_scaling": dict(rope_type="linear", factor=2.0)}, 4), lambda key, p: Q.F32, linear))
    golden("chat", write("chat", drawn({**BASE, "vocab_size": 422, "tie_word_embeddings": True, "max_position_embeddings": 512}, 5), lambda key, p: Q.Q8_0, None, chat_vocabulary))
    save_file({k: v.contiguous() for k, v in out.items()}, OUT / "logits.safetensors")
    for file in sorted(OUT.rglob("*.*")):
        print(file.name, file.stat().st_size)
        assert file.stat().st_size < 200_000


if __name__ == "__main__":
    main()
