"""Goldens of the tokenizer and the chat template (needs tests/requirements-oracle.txt: transformers 5.23.0,
tokenizers 0.23.3; sentencepiece 0.2). Run it in this folder: it rewrites goldens/.

  tok/base, tok/instruct    Llama-style tokenizer.json (byte fallback) trained on the sentences below
  tok/llama_class           the same file under tokenizer_class LlamaTokenizer, whose class replaces the pipeline
  tok/bytelevel             GPT-2/Llama-3 style: Split with a regular expression, ByteLevel, NFC, flagged added tokens
  tok/metaspace             Metaspace with split, prepend_scheme first; digits one by one
  tok/words                 lower case, accents stripped, continuing prefix, RobertaProcessing, unk without byte fallback
  tokenizer.json            [{model, text, full, bare, decoded, decoded_bare}] from transformers
  chat.json                 [{config, messages, prompt, text}] from apply_chat_template
"""
import json, pathlib, shutil, sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

OUT = pathlib.Path(__file__).parent / "goldens"
SENTENCES = {
    "bg": "Котката спи на слънце, а кучето тича.", "hr": "Mačka spava na suncu, a pas trči.", "cs": "Kočka spí na slunci a pes běží.",
    "da": "Katten sover i solen, og hunden løber.", "nl": "De kat slaapt in de zon en de hond rent.", "en": "The cat sleeps in the sun, and the dog runs.",
    "et": "Kass magab päikese käes ja koer jookseb.", "fi": "Kissa nukkuu auringossa ja koira juoksee.", "fr": "Le chat dort au soleil et le chien court.",
    "de": "Die Katze schläft in der Sonne, und der Hund läuft weiß.", "el": "Η γάτα κοιμάται στον ήλιο και ο σκύλος τρέχει.",
    "hu": "A macska alszik a napon, a kutya pedig fut.", "ga": "Codlaíonn an cat faoin ngrian agus ritheann an madra.",
    "it": "Il gatto dorme al sole e il cane corre.", "lv": "Kaķis guļ saulē, un suns skrien.", "lt": "Katė miega saulėje, o šuo bėga.",
    "mt": "Il-qattus jorqod fix-xemx u l-kelb jiġri ħafna.", "pl": "Kot śpi w słońcu, a pies biegnie żwawo.", "pt": "O gato dorme ao sol e o cão corre.",
    "ro": "Pisica doarme la soare, iar câinele aleargă și sare.", "sk": "Mačka spí na slnku a pes beží.", "sl": "Mačka spi na soncu, pes pa teče.",
    "es": "El gato duerme al sol y el perro corre, ¿verdad?", "sv": "Katten sover i solen och hunden springer på ängen.",
    "ar": "القطة تنام في الشمس والكلب يجري.", "ca": "El gat dorm al sol i el gos corre; l'il·lusió.", "zh": "猫在阳光下睡觉，狗在跑。",
    "gl": "O gato dorme ao sol e o can corre.", "hi": "बिल्ली धूप में सोती है और कुत्ता दौड़ता है।", "ja": "猫は日なたで眠り、犬は走る。",
    "ko": "고양이는 햇볕에서 자고 개는 달린다.", "no": "Katten sover i sola, og hunden løper.", "ru": "Кошка спит на солнце, а собака бежит.",
    "tr": "Kedi güneşte uyuyor, köpek koşuyor. İstanbul ILIK.", "uk": "Кіт спить на сонці, а собака біжить; ґанок.",
}
EDGES = ["", " ", "  ", "\n", "\t\ttabs\tinside ", "  both ends  ", "a\r\nb\n\n\nc", "nul\0byte \x01\x7f", "nb\u00a0sp thin\u2009sp \u3000wide",
         "🙂 👩‍👩‍👧‍👦 🇪🇺 🏳️‍🌈", "e\u0301 é ﬁ Ⅷ ½", "Zalgo\u0335\u0336\u0337 text", "\ufeffBOM", "ẞ ß ŉ ǆ", "a" * 70, " " * 17 + "x",
         "3.14159 + 2,718 = 1234567890", "don't we'll I'm", "https://example.org/a_b?c=d&e=%20#f", "def f(x):\n    return x ** 2\n",
         "▁under ▁▁ score", "<0x41> <0xFF>", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𒀀", "<s>", "</s>", "a <s> b", "a<s>b", "<s><s>", "<unk> x", "<|im_start|>user\nHi<|im_end|>\n",
         "x<|im_start|>assistant\n", " <|im_end|> ", "<|im_start", "<image>", "see <image> here", "pre<image>fix <image>s",
         "one <strip> two", "  <strip>  two", "word<word>word <word> x", "<norm>É x<norm>", "É<norm>", "<<s>>", "Ω<long><longer>"]
CHATML = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
          "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


def trained(tok, specials, size, corpus, **kw):
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=specials, show_progress=False, **kw)
    tok.train_from_iterator(corpus, trainer)
    return tok


def llama(specials, instruct):
    """SentencePiece-like BPE with byte fallback: trained on words, saved without a pre-tokeniser."""
    byte_tokens = [f"<0x{b:02X}>" for b in range(256)]
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tok.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    corpus = [s for lang, s in SENTENCES.items() if lang not in ("zh", "ja", "ko", "hi")]   # those take the byte fallback
    trained(tok, specials + byte_tokens, 256 + 700, corpus, limit_alphabet=300)
    raw = json.loads(tok.to_str())
    raw["pre_tokenizer"] = None
    raw["added_tokens"] = [t for t in raw["added_tokens"] if t["content"] in specials]
    if instruct:
        raw["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    steps = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
    if not instruct:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    raw["decoder"] = {"type": "Sequence", "decoders": steps}
    raw["post_processor"] = json.loads(processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]).__getstate__())
    return raw


