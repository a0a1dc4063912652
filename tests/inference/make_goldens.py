"""Makes goldens/ of tests/inference: logits processors and generation of transformers.

Needs tests/requirements-oracle.txt (torch 2.11.0, transformers 5.23.0). Run: python make_goldens.py
  goldens/sampling.json     rows of logits, what each processor makes of them
  goldens/llama/            a tiny Llama with random weights (every tensor drawn, norms too)
  goldens/generation.json   prompts, options, tokens of generate() on that model, its n best beams, scores of one text and the logits of one prompt
  goldens/regex.json        patterns, texts that re.fullmatch takes and texts that it does not
"""
import json
import pathlib
import random
import re

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.generation.logits_process import (
    LogitsProcessorList, MinPLogitsWarper, NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper,
    TypicalLogitsWarper)

HERE = pathlib.Path(__file__).resolve().parent / "goldens"


def numbers(row):
    return [float(str(x)) if x > float("-inf") else None for x in row.float().numpy()]   # the fewest digits that give this float32


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
            "min_p02": lambda: [MinPLogitsWarper(0.02)],
            "min_p40": lambda: [MinPLogitsWarper(0.4)],
            "min_p100": lambda: [MinPLogitsWarper(1.0)],
            "typical20": lambda: [TypicalLogitsWarper(0.2)],
            "typical90": lambda: [TypicalLogitsWarper(0.9)],
            "all": lambda: [RepetitionPenaltyLogitsProcessor(1.3), NoRepeatNGramLogitsProcessor(3), TemperatureLogitsWarper(1.4), TopKLogitsWarper(7), TopPLogitsWarper(0.8)],
        }.items():
            out = LogitsProcessorList(make())(seen[None], row[None].clone())[0]
            cases.append({"name": name, "logits": numbers(row), "seen": seen.tolist(), "expect": numbers(out)})
    flat = torch.zeros(10)                                # all equal: ids decide
    cases.append({"name": "top_p30", "logits": numbers(flat), "seen": [], "expect": numbers(TopPLogitsWarper(0.3)(None, flat[None].clone())[0])})
    cases.append({"name": "min_p40", "logits": numbers(flat), "seen": [], "expect": numbers(MinPLogitsWarper(0.4)(None, flat[None].clone())[0])})
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
            {"num_beams": 1, "sequence_bias": [[[9], 2.5], [[40], -4.0], [[4], -1.5]]},
            {"num_beams": 3, "sequence_bias": [[[9], 1.0], [[41], 0.75], [[7], 1.0]], "length_penalty": 0.6},
            {"num_beams": 6, "length_penalty": 0.7, "no_repeat_ngram_size": 2, "max_new_tokens": 12},
        ):
            options = {"max_new_tokens": 20, **options}
            with torch.no_grad():
                out = model.generate(prompt[None], do_sample=False, early_stopping=False, attention_mask=torch.ones(1, len(prompt), dtype=torch.long), **options)
            cases.append({"prompt": prompt.tolist(), "options": options, "tokens": out[0, len(prompt):].tolist()})
    best = []
    for prompt in (cases[0]["prompt"], cases[-1]["prompt"]):
        for options in ({"num_beams": 4, "num_return_sequences": 4}, {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5}):
            with torch.no_grad():
                out = model.generate(torch.tensor([prompt]), do_sample=False, early_stopping=False, max_new_tokens=20, return_dict_in_generate=True, output_scores=True,
                                     attention_mask=torch.ones(1, len(prompt), dtype=torch.long), **options)
            rows = [row[len(prompt):].tolist() for row in out.sequences]
            rows = [row[:next((i + 1 for i, t in enumerate(row) if t in (4, 7)), len(row))] for row in rows]   # what follows is padding
            best.append({"prompt": prompt, "options": options, "tokens": rows, "scores": out.sequences_scores.double().tolist()})
    with torch.no_grad():
        row = torch.tensor(cases[-1]["prompt"] + cases[-1]["tokens"])
        hidden = model.model(row[None]).last_hidden_state[0]
        log_p = torch.log_softmax(model.lm_head(hidden), -1)
        score = {"ids": row.tolist(), "logprobs": log_p[:-1].gather(1, row[1:, None])[:, 0].double().tolist(), "mean": hidden.mean(0).double().tolist()}
    with torch.no_grad():
        logits = model(torch.tensor([cases[-1]["prompt"]])).logits[0]
    last = {"prompt": cases[-1]["prompt"], "logits": [[round(x, 6) for x in row] for row in logits.double().tolist()]}
    (HERE / "generation.json").write_text(json.dumps({"cases": cases, "n_best": best, "score": score, "logits": last}))
    ended = sum(c["tokens"][-1] in (4, 7) for c in cases)
    print(f"{len(cases)} cases, {ended} end with a stop id, lengths {sorted({len(c['tokens']) for c in cases})}")


def regexes():
    """Patterns, texts and what re.fullmatch says: texts drawn from a few letters, so that both answers are common."""
    rng = random.Random(3)
    patterns = ["a*b", "(ab|c)+", "a{2,3}b?", "[a-c]{2}", "[^a]b", "a|b|", "(a|b)*c{1,}", r"\d+(\.\d{1,2})?", r"\w+é", r"[\w.]+", r"\S\s\S", r"(?:a(?:b|)c)?", ".", r"..",
                r"[é-ü]", r"[^é-ü]+", r"\x61\u00e9", r"^ab$", r"a\.b", r"[]a]", r"[a\]b]+", r"[+-]?[0-9]+", "(?P<x>a)b", "a*?b+?", "€|日本", r"[日-本€]+", r"\W", r"\D\d"]
    alphabet = list("abc.1 é€日本-+]") + ["🙂"]
    out = []
    for pattern in patterns:
        texts = {"".join(rng.choice(alphabet) for _ in range(rng.randint(0, 4))) for _ in range(400)} | {"ab", "aab", "aaab", "abab", "12.5", "aé", "日本", "abc", "ac", "-7", "a.b"}
        hits = sorted(t for t in texts if re.fullmatch(pattern, t))
        misses = sorted(t for t in texts if not re.fullmatch(pattern, t))
        out.append({"pattern": pattern, "matches": hits[:30], "others": rng.sample(misses, min(30, len(misses)))})
    (HERE / "regex.json").write_text(json.dumps(out, ensure_ascii=False))


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    regexes()
    sampling()
    generation()
