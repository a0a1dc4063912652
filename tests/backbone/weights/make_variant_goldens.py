"""Goldens of tokenizer pipelines that differ in one thing each (needs tests/requirements-oracle.txt: transformers 5.23.0, tokenizers 0.23.3;
sentencepiece 0.2). Run it in this folder: it rewrites goldens/variants_*.json and goldens/spm/.

  variants_*.json {model, texts, variants: [{name, parts, config, cases}]}: one vocabulary, and for each variant what of tokenizer.json stands beside it.
                  A case for each text: [ids, ids without special tokens, text of the ids, that without special tokens]; null: as the one before
  spm/            tokenizer.model (BPE, identity normaliser) and cases.json: {texts, variants: [{config, cases}]} by LlamaTokenizer
"""
import io, json, pathlib, tempfile

import sentencepiece as spm
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

HERE = pathlib.Path(__file__).parent
OUT = HERE / "goldens"
TRAIN = ["The cat sleeps in the sun, and the dog runs.", "Die Katze schläft in der Sonne, und der Hund läuft weiß.", "Kaķis guļ saulē, un suns skrien.", "Η γάτα κοιμάται στον ήλιο.",
         "Кошка спит на солнце.", "don't we'll 12 345 6789 ½", "a_b-c.d, e; f: g! h?", "ÉCOLE Élève été", "the theme then there other mother"] * 3
TEXTS = ["", " ", "   ", "The cat", " The cat", "  The  cat  ", "the<s>dog", "<s> the", "the </s> dog </s>", "a\tb\nc\r\n d", "Élève E\u0301cole ﬁ Ⅷ ½ ②", "don't we'll I'M", "12345 6 7½8", "x1y22z",
         "Hello, world!! (yes)...", "▁a ▁▁ b", "猫🙂x", "Straße İI ΑΣ", "a\u00a0b\u2009c\u3000d", "nul\0x", "<x> y", "y<x>z", " <x> ", "word", "words word sword word.", "a word", "Éa É", "<n>É <N>É", "<s><s>x", "theéthe"]