def save(name, raw, config):
    folder = OUT / "tok" / name
    folder.mkdir(parents=True)
    text = raw if isinstance(raw, str) else json.dumps(raw, ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def make_tokenizers():
    three = ["<unk>", "<s>", "</s>"]
    common = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    base = llama(three, instruct=False)
    save("base", base, common)
    instruct = llama(three + ["<|im_start|>", "<|im_end|>"], instruct=True)
    save("instruct", instruct, {**common, "eos_token": "<|im_end|>", "chat_template": CHATML})
    save("llama_class", base, {**common, "tokenizer_class": "LlamaTokenizer", "add_bos_token": True})

    tok = Tokenizer(models.BPE(ignore_merges=True))
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    trained(tok, ["<s>", "</s>"], 700, SENTENCES.values(), initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tok.add_tokens([AddedToken("<image>", normalized=False, special=True), AddedToken("<strip>", lstrip=True, rstrip=True, normalized=False),
                    AddedToken("<word>", single_word=True, normalized=False), AddedToken("<norm>É", normalized=True), AddedToken("<long>", normalized=False),
                    AddedToken("<long><longer>", normalized=False)])
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False),
                                              processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> $B:1", special_tokens=[("<s>", 0), ("</s>", 1)])])
    save("bytelevel", tok.to_str(), {**common, "unk_token": None})

    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=False))
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(prepend_scheme="first"), pre_tokenizers.Digits(individual_digits=True)])
    trained(tok, three, 600, SENTENCES.values(), limit_alphabet=200)
    tok.decoder = decoders.Metaspace(prepend_scheme="first")
    tok.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B:1", special_tokens=[("<s>", 1)])
    save("metaspace", tok.to_str(), common)

    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, continuing_subword_prefix="##", end_of_word_suffix="</w>"))
    tok.normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(), normalizers.Strip(), normalizers.Replace(Regex(r"\s+"), " ")])
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split(Regex(r"\p{P}"), "merged_with_previous"), pre_tokenizers.Digits()])
    trained(tok, three, 500, SENTENCES.values(), limit_alphabet=80, continuing_subword_prefix="##", end_of_word_suffix="</w>")
    tok.decoder = decoders.Sequence([decoders.Replace("##", ""), decoders.Replace(Regex("</w>$"), " "), decoders.Fuse()])
    tok.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1), trim_offsets=False, add_prefix_space=False)
    save("words", tok.to_str(), common)


def make_tokenizer_cases():
    cases = []
    for folder in sorted((OUT / "tok").iterdir()):
        tok = AutoTokenizer.from_pretrained(folder)
        for text in [*SENTENCES.values(), *EDGES]:
            full, bare = tok(text).input_ids, tok(text, add_special_tokens=False).input_ids
            cases.append({"model": folder.name, "text": text, "full": full, "bare": bare, "decoded": tok.decode(full),
                          "decoded_bare": tok.decode(full, skip_special_tokens=True)})
    lines = ",\n".join(json.dumps(c, ensure_ascii=False, separators=(",", ":")) for c in cases)
    (OUT / "tokenizer.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(len(cases), "tokenizer cases")


def make_chat_cases():
    loop = "{% for message in messages %}"
    say = "{{ '<|im_start|>assistant\\n' }}"
    templates = {
        "plain": CHATML,
        "joined": loop + "{{'<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n'}}{% endfor %}{% if add_generation_prompt %}" + say + "{% endif %}",
        "quotes": loop.replace("message ", "message  ") + '{{"<|im_start|>" + message["role"] + "\\n" + message["content"] + "<|im_end|>" + "\\n"}}{% endfor %}{% if add_generation_prompt %}{{"<|im_start|>assistant\\n"}}{% endif %}',
        "lines": "{%- for message in messages %}\n    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n",
        "text": "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "prelude": "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}" + CHATML,
        "bos": "{{ bos_token }}" + CHATML,
        "bos_inside": loop + "{% if loop.first %}{{ bos_token }}{% endif %}" + CHATML[len(loop):],
        "trim": CHATML.replace("message['content']", "message['content'] | trim"),
        "eos": CHATML.replace("'<|im_end|>'", "eos_token"),
        "default_system": loop + "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}{% endif %}" + CHATML[len(loop):],
        "no_prompt": CHATML[:CHATML.index("{% if")],
        "comment": "{# ChatML #}\n" + CHATML,
    }
    chats = [[{"role": "user", "content": "Hello"}],
             [{"role": "system", "content": "You are EuroLLM."}, {"role": "user", "content": "  Grüße \n"}, {"role": "assistant", "content": "Tere!\n\nJah."},
              {"role": "user", "content": ""}],
             [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]]
    cases = []
    for name, template in templates.items():
        config = {"bos_token": "<s>", "eos_token": "<|im_end|>", "unk_token": "<unk>", "chat_template": template}
        tok = PreTrainedTokenizerFast(tokenizer_file=str(OUT / "tok/instruct/tokenizer.json"), **config)
        for messages in chats:
            for prompt in (False, True):
                text = tok.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
                cases.append({"name": name, "config": config, "messages": messages, "prompt": prompt, "text": text})
    (OUT / "chat.json").write_text(json.dumps(cases, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    print(len(cases), "chat cases")


if __name__ == "__main__":
    shutil.rmtree(OUT, ignore_errors=True)
    make_tokenizers()
    make_tokenizer_cases()
    make_chat_cases()
    big = [f"{p}: {p.stat().st_size}" for p in OUT.rglob("*") if p.is_file() and p.stat().st_size > 200_000]
    sys.exit(f"too large: {big}" if big else 0)
