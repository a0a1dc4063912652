"""What PyTorch gives for decoding EuroLLM-22B's shape at batch 1 on the same GPU, beside gpu_model_bench:

    python3 decode_peers.py [--layers 54] [--tokens 64] [--only compiled,transformers] [--json FILE]

transformers: LlamaForCausalLM, bf16, eager, static cache, the greedy loop of generate(). compiled: as gpt-fast does, a plain model with
a static cache whose step is compiled (one compiled function serves all layers) and replayed as one CUDA graph. Random weights.
Needs torch and transformers; prints tokens per second of decoding alone, as llama-bench's tg; FILE is written after each.
"""
import argparse
import json
import time

import torch
import torch.nn.functional as F

D, FF, H, K, N, V = 6144, 16384, 48, 8, 128, 128000


def transformers_rate(layers, tokens):
    from transformers import LlamaConfig, LlamaForCausalLM
    config = LlamaConfig(hidden_size=D, intermediate_size=FF, num_hidden_layers=layers, num_attention_heads=H, num_key_value_heads=K, head_dim=N,
                         vocab_size=V, max_position_embeddings=32768, rms_norm_eps=1e-5, rope_theta=1e6, tie_word_embeddings=False, bos_token_id=1,
                         eos_token_id=None, pad_token_id=0)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model = model.to(torch.bfloat16).to_empty(device="cuda").eval()
    for p in model.parameters():
        p.data.normal_(0, 0.02) if p.dim() > 1 else p.data.fill_(1)
    inv = 1.0 / (1e6 ** (torch.arange(0, N, 2, device="cuda").float() / N))
    model.model.rotary_emb.inv_freq = inv
    model.model.rotary_emb.original_inv_freq = inv
    ids = torch.ones(1, 8, dtype=torch.long, device="cuda")

    def run(count):
        torch.cuda.synchronize()
        start = time.perf_counter()
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, min_new_tokens=count, do_sample=False,
                       cache_implementation="static", disable_compile=True)
        torch.cuda.synchronize()
        return time.perf_counter() - start

    with torch.no_grad():
        run(4)
        return tokens / min(run(tokens + 1) - run(1) for _ in range(2))


def block(h, w, position, cos, sin, cache, mask):
    x = F.rms_norm(h, (D,), w["norm1"], 1e-5)
    qkv = F.linear(x, w["qkv"]).view(H + 2 * K, N)
    qk = qkv[: H + K].float()
    half = torch.cat((-qk[:, N // 2:], qk[:, : N // 2]), 1)
    qk = (qk * cos[position] + half * sin[position]).to(h.dtype)
    cache[0].index_copy_(1, position, qk[H:].unsqueeze(1))
    cache[1].index_copy_(1, position, qkv[H + K:].unsqueeze(1))
    o = F.scaled_dot_product_attention(qk[:H].view(1, H, 1, N), cache[0].unsqueeze(0), cache[1].unsqueeze(0), attn_mask=mask[position].view(1, 1, 1, -1),
                                       enable_gqa=True)
    h = h + F.linear(o.reshape(1, H * N), w["o"])
    x = F.rms_norm(h, (D,), w["norm2"], 1e-5)
    gate, up = F.linear(x, w["gate_up"]).chunk(2, 1)
    return h + F.linear(F.silu(gate) * up, w["down"])


def compiled_rate(layers, tokens, depth=256):
    def weight(*shape):
        return torch.empty(*shape, device="cuda", dtype=torch.bfloat16).normal_(0, 0.02)

    def ones():
        return torch.ones(D, device="cuda", dtype=torch.bfloat16)

    model = [{"norm1": ones(), "qkv": weight((H + 2 * K) * N, D), "o": weight(D, H * N), "norm2": ones(), "gate_up": weight(2 * FF, D),
              "down": weight(D, FF)} for _ in range(layers)]
    embedding, head, norm = weight(V, D), weight(V, D), ones()
    caches = [torch.zeros(2, K, depth, N, device="cuda", dtype=torch.bfloat16) for _ in range(layers)]
    angle = torch.outer(torch.arange(depth, device="cuda").float(), 1.0 / (1e6 ** (torch.arange(0, N, 2, device="cuda").float() / N)))
    cos, sin = torch.cat((angle, angle), 1).cos(), torch.cat((angle, angle), 1).sin()
    mask = torch.ones(depth, depth, device="cuda", dtype=torch.bool).tril()
    token, position = torch.ones(1, device="cuda", dtype=torch.long), torch.zeros(1, device="cuda", dtype=torch.long)
    fast_block = torch.compile(block, fullgraph=True, dynamic=False)
    fast_head = torch.compile(lambda h: F.linear(F.rms_norm(h, (D,), norm, 1e-5), head).argmax(1), fullgraph=True, dynamic=False)

    def step():
        h = embedding[token]
        for w, cache in zip(model, caches):
            h = fast_block(h, w, position, cos, sin, cache, mask)
        token.copy_(fast_head(h))
        position.add_(1)

    with torch.no_grad():
        for _ in range(3):
            step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        position.zero_()
        best = 0.0
        for _ in range(3):
            position.zero_()
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(tokens):
                graph.replay()
            torch.cuda.synchronize()
            best = max(best, tokens / (time.perf_counter() - start))
        return best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=54)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--only", default="compiled,transformers")
    parser.add_argument("--json")
    args = parser.parse_args()
    rates = {"compiled": compiled_rate, "transformers": transformers_rate}
    names = args.only.split(",")
    if not set(names) <= set(rates):
        parser.error(f"--only {args.only}: expected {', '.join(rates)}")
    out = {"device": torch.cuda.get_device_name(), "layers": args.layers}
    for name in names:
        start = time.perf_counter()
        out[name] = rates[name](args.layers, args.tokens)
        print(f"{name:14} {out[name]:8.2f} tok/s   ({time.perf_counter() - start:.0f} s in all)", flush=True)
        if args.json:
            with open(args.json, "w", encoding="utf-8") as file:
                json.dump(out, file, indent=1)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
