"""llama-bench and `euromodal bench text` in turns; prints tokens per second of both and the median ratio (see README.md)."""
import argparse
import json
import statistics
import subprocess
import tempfile
from pathlib import Path


def run_llama(program: str, gguf: str, threads: int, pp: int, tg: int, depth: int) -> dict[str, float]:
    command = [program, "-m", gguf, "-t", str(threads), "-p", str(pp), "-n", str(tg), "-d", str(depth), "-r", "1", "-o", "json"]
    out = {}
    for case in json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout):
        out["pp" if case["n_prompt"] else "tg"] = case["avg_ts"]
    return out


def run_ours(program: str, model: str, weights: str, threads: int, pp: int, tg: int, depth: int) -> dict[str, tuple[float, float]]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bench.json"
        command = [program, "bench", "text", "--model", model, "--weights", weights, "--threads", str(threads), "--prompt-tokens", str(pp),
                   "--new-tokens", str(tg), "--depth", str(depth), "--repetitions", "1", "--output", str(file)]
        subprocess.run(command, check=True, capture_output=True)
        return {case["kind"]: (case["tokens_per_s"], case["share_of_limit"]) for case in json.loads(file.read_text())["cases"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llama-bench", required=True)
    parser.add_argument("--euromodal", default="build/cpu/bin/euromodal")
    parser.add_argument("--config", required=True, help="config.json of the shape, or a model folder")
    parser.add_argument("--pair", action="append", required=True, metavar="FILE.gguf=WORD", help="WORD as `euromodal bench --weights` takes it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--depth", type=int, nargs="+", default=[0, 2048])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print("| weights | depth | test | llama.cpp tok/s | euromodal tok/s | ratio | share of limit |\n|---|---:|---|---:|---:|---:|---:|")
    for pair in args.pair:
        gguf, weights = pair.rsplit("=", 1)
        for depth in args.depth:
            theirs: dict[str, list[float]] = {"pp": [], "tg": []}
            ours: dict[str, list[tuple[float, float]]] = {"pp": [], "tg": []}
            for _ in range(args.rounds):
                a = run_llama(args.llama_bench, gguf, args.threads, args.prompt_tokens, args.new_tokens, depth)
                b = run_ours(args.euromodal, args.config, weights, args.threads, args.prompt_tokens, args.new_tokens, depth)
                for kind in ("pp", "tg"):
                    theirs[kind].append(a[kind])
                    ours[kind].append(b[kind])
            for kind in ("pp", "tg"):
                ratio = statistics.median(o[0] / t for o, t in zip(ours[kind], theirs[kind]))
                print(f"| {weights} / {Path(gguf).stem} | {depth} | {kind} | {statistics.median(theirs[kind]):.2f} | "
                      f"{statistics.median(o[0] for o in ours[kind]):.2f} | {ratio:.2f} | {100 * statistics.median(o[1] for o in ours[kind]):.0f} % |",
                      flush=True)


if __name__ == "__main__":
    main()