S = lambda key, *steps: {"type": "Sequence", key: list(steps)}
R = lambda pattern, content, kind="String": {"type": "Replace", "pattern": {kind: pattern}, "content": content}
split = lambda pattern, behavior, invert=False, kind="Regex": {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}
metaspace = lambda scheme, cut=True, mark="▁": {"type": "Metaspace", "replacement": mark, "prepend_scheme": scheme, "split": cut}
byte_level = lambda space, regex: {"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": True, "use_regex": regex}
LLAMA_DECODER = S("decoders", R("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0})
UNDER = R(" ", "▁")


def token(content, id, **flags):
    return {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False, **flags}


def template(*pieces):
    ids = {"<s>": 1, "</s>": 2}
    single = [{"Sequence": {"id": "A", "type_id": 0}} if p == "$A" else {"SpecialToken": {"id": p, "type_id": 0}} for p in pieces]
    return {"type": "TemplateProcessing", "single": single, "pair": single + [{"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {p: {"id": p, "ids": [ids[p]], "tokens": [p]} for p in pieces if p != "$A"}}


def variants():
    llama = {"normalizer": S("normalizers", {"type": "Prepend", "prepend": "▁"}, UNDER), "decoder": LLAMA_DECODER, "post_processor": template("<s>", "$A")}
    yield "llama", llama
    for name in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents"):
        yield name, {"normalizer": S("normalizers", {"type": name}, UNDER)}
    yield "accents", {"normalizer": S("normalizers", {"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"})}
    for left, right in ((True, False), (False, True), (True, True), (False, False)):
        yield f"strip_{left}_{right}", {"normalizer": S("normalizers", {"type": "Strip", "strip_left": left, "strip_right": right}, UNDER)}
    yield "prepend_only", {"normalizer": {"type": "Prepend", "prepend": "▁"}}
    yield "prepend_word", {"normalizer": S("normalizers", UNDER, {"type": "Prepend", "prepend": "the▁"})}
    yield "replace_regex", {"normalizer": R(r"\s+", "▁", "Regex")}
    yield "replace_empty", {"normalizer": S("normalizers", R("e", ""), R("[aou]{1,2}", "th", "Regex"))}
    yield "sequences", {"normalizer": S("normalizers", S("normalizers", {"type": "NFKC"}, {"type": "Lowercase"}), S("normalizers"), UNDER)}
    for scheme in ("always", "first", "never"):
        for cut in (True, False):
            yield f"metaspace_{scheme}_{cut}", {"pre_tokenizer": metaspace(scheme, cut), "decoder": metaspace(scheme, cut)}
    yield "metaspace_mark", {"pre_tokenizer": metaspace("first", True, "_"), "decoder": metaspace("first", True, "_")}
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            yield f"split_{behavior}_{invert}", {"pre_tokenizer": split(r"\p{L}+|\d", behavior, invert)}
    yield "split_string", {"pre_tokenizer": split(" ", "MergedWithNext", kind="String")}
    yield "split_look", {"pre_tokenizer": S("pretokenizers", split(r"\s+(?!\S)|(?<=[a-z])(?=[A-Z])| ?[^\s]+", "Isolated"), split(r"(?i)'s|'t|'ll", "Isolated"))}
    for single in (True, False):
        yield f"digits_{single}", {"pre_tokenizer": {"type": "Digits", "individual_digits": single}}
    for space in (True, False):
        for regex in (True, False):
            yield f"bytelevel_{space}_{regex}", {"pre_tokenizer": byte_level(space, regex), "decoder": byte_level(space, regex)}
    yield "cl100k", {"pre_tokenizer": S("pretokenizers", split(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+", "Isolated"),
                                         byte_level(False, False)), "decoder": byte_level(True, True)}
    yield "digits_metaspace", {"pre_tokenizer": S("pretokenizers", {"type": "Digits", "individual_digits": True}, metaspace("always"))}
    for name, pieces in {"both": ("<s>", "$A", "</s>"), "end": ("$A", "</s>"), "twice": ("<s>", "<s>", "$A"), "none": ("$A",)}.items():
        yield f"template_{name}", {**llama, "post_processor": template(*pieces)}
    yield "bert", {"post_processor": {"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1]}}
    yield "roberta", {"post_processor": {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1], "trim_offsets": True, "add_prefix_space": False}}
    yield "processors", {**llama, "post_processor": S("processors", byte_level(True, True), template("<s>", "$A"))}
    for number, flags in enumerate(({"lstrip": True}, {"rstrip": True}, {"lstrip": True, "rstrip": True}, {"single_word": True}, {"normalized": True}, {"special": True}, {"special": True, "lstrip": True},
                                    {"single_word": True, "lstrip": True}, {"normalized": True, "rstrip": True}, {"normalized": True, "single_word": True})):
        added = [token(content, 1000 + i, **flags) for i, content in enumerate(("<x>", "word", "<n>É", "é"))]
        yield f"added_{'_'.join(flags)}", {"added_tokens": added, **llama}
        yield f"added_lower_{'_'.join(flags)}", {"added_tokens": added, "normalizer": {"type": "Lowercase"}}
    yield "fuse", {"decoder": {"type": "Fuse"}}
    yield "no_decoder", {}
    yield "byte_fallback_decoder", {"decoder": {"type": "ByteFallback"}}
    for start, stop in ((2, 0), (0, 1)):                 # the library panics where both take more than the token has
        yield f"strip_decoder_{start}_{stop}", {"decoder": S("decoders", {"type": "Strip", "content": "t", "start": start, "stop": stop}, {"type": "Fuse"})}
    yield "replace_decoder", {"decoder": S("decoders", R("[aeiou]", "*", "Regex"), {"type": "Fuse"})}
    for legacy in (True, False, None):
        for space in (True, False, None):
            config = {"tokenizer_class": "LlamaTokenizer", "legacy": legacy, "add_prefix_space": space}
            yield f"class_{legacy}_{space}", {**llama, "config": {k: v for k, v in config.items() if v is not None}}
    for bos in (True, False):
        yield f"class_bos_{bos}", {**llama, "config": {"tokenizer_class": "LlamaTokenizer", "add_bos_token": bos, "add_eos_token": not bos}}
    yield "config_tokens", {**llama, "config": {"added_tokens_decoder": {"1": token("<s>", 1, special=True), "900": token("word", 900, lstrip=True)}, "pad_token": "<x>"}}


def cases_of(folder):
    tok = AutoTokenizer.from_pretrained(folder)
    out = []
    for text in TEXTS:
        full, bare = tok(text).input_ids, tok(text, add_special_tokens=False).input_ids
        decoded, decoded_bare = tok.decode(full), tok.decode(full, skip_special_tokens=True)
        out.append([full, None if bare == full else bare, decoded, None if decoded_bare == decoded else decoded_bare])
    return out


def make_variants():
    three = ["<unk>", "<s>", "</s>"]
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tok.train_from_iterator([t.replace(" ", "▁") for t in TRAIN], trainers.BpeTrainer(vocab_size=460, special_tokens=three + [f"<0x{b:02X}>" for b in range(256)], show_progress=False))
    model = json.loads(tok.to_str())["model"]
    added = [token(t, i, special=True) for i, t in enumerate(three)]
    common = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    out = []
    for name, parts in variants():
        config = {**common, **parts.pop("config", {})}
        more = parts.pop("added_tokens", [])
        first = max(model["vocab"].values()) + 1
        more = [{**t, "id": first + i} for i, t in enumerate(more)]
        parts = {"normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None, **parts, "added_tokens": added + more}
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "truncation": None, "padding": None, **parts, "model": model}))
            (folder / "tokenizer_config.json").write_text(json.dumps(config))
            out.append({"name": name, "parts": parts, "config": config, "cases": cases_of(folder)})
    cut = next(i for i, v in enumerate(out) if v["name"].startswith("template"))   # two files, each below 200 kB
    write(OUT / "variants_text.json", {"model": model, "texts": TEXTS, "variants": out[:cut]})
    write(OUT / "variants_tokens.json", {"model": model, "texts": TEXTS, "variants": out[cut:]})


def make_spm():
    (OUT / "spm").mkdir(exist_ok=True)
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(sentence_iterator=iter(TRAIN), model_writer=model, vocab_size=420, model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
                                   remove_extra_whitespaces=False, split_digits=True, user_defined_symbols=["<x>"], control_symbols=["<c>"], minloglevel=2, allow_whitespace_only_pieces=True,
                                   hard_vocab_limit=False)
    (OUT / "spm/tokenizer.model").write_bytes(model.getvalue())
    out = []
    base = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    for change in ({}, {"legacy": True}, {"legacy": False}, {"add_bos_token": True}, {"add_bos_token": False, "legacy": False}, {"add_bos_token": True, "add_eos_token": True, "legacy": False},
                   {"add_prefix_space": False}, {"add_prefix_space": False, "legacy": True, "add_bos_token": True},
                   {"added_tokens_decoder": {"3": token("<x>", 3, lstrip=True), "2": token("</s>", 2, special=True)}, "add_bos_token": True}):
        config = {**base, **change}
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            (folder / "tokenizer.model").write_bytes(model.getvalue())
            (folder / "tokenizer_config.json").write_text(json.dumps(config))
            out.append({"config": config, "cases": as_sentencepiece(cases_of(folder), config, model.getvalue())})
    write(OUT / "spm/cases.json", {"texts": TEXTS, "variants": out})


def as_sentencepiece(cases, config, model):
    """Before a space (and its mark) too SentencePiece, and transformers 4 with it, puts its prefix; transformers 5 does not. Texts that start so are the
    library's; null: `legacy` does so behind every special token, which no library here does in one call."""
    if config.get("add_prefix_space") is False:
        return cases
    processor = spm.SentencePieceProcessor(model_proto=model)
    before, behind = [1] * config.get("add_bos_token", False), [2] * config.get("add_eos_token", False)
    out = []
    for text, case in zip(TEXTS, cases):
        if config.get("legacy") and "> " in text or text.startswith(" <x>"):
            case = None
        elif text.startswith((" ", "▁")):
            bare = processor.encode(text)
            decoded = processor.decode(bare)
            case = [before + bare + behind, bare if before + behind else None, None, decoded]
        out.append(case)
    return out


def write(file, content):
    file.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    print(file, file.stat().st_size)


if __name__ == "__main__":
    make_variants()
    make_spm()
