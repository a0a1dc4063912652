"""check_tokenizer.py: does the program's own tokenizer spell every name of the corpus without byte fallback?

  check_tokenizer.py --program build/cpu/bin/euromodal --tokenizer configs/nano/tokenizer
"""
import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from concepts import LANGUAGES, draw_concepts, prompt


def run(arguments: list) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, arguments[:2]))} ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    return done.stdout


def check(program: Path, tokenizer: Path) -> str:
    names = [c.names[language] for c in draw_concepts() for language in LANGUAGES]
    text = "\n".join(names) + "".join(prompt(language) for language in LANGUAGES)
    vocabulary = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    fallback = {index: piece for piece, index in vocabulary.items() if piece.startswith("<0x") or piece == "<unk>"}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "text").write_text(text, encoding="utf-8")
        ids = json.loads(run([program, "tokenize", "--model", tokenizer, "--no-special", "--file", Path(folder) / "text"]))
        used = sorted({fallback[i] for i in ids if i in fallback})
        if used:
            raise RuntimeError(f"{tokenizer}: the names need byte fallback ({', '.join(used[:5])}); the annotations differ from those that the tokenizer was "
                               "made for: run scripts/nano/make_tokenizer.py")
        (Path(folder) / "ids").write_text(json.dumps(ids))
        back = run([program, "tokenize", "--model", tokenizer, "--decode", "--file", Path(folder) / "ids"])
    if back.removesuffix("\n") != text:
        raise RuntimeError(f"{tokenizer}: the names do not come back from their tokens unchanged")
    return f"tokenizer: {len(names)} names in {len(ids) / len(names):.1f} tokens each, none by byte fallback"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    options = parser.parse_args()
    try:
        print(check(options.program, options.tokenizer))
    except (OSError, RuntimeError, ValueError) as fault:
        print(f"check_tokenizer: {fault}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
