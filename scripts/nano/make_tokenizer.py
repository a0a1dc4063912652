"""make_tokenizer.py: the nano backbone's tokenizer, in the form of EuroLLM's: BPE with byte fallback, `▁` for a space, ChatML tokens.

  make_tokenizer.py --output configs/nano/tokenizer      needs tests/requirements-oracle.txt (tokenizers, transformers)
The result is committed: the 64 concepts are fixed by their seed. Pieces, in order of merging: the prompts (`\nDescribe this in German.` is one token), the
list separator, a space before a letter (spelled names), then merges learned on the names themselves.
"""
import argparse
import json
from pathlib import Path

from tokenizers import Tokenizer, models, trainers

from concepts import LANGUAGES, draw_concepts, prompt
from texts import SEPARATOR

SPACE = "▁"
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<image>", "<audio>", "<video>"]
HEADERS = ["user\n", "assistant\n"]
NAME_MERGES = 384
CHATML = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def chain(text: str) -> list:
    """Merges that build `text` from its letters, left to right."""
    return [(text[:i], text[i]) for i in range(1, len(text))]


def learned_merges(names: list) -> list:
    tokenizer = Tokenizer(models.BPE())
    # No pre-tokeniser: each name is one word. Ties are broken by id, so the same names give the same merges.
    tokenizer.train_from_iterator(names, trainers.BpeTrainer(vocab_size=NAME_MERGES + len(set("".join(names))), show_progress=False))
    return [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


def make(concepts: list) -> dict:
    names = [c.names[language] for c in concepts for language in LANGUAGES]
    prompts = [prompt(language).replace(" ", SPACE) for language in LANGUAGES]
    letters = sorted(set("".join(names)))
    merges = []
    for text in prompts + [SEPARATOR.replace(" ", SPACE)] + [SPACE + letter for letter in letters]:
        merges += [pair for pair in chain(text) if pair not in merges]
    merges += [pair for pair in learned_merges(names) if pair not in merges]
    pieces = SPECIAL + HEADERS + [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += sorted(set("".join(prompts) + SEPARATOR.replace(" ", SPACE) + SPACE) | set(letters))
    pieces += [left + right for left, right in merges]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    added = [{"id": vocabulary[t], "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": t in SPECIAL}
             for t in SPECIAL + HEADERS]
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "pre_tokenizer": None,
        "post_processor": {"type": "TemplateProcessing", "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
                           "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<s>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
                           "special_tokens": {"<s>": {"id": "<s>", "ids": [vocabulary["<s>"]], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
                  "byte_fallback": True, "ignore_merges": False, "vocab": vocabulary, "merges": [list(pair) for pair in merges]},
    }


def check(path: Path, concepts: list) -> str:
    """Every name and prompt comes back as it was, without byte fallback; every prompt is one token."""
    tokenizer, lengths = Tokenizer.from_file(str(path)), []
    for concept in concepts:
        for language, name in concept.names.items():
            for text in [name, " ".join(name), SEPARATOR.join([name, name])]:
                encoded = tokenizer.encode(text + prompt(language), add_special_tokens=False)
                assert tokenizer.decode(encoded.ids, skip_special_tokens=False) == text + prompt(language), text
                assert not any(t.startswith("<0x") or t == "<unk>" for t in encoded.tokens), (text, encoded.tokens)
                assert encoded.tokens[-1] == prompt(language).replace(" ", SPACE), encoded.tokens
            lengths.append(len(tokenizer.encode(name, add_special_tokens=False).ids))
    return f"{tokenizer.get_vocab_size()} entries, {sum(lengths) / len(lengths):.2f} tokens a name, at most {max(lengths)}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    concepts = draw_concepts()
    path = output / "tokenizer.json"
    path.write_text(json.dumps(make(concepts), ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": "<|im_end|>",
              "unk_token": "<unk>", "pad_token": "</s>", "clean_up_tokenization_spaces": False, "chat_template": CHATML}
    (output / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{path}: {path.stat().st_size} bytes, {check(path, concepts)}")


if __name__ == "__main__":
    main()
