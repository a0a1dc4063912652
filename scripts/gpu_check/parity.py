"""parity.py: greedy answers of the same model on the CPU and on another device, token by token.

    python3 parity.py --program euromodal --pairs build/bundle/parity [--device cuda] [--json FILE]
    python3 parity.py --program euromodal --model DIR --records PATH

PAIRS holds NAME/model and NAME/records (or records.jsonl) as `scripts/bundle --model DIR --records PATH` leaves them. A coupled model answers records
(shards, features too: `euromodal caption --records`), a text model the prompts of a JSONL file (`euromodal generate --batch`). In the dtype of the
model's files every answer must be equal (exit code 1); where the decoder of CUDA graphs takes a text model (heads of 64 or 128), bfloat16 is run too, whose
differences are only shown: there the two devices add up in another order and round to 8 bits. (Features are those of one dtype.)
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

DECODER_HEADS = (64, 128)


def is_coupled(model):
    return os.path.exists(os.path.join(model, "multimodal.yaml"))


def command_of(program, model, records, output, words):
    asked = ["caption", "--records"] if is_coupled(model) else ["generate", "--batch"]
    return [program, asked[0], "--model", model, asked[1], records, "--output", output, "--greedy", *words]


def answers(program, model, records, output, words):
    """The lines of the answer file; RuntimeError with the program's last words."""
    done = subprocess.run(command_of(program, model, records, output, words), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(" ".join(done.stderr.strip().splitlines()[-2:]) or f"exit code {done.returncode}")
    with open(output, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def first_difference(left, right):
    """None where all answers are equal, else the first that is not: which, at which token, both answers."""
    for number, (a, b) in enumerate(zip(left, right)):
        if a["id"] != b["id"] or a.get("tokens", a.get("text")) != b.get("tokens", b.get("text")) or "error" in a or "error" in b:
            x, y = a.get("tokens", []), b.get("tokens", [])
            at = next((i for i, (s, t) in enumerate(zip(x, y)) if s != t), min(len(x), len(y)))
            return {"line": number, "id": a["id"], "token": at, "left": x[at:at + 4] or a.get("error", "the end"),
                    "right": y[at:at + 4] or b.get("error", "the end"), "left_text": a.get("text"), "right_text": b.get("text")}
    if len(left) == len(right):
        return None
    return {"line": min(len(left), len(right)), "id": "", "token": 0, "left": f"{len(left)} answers", "right": f"{len(right)} answers"}


def compare(args, name, model, records, dtype):
    row = {"model": name, "dtype": dtype or "as the files", "must_be_equal": not dtype, "answers": 0, "equal": 0, "tokens": 0, "first": None, "error": None}
    words = ["--max-new-tokens", str(args.max_new_tokens), *(["--dtype", dtype] if dtype else [])]
    with tempfile.TemporaryDirectory() as folder:
        try:
            left, right = (answers(args.program, model, records, os.path.join(folder, f"{i}.jsonl"), [*words, "--device", device])
                           for i, device in enumerate((args.reference, args.device)))
        except (RuntimeError, OSError, ValueError) as error:
            row["error"] = str(error)
            return row
    row["answers"] = max(len(left), len(right))
    row["tokens"] = sum(len(a.get("tokens", [])) for a in left)
    row["equal"] = sum(first_difference([a], [b]) is None for a, b in zip(left, right))
    row["first"] = first_difference(left, right)
    return row


def dtypes(model):
    with open(os.path.join(model, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return ["", "bfloat16"] if head in DECODER_HEADS and not is_coupled(model) else [""]


def text(row):
    if row["error"]:
        return f"{row['model']}, {row['dtype']}: {row['error']}"
    out = f"{row['model']}, {row['dtype']}: {row['equal']} of {row['answers']} answers equal ({row['tokens']} tokens)"
    if row["first"]:
        f = row["first"]
        out += f"; the first that differs: {f['id']}, at token {f['token']}: {f['left']} and {f['right']}"
    return out


def failed(row):
    return bool(row["error"]) or row["answers"] == 0 or (row["must_be_equal"] and row["equal"] < row["answers"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--pairs")
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--records", action="append", default=[])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--reference", default="cpu")
    parser.add_argument("--max-new-tokens", type=int, default=24)
    parser.add_argument("--json")
    args = parser.parse_args()
    pairs = [(os.path.basename(os.path.normpath(model)), model, records) for model, records in zip(args.model, args.records)]
    if args.pairs:
        for folder in (os.path.join(args.pairs, name) for name in sorted(os.listdir(args.pairs))):
            records = os.path.join(folder, "records")
            pairs.append((os.path.basename(folder), os.path.join(folder, "model"), records if os.path.isdir(records) else records + ".jsonl"))
    if len(args.model) != len(args.records) or not pairs:
        parser.error("--pairs, or as many --model as --records")
    rows = []
    for name, model, records in pairs:
        for dtype in dtypes(model):
            rows.append(compare(args, name, model, records, dtype))
            print(text(rows[-1]), flush=True)
            if args.json:
                with open(args.json, "w", encoding="utf-8") as file:
                    json.dump({"parity": rows}, file, indent=1)
    sys.exit(1 if any(failed(row) for row in rows) else 0)


if __name__ == "__main__":
    main()
