"""steps.py: what scripts/gpu-check runs, in order of worth. Seconds are the most that a step gets; `least`: with less left it is not started."""
import glob
import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass, field

SMALL = {"EUROMODAL_SMALL_TESTS": "1"}
HERE = os.path.dirname(os.path.abspath(__file__))


@dataclass
class Step:
    name: str
    about: str
    command: list
    seconds: int
    least: int = 8
    is_test: bool = False      # its failure is the exit code
    tests: bool = False        # a GoogleTest program ...
    parts: int = 1             # ... in so many parts
    wrapper: list = field(default_factory=list)
    env: dict = field(default_factory=dict)
    plain: bool = False        # without the bundle's libraries: Python and its compiler bring their own
    json: str = ""             # file of figures that the command writes
    missing: str = ""          # why it cannot run here


def lacking(*modules):
    absent = [m for m in modules if importlib.util.find_spec(m) is None]
    return f"python3 has no {' and '.join(absent)}" if absent else ""


def plan(bundle, out, quick):
    kernels, ops, model = (f"{bundle}/bin/{name}" for name in ("tests_kernels_gpu", "tests_ops_gpu", "gpu_model_bench"))
    shape = ["--shape", "1.7b"] if quick else []

    def figures(name, about, command, seconds, **more):
        file = f"{out}/{name}.json"
        return Step(name, about, [*command, "--json", file], seconds, json=file, **more)

    def peers(name, about, seconds, words, *modules):
        script = f"{bundle}/peers/{name}.py"
        missing = "" if os.path.exists(script) else "not in the bundle"
        return figures(name, about, [sys.executable, script, *words], seconds, least=40, plain=True, missing=missing or lacking(*modules))

    parity = figures("parity", "greedy tokens of the bundle's models, CPU and GPU",
                     [sys.executable, f"{HERE}/parity.py", "--program", f"{bundle}/bin/euromodal", "--pairs", f"{bundle}/parity"], 90, is_test=True,
                     missing="" if glob.glob(f"{bundle}/parity/*/model") else "no model in the bundle (scripts/bundle --model)")
    steps = [
        Step("kernels", "kernel tests, small sizes", [kernels], 90, is_test=True, tests=True, env=SMALL),
        Step("operators", "operators, gradients, decoder", [ops], 120, is_test=True, tests=True),
        parity,
        figures("kernels_bench", "kernels one by one", [f"{bundle}/bin/kernels_bench"], 120),
        figures("decode", "decoding of the whole backbone", [model, *shape, "--only", "decode"], 150, least=30),
    ]
    sanitizer = "" if shutil.which("compute-sanitizer") else "compute-sanitizer is not here"

    def sanitized(tool, parts, seconds):
        return Step(tool, f"kernel tests, small sizes, under compute-sanitizer's {tool}", [kernels], seconds, least=30, is_test=True, tests=True, parts=parts,
                    wrapper=["compute-sanitizer", "--error-exitcode", "1", "--tool", tool], env=SMALL, missing=sanitizer)

    if not quick:
        steps += [
            Step("kernels_full", "kernel tests, full sizes", [kernels], 150, least=30, is_test=True, tests=True, parts=3),
            sanitized("memcheck", 2, 80), sanitized("racecheck", 4, 120), sanitized("initcheck", 2, 80),
        ]
    steps.append(figures("prefill_train", "prefill and adapter training of the whole backbone", [model, *shape, "--only", "prefill,train"], 120, least=30))
    if not quick:
        both = not lacking("transformers")
        steps += [
            peers("decode_peers", "the same decoding in PyTorch", 180, [] if both else ["--only", "compiled"], "torch"),
            peers("train_peers", "the same training in PyTorch", 150, [], "torch", "transformers"),
        ]
    return steps


def choose(steps, only, skip):
    """--only gives the order, too. ValueError names a word that is no step."""
    by_name = {step.name: step for step in steps}
    for name in [*only, *skip]:
        if name not in by_name:
            raise ValueError(f"there is no step {name}; the steps are {', '.join(by_name)}")
    chosen = [by_name[name] for name in only] if only else steps
    return [step for step in chosen if step.name not in skip]
