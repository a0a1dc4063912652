"""report.py: what the demo reached, as a table on the terminal, scores.json and a self-contained page.

  report.py --output DEMO_DIR      reads corpus/, predictions/{trained,untrained}/TASK.jsonl, STAGE/metrics.jsonl and timings.tsv below it
Ends with 1 where a modality stays below five times chance (of exact answers).
"""
import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import page
from records import answer_of, read_jsonl
from scores import TASKS, TIMES_CHANCE, by_language, guesses, score

STAGES = {"backbone": "Backbone (text)", "image": "Image encoder (classes)", "speech": "Speech encoder (CTC)", "adapters": "Adapters (all media)"}


def read_predictions(path: Path, rows: list) -> list:
    """The answer to every row, in the order of the rows; matched by id."""
    found = {}
    for prediction in read_jsonl(path):
        if "id" not in prediction or not isinstance(prediction.get("text"), str):
            raise ValueError(f"{path}: a line without id and text: {str(prediction)[:80]}")
        found[prediction["id"]] = prediction["text"]
    missing = [row["id"] for row in rows if row["id"] not in found]
    if missing:
        raise ValueError(f"{path}: no answer for {len(missing)} of {len(rows)} records, the first is {missing[0]}")
    return [found[row["id"]] for row in rows]


def gather(root: Path) -> dict:
    """Everything that table and page show."""
    facts = json.loads((root / "corpus/splits.json").read_text(encoding="utf-8"))
    names = [c["names"] for c in facts["concepts"]]
    results = {}
    for task, (what, modality, chance, target) in TASKS.items():
        rows = read_jsonl(root / f"corpus/heldout-{task}.jsonl")
        references = [answer_of(row) for row in rows]
        trained = read_predictions(root / f"predictions/trained/{task}.jsonl", rows)
        result = {"what": what, "modality": modality, "chance": chance, "target": target, "rows": rows, "answers": trained,
                  "trained": score(trained, references), "guess": score(guesses(rows, names), references), "by_language": by_language(rows, trained),
                  "untrained": None}
        if modality:
            result["untrained"] = score(read_predictions(root / f"predictions/untrained/{task}.jsonl", rows), references)
        results[task] = result
    showcase = read_jsonl(root / "corpus/heldout-showcase.jsonl")
    timings = []
    if (root / "timings.tsv").is_file():
        timings = [(name, float(seconds)) for name, seconds in (line.split("\t") for line in (root / "timings.tsv").read_text().splitlines() if line)]
    return {"facts": facts, "results": results, "showcase": (showcase, read_predictions(root / "predictions/trained/showcase.jsonl", showcase)),
            "metrics": {stage: read_jsonl(root / stage / "metrics.jsonl") for stage in STAGES}, "timings": timings}


def failures(results: dict) -> list:
    return [f"{task}: {100 * r['trained'].exact:.1f} % exact is below {TIMES_CHANCE} times chance ({100 * TIMES_CHANCE * r['chance']:.2f} %)"
            for task, r in results.items() if r["modality"] and r["trained"].exact < TIMES_CHANCE * r["chance"]]


def table(results: dict) -> str:
    head = f"{'held-out task':<51} {'rows':>4} | {'exact match %':^31} | {'chrF':^26}"
    second = f"{'':<51} {'':>4} | {'chance':>7} {'untrained':>9} {'trained':>7} {'aim':>5} | {'guess':>7} {'untrained':>9} {'trained':>7} "
    lines = [head, second, "-" * len(second)]
    for r in results.values():
        before = r["untrained"]
        marks = " " if r["trained"].exact >= r["target"] else "*"
        lines.append(f"{r['what']:<51} {r['trained'].rows:>4} | {100 * r['chance']:>7.2f} {100 * before.exact if before else float('nan'):>9.1f} "
                     f"{100 * r['trained'].exact:>7.1f} {100 * r['target']:>4.0f}{marks} | {r['guess'].chrf:>7.1f} {before.chrf if before else float('nan'):>9.1f} "
                     f"{r['trained'].chrf:>7.1f} ".replace("nan", "  -"))
    lines.append("* below the aim. Chance: a drawn name (or ordered pair of names); guess: chrF of such names; untrained: the same model before its adapters were trained.")
    return "\n".join(lines)


def write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.rename(path)


def make_report(root: Path) -> int:
    data = gather(root)
    print(table(data["results"]))
    scores = {task: {"rows": r["trained"].rows, "chance": r["chance"], "aim": r["target"], "by_language": r["by_language"],
                     **{key: asdict(r[key]) for key in ("trained", "untrained", "guess") if r[key]}} for task, r in data["results"].items()}
    write_whole(root / "scores.json", json.dumps(scores, indent=1, ensure_ascii=False) + "\n")
    html = page.render(data, root / "corpus", STAGES)
    write_whole(root / "report.html", html)
    print(f"report: {root / 'report.html'} ({len(html.encode()) / 1e6:.1f} MB), {root / 'scores.json'}")
    bad = failures(data["results"])
    for line in bad:
        print(f"report: {line}", file=sys.stderr)
    return 1 if bad else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    try:
        return make_report(parser.parse_args().output)
    except (OSError, ValueError, KeyError) as fault:
        print(f"report: {type(fault).__name__ + ': ' if isinstance(fault, KeyError) else ''}{fault}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
