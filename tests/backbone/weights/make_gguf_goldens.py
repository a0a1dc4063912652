"""Goldens of the GGUF reader (needs tests/requirements-oracle.txt: gguf 0.19.0, transformers 5.23.0, tokenizers 0.23.3).
Run it in this folder: it rewrites goldens/gguf/.

  blocks.gguf, blocks.safetensors   random bytes of every type of number that is read, and what gguf.quants.dequantize makes of them (f32)
  NAME.gguf                         vocabularies without weights, written as convert_hf_to_gguf.py does
  tokenizers.json                   [{file, text, full, bare, decoded}] by transformers and tokenizers from what they were made of
"""
import json, pathlib, tempfile

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Q
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer
from transformers.convert_slow_tokenizer import import_protobuf

from make_goldens import EDGES, SENTENCES
from make_variant_goldens import TEXTS

OUT = pathlib.Path(__file__).parent / "goldens" / "gguf"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
DEFAULT = [r"[\p{P}\$\+<=>\^~\|]+", r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)", r"\p{N}+", r"[0-9][0-9][0-9]"]
SCALES = {Q.Q4_0: [0], Q.Q4_1: [0, 2], Q.Q5_0: [0], Q.Q5_1: [0, 2], Q.Q8_0: [0], Q.Q4_K: [0, 2], Q.Q5_K: [0, 2], Q.Q6_K: [208]}   # bytes of f16 in a block


def random_blocks(draw, kind, rows, columns, scale=1.0):
    """Any bytes are a block, but its f16 should be finite."""
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    raw = draw.integers(0, 256, (rows, columns // elements, size), dtype=np.uint8)
    for at in SCALES[kind]:
        values = (draw.standard_normal(raw.shape[:2]) * scale * 10.0 ** draw.integers(-3, 1, raw.shape[:2])).astype(np.float16)
        raw[:, :, at:at + 2] = values[..., None].view(np.uint8)
    return raw.reshape(rows, -1)


def make_blocks():
    draw = np.random.default_rng(0)
    writer, want = gguf.GGUFWriter(OUT / "blocks.gguf", "llama"), {}
    for kind in SCALES:
        raw = random_blocks(draw, kind, 3, 512)
        writer.add_tensor(kind.name, raw, raw_dtype=kind)
        want[kind.name] = gguf.quants.dequantize(raw, kind)
    plain = draw.standard_normal((3, 64)).astype(np.float32)
    for kind in (Q.F32, Q.F16, Q.BF16):
        raw = gguf.quants.quantize(plain, kind)
        writer.add_tensor(kind.name, raw, raw_dtype=kind)
        want[kind.name] = gguf.quants.dequantize(raw, kind)
    raw = np.zeros((2, 84), np.uint8)
    writer.add_tensor("Q2_K", raw, raw_dtype=Q.Q2_K)
    finish(writer)
    save_file({k: np.ascontiguousarray(v, np.float32) for k, v in want.items()}, OUT / "blocks.safetensors")


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def cases(name, encode, decode, texts):
    out = []
    for text in texts:
        full = encode(text, True)
        out.append({"file": name, "text": text, "full": full, "bare": encode(text, False), "decoded": decode(full)})
    return out


def spm_vocabulary(proto):
    """Pieces, scores and types of tokenizer.model, which GGUF numbers alike."""
    model = import_protobuf().ModelProto()
    model.ParseFromString(proto)
    return [p.piece.encode() for p in model.pieces], [p.score for p in model.pieces], [p.type for p in model.pieces]


def make_spm():
    proto = (OUT.parent / "spm/tokenizer.model").read_bytes()
    tokens, scores, kinds = spm_vocabulary(proto)
    out = []
    for name, prefix in (("spm", True), ("spm_no_prefix", False)):
        writer = gguf.GGUFWriter(OUT / f"{name}.gguf", "llama")
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(tokens)
        writer.add_token_scores(scores)
        writer.add_token_types(kinds)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        writer.add_add_bos_token(prefix)
        if not prefix:
            writer.add_add_space_prefix(False)
        finish(writer)
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "tokenizer.model").write_bytes(proto)
            (pathlib.Path(folder) / "tokenizer_config.json").write_text(json.dumps(
                {"tokenizer_class": "LlamaTokenizer", "add_bos_token": prefix, "add_prefix_space": prefix, "legacy": False}))
            (pathlib.Path(folder) / "config.json").write_text('{"model_type": "llama"}')
            tok = AutoTokenizer.from_pretrained(folder)
            out += cases(name, lambda t, s: tok(t, add_special_tokens=s).input_ids, tok.decode, list(dict.fromkeys(TEXTS + EDGES + list(SENTENCES.values())[:12])))
    return out


def make_byte_level():
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    base.train_from_iterator(SENTENCES.values(), trainers.BpeTrainer(vocab_size=560, special_tokens=["<s>", "</s>"], show_progress=False,
                                                                     initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    raw = json.loads(base.to_str())["model"]
    vocab, merges = raw["vocab"], [tuple(m) for m in raw["merges"]]
    # One word that is in the vocabulary but that no merge makes: only ignore_merges finds it.
    vocab["Ġzebra"] = len(vocab)
    out = []
    splits = {"llama-bpe": [pre_tokenizers.Split(Regex(LLAMA3), "isolated")], "gpt-2": [], "default": [pre_tokenizers.Split(Regex(r), "isolated") for r in DEFAULT]}
    for pre, steps in splits.items():
        tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=pre == "llama-bpe"))
        tok.pre_tokenizer = pre_tokenizers.Sequence(steps + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre == "gpt-2")])
        tok.decoder = decoders.ByteLevel()
        tok.add_special_tokens(["<s>", "</s>"])
        tok.add_tokens([AddedToken("<image>", normalized=False, special=True), AddedToken("<long>", normalized=False)])
        if pre == "llama-bpe":
            tok.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B:1", special_tokens=[("<s>", 0)])
        name = pre.replace("-", "_")
        writer = gguf.GGUFWriter(OUT / f"{name}.gguf", "llama" if pre != "gpt-2" else "gpt2")
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        tokens = [tok.id_to_token(i) for i in range(tok.get_vocab_size())]
        kinds = {"<s>": gguf.TokenType.CONTROL, "</s>": gguf.TokenType.CONTROL, "<image>": gguf.TokenType.CONTROL, "<long>": gguf.TokenType.USER_DEFINED}
        writer.add_token_list(tokens)
        writer.add_token_types([kinds.get(t, gguf.TokenType.NORMAL) for t in tokens])
        writer.add_token_merges([" ".join(m) for m in merges])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)
        finish(writer)
        texts = list(dict.fromkeys(EDGES + list(SENTENCES.values())[:12] + ["a zebra, zebras", "zebra 1234567 x12345y", "<image>a<long> b", "$a+b=c^2 ~ |x|, 'Tis DON'T don't"]))
        out += cases(name, lambda t, s: tok.encode(t, add_special_tokens=s).ids, lambda ids: tok.decode(ids, skip_special_tokens=False), texts)
    return out


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    make_blocks()
    found = make_spm() + make_byte_level()
    (OUT / "tokenizers.json").write_text("[\n" + ",\n".join(json.dumps(c, ensure_ascii=False, separators=(",", ":")) for c in found) + "\n]\n", encoding="utf-8")
    for file in sorted(OUT.iterdir()):
        print(file.name, file.stat().st_size)
        assert file.stat().st_size < 200_000
