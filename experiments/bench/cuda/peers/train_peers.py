"""What eager PyTorch gives for training an adapter in front of a frozen EuroLLM-22B, beside `gpu_model_bench --only limits,train`:

    python3 train_peers.py [--layers 54] [--steps 5] [--seed 9] [--json FILE]
    python3 train_peers.py --tiny --device cpu        # the same code on a small shape

A step: 729 rows of width 1152 (one picture's features) through a two-layer MLP to the backbone's width, then text up to 4096 tokens; transformers'
LlamaForCausalLM in bf16 with its default (sdpa) attention; cross entropy of the last 1024 tokens, of which alone logits are made; backward to the
adapter; gradients clipped to norm 1; AdamW on float32 copies of the adapter. Run without and with gradient checkpointing. Random weights, deviation
1/sqrt(width in). Prints tokens per second (median of all steps but the first), peak device memory and the losses. Needs torch and transformers.
"""
import argparse
import gc
import json
import math
import statistics
import time

import torch
import torch.nn.functional as F

BIG = {"hidden_size": 6144, "intermediate_size": 16384, "num_attention_heads": 48, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128000}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 512}


def make_backbone(shape, layers, device):
    """A frozen LlamaForCausalLM of random bf16 weights, drawn on the device."""
    from transformers import LlamaConfig, LlamaForCausalLM
    config = LlamaConfig(**shape, num_hidden_layers=layers, max_position_embeddings=32768, rms_norm_eps=1e-5, tie_word_embeddings=False, bos_token_id=1,
                         eos_token_id=None, pad_token_id=0, rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model = model.to(torch.bfloat16).to_empty(device=device)
    for p in model.parameters():
        p.requires_grad_(False)
        p.normal_(0.0, 1.0 / math.sqrt(p.shape[-1])) if p.dim() > 1 else p.fill_(1.0)
    # Buffers come back from the meta device without contents; in float32, as from_pretrained leaves them.
    head = shape["head_dim"]
    model.model.rotary_emb.inv_freq = 1.0 / (1e6 ** (torch.arange(0, head, 2, device=device).float() / head))
    return model


def train(shape, layers, rows, width, tokens, labels, steps, checkpointing, device, seed):
    torch.manual_seed(seed)
    model = make_backbone(shape, layers, device)
    hidden, vocabulary = shape["hidden_size"], shape["vocab_size"]
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()  # checkpointing works in this mode alone; the shape has no dropout
    adapter = torch.nn.Sequential(torch.nn.Linear(width, hidden), torch.nn.GELU(), torch.nn.Linear(hidden, hidden)).to(device)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    features = torch.randn(rows, width, device=device, dtype=torch.bfloat16)
    ids = torch.randint(0, vocabulary, (1, tokens), device=device)
    text = model.get_input_embeddings()(ids[:, rows:])
    cuda = device == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    losses, seconds = [], []
    for _ in range(steps):
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.autocast(device, dtype=torch.bfloat16):
            media = adapter(features)
        embedded = torch.cat((media.to(torch.bfloat16).unsqueeze(0), text), 1)
        logits = model(inputs_embeds=embedded, use_cache=False, logits_to_keep=labels + 1).logits[0, :-1]
        loss = F.cross_entropy(logits.float(), ids[0, -labels:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(adapter.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())  # waits for the device
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return {"tokens_s": tokens / statistics.median(seconds[1:]), "first_step_s": seconds[0], "losses": losses,
            "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if cuda else None}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=54)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--seed", type=int, default=9)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a small shape of 2 layers, 64 tokens")
    parser.add_argument("--json")
    args = parser.parse_args()
    if args.steps < 2:
        parser.error("--steps: at least 2, the first is not counted")
    sizes = {"shape": BIG, "layers": args.layers, "rows": 729, "width": 1152, "tokens": 4096, "labels": 1024}
    if args.tiny:
        sizes = {"shape": TINY, "layers": 2, "rows": 9, "width": 24, "tokens": 64, "labels": 16}
    out = {"device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu", "torch": torch.__version__, **sizes}
    for name, checkpointing in (("eager", False), ("eager, checkpointing", True)):
        try:
            got = train(**sizes, steps=args.steps, checkpointing=checkpointing, device=args.device, seed=args.seed)
            peak = f"{got['peak_gb']:.1f} GB" if got["peak_gb"] is not None else "-"
            print(f"{name:22} {got['tokens_s']:9.1f} tok/s   peak {peak}   losses {' '.join(f'{x:.4f}' for x in got['losses'])}", flush=True)
        except torch.OutOfMemoryError as error:  # a result too: what does not fit
            got = {"error": str(error).splitlines()[0]}
            print(f"{name:22} out of memory", flush=True)
        out[name] = got
        if args.json:  # after each: what is cut off leaves the first
            with open(args.json, "w", encoding="utf-8") as file:
                json.dump(out, file, indent=1)
        gc.collect()  # a model of transformers holds references to itself
        if args.device == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
