"""Makes goldens/ of tests/inference: logits processors and generation of transformers.

Needs tests/requirements-oracle.txt (torch 2.11.0, transformers 5.23.0). Run: python make_goldens.py
  goldens/sampling.json     rows of logits, what each processor makes of them
  goldens/llama/            a tiny Llama with random weights (every tensor drawn, norms too)
  goldens/generation.json   prompts, options, tokens of generate() on that model, and the logits of one prompt
"""
import json
import pathlib

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.generation.logits_process import (
    LogitsProcessorList, NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper)

HERE = pathlib.Path(__file__).resolve().parent / "goldens"


def numbers(row):
    return [x if x > float("-inf") else None for x in row.double().tolist()]


def sampling():
    torch.manual_seed(5)
    cases = []
    for width, scale in ((8, 1.0), (48, 3.0), (300, 2.0)):
        row = torch.randn(width) * scale
        if width == 8:                                    # torch.sort of long rows is not stable: no equals there
            row[1] = row[3] = row.max()
            row[4] = row[5]
        seen = torch.randint(0, width, (40,)) % (width // 2)
        seen[10:13] = seen[37:40]                         # an n-gram that comes again
        for name, make in {
            "repetition": lambda: [RepetitionPenaltyLogitsProcessor(1.3)],
            "repetition_below_1": lambda: [RepetitionPenaltyLogitsProcessor(0.7)],
            "ngram1": lambda: [NoRepeatNGramLogitsProcessor(1)],
            "ngram2": lambda: [NoRepeatNGramLogitsProcessor(2)],
            "ngram3": lambda: [NoRepeatNGramLogitsProcessor(3)],
            "temperature": lambda: [TemperatureLogitsWarper(0.7)],
            "top_k1": lambda: [TopKLogitsWarper(1)],
            "top_k5": lambda: [TopKLogitsWarper(5)],
            "top_k_all": lambda: [TopKLogitsWarper(1000)],
            "top_p0": lambda: [TopPLogitsWarper(0.0)],
            "top_p30": lambda: [TopPLogitsWarper(0.3)],
            "top_p90": lambda: [TopPLogitsWarper(0.9)],
            "top_p999": lambda: [TopPLogitsWarper(0.999)],
            "all": lambda: [RepetitionPenaltyLogitsProcessor(1.3), NoRepeatNGramLogitsProcessor(3), TemperatureLogitsWarper(1.4), TopKLogitsWarper(7), TopPLogitsWarper(0.8)],
        }.items():
            out = LogitsProcessorList(make())(seen[None], row[None].clone())[0]
            cases.append({"name": name, "logits": numbers(row), "seen": seen.tolist(), "expect": numbers(out)})
    flat = torch.zeros(10)                                # all equal: ids decide
    cases.append({"name": "top_p30", "logits": numbers(flat), "seen": [], "expect": numbers(TopPLogitsWarper(0.3)(None, flat[None].clone())[0])})
    cases.append({"name": "top_k5", "logits": numbers(flat), "seen": [], "expect": numbers(TopKLogitsWarper(5)(None, flat[None].clone())[0])})
    (HERE / "sampling.json").write_text(json.dumps(cases))


def generation():
    torch.manual_seed(11)
    config = LlamaConfig(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                         max_position_embeddings=64, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=[4, 7], pad_token_id=2, tie_word_embeddings=False, dtype="float32")
    config._attn_implementation = "eager"
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(1 + 0.2 * torch.randn_like(p) if p.dim() == 1 else torch.randn_like(p) * (1.0 if "embed" in name else 0.35))
        model.lm_head.weight[4] *= 1.5                    # ends come often enough to matter
        model.lm_head.weight[7] *= 1.5
    model.generation_config.pad_token_id = 2
    model.save_pretrained(HERE / "llama")
    cases = []
    for i in range(6):
        prompt = torch.randint(8, 96, (3 + 4 * i,))
        prompt[0] = 1
        for options in (
            {"num_beams": 1},
            {"num_beams": 1, "repetition_penalty": 1.3},
            {"num_beams": 1, "no_repeat_ngram_size": 2},
            {"num_beams": 2},
            {"num_beams": 3, "length_penalty": 0.0},
            {"num_beams": 4, "length_penalty": 2.0},
            {"num_beams": 5, "length_penalty": -1.5},
            {"num_beams": 3, "repetition_penalty": 1.2, "no_repeat_ngram_size": 3},
            {"num_beams": 4, "max_new_tokens": 1},
        ):
            options = {"max_new_tokens": 20, **options}
            with torch.no_grad():
                out = model.generate(prompt[None], do_sample=False, early_stopping=False, attention_mask=torch.ones(1, len(prompt), dtype=torch.long), **options)
            cases.append({"prompt": prompt.tolist(), "options": options, "tokens": out[0, len(prompt):].tolist()})
    with torch.no_grad():
        logits = model(torch.tensor([cases[-1]["prompt"]])).logits[0]
    last = {"prompt": cases[-1]["prompt"], "logits": [[round(x, 6) for x in row] for row in logits.double().tolist()]}
    (HERE / "generation.json").write_text(json.dumps({"cases": cases, "logits": last}))
    ended = sum(c["tokens"][-1] in (4, 7) for c in cases)
    print(f"{len(cases)} cases, {ended} end with a stop id, lengths {sorted({len(c['tokens']) for c in cases})}")


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    sampling()
    generation()
