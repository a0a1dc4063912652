"""aims.py: what the GPU part is meant to reach, and what the JSON results of its benchmarks say. A figure that was not measured stays open."""
import json
import os
import re
from dataclasses import dataclass, field
from typing import Callable

MEMORY_GB_S = 4300.0  # of an H200, which the aims of decoding are set against
LARGE_BYTES = 32e6    # elementwise kernels: calls that move less are not held against a copy
ELEMENTWISE = ("rms_norm forward", "rms_norm backward", "layer_norm forward", "layer_norm backward", "swiglu forward", "swiglu backward", "gelu forward",
               "gelu backward", "rope", "splice_rows forward", "splice_rows backward", "adamw")


@dataclass
class Figures:
    """Results by who wrote them; of several runs the last one counts."""
    models: list = field(default_factory=list)   # gpu_model_bench: lists of rows
    kernels: list = field(default_factory=list)  # kernels_bench
    peers: dict = field(default_factory=dict)    # decode_peers.py and train_peers.py
    parity: list = field(default_factory=list)

    def add(self, data):
        if isinstance(data, list) and data and "what" in data[0]:
            if all(row["setting"].startswith("54 layers") for row in data if row["what"] == "memory"):  # the aims are those of 22B
                self.models.insert(0, data)
        elif isinstance(data, dict) and "limits" in data:
            self.kernels.insert(0, data)
        elif isinstance(data, dict) and "parity" in data:
            self.parity = data["parity"]
        elif isinstance(data, dict) and "layers" in data:
            self.peers.update(data)

    def row(self, what, setting):
        """(row, all rows of its run) of gpu_model_bench, or (None, None)."""
        for rows in self.models:
            for row in rows:
                if re.fullmatch(what, row["what"]) and re.fullmatch(setting, row["setting"]):
                    return row, rows
        return None, None

    def timed(self, kernel, shape=""):
        """Rows of kernels_bench and the limits of their run; [] and {} where there are none."""
        for data in self.kernels:
            rows = [r for r in data["results"] if r["kernel"] == kernel and re.search(shape, r["shape"])]
            if rows:
                return rows, data["limits"]
        return [], {}


def read(paths):
    """JSON files, and those of folders."""
    figures = Figures()
    for path in paths:
        files = [os.path.join(path, name) for name in sorted(os.listdir(path)) if name.endswith(".json")] if os.path.isdir(path) else [path]
        for name in files:
            try:
                with open(name, encoding="utf-8") as file:
                    figures.add(json.load(file))
            except ValueError:
                continue  # a log, or cut off: nothing measured
    return figures


# Each of these: Figures -> (value, where it stands) or None.
def decode_rate(f, form="bf16|bfloat16", batch=1):
    row, _ = f.row(f"decode ({form})", f"batch {batch} depth 0")
    return (row["value"], "") if row else None


def decode_share(form):
    def value(f):
        row, rows = f.row(f"decode ({form})", "batch 1 depth 0")
        if row is None:
            return None
        limit = max(r["value"] for r in rows if r["what"] in ("copy", "read"))
        return row["share"] * limit / MEMORY_GB_S, f"{row['value']:.1f} tok/s"
    return value


def batch_gain(f):
    one, many = decode_rate(f), decode_rate(f, batch=16)
    return (many[0] / one[0], f"{many[0]:.0f} tok/s") if one and many else None


def over_peer(name):
    def value(f):
        ours, peer = decode_rate(f), f.peers.get(name)
        return (ours[0] / peer, f"{ours[0]:.1f} : {peer:.1f} tok/s") if ours and isinstance(peer, float) else None
    return value


def share(what, setting):
    def value(f):
        row, _ = f.row(what, setting)
        return (row["share"], f"{row['value']:.0f} tok/s") if row else None
    return value


def train_over_eager(f):
    """Beside the faster of the peers that fitted into memory."""
    ours = [row for rows in f.models for row in rows if row["what"] == "train adapter"]
    theirs = [(f.peers[name]["tokens_s"], name) for name in ("eager", "eager, checkpointing") if "tokens_s" in f.peers.get(name, {})]
    if not ours or not theirs:
        return None
    return ours[0]["value"] / max(theirs)[0], f"{ours[0]['value']:.0f} : {max(theirs)[0]:.0f} tok/s ({max(theirs)[1]})"


def kernel_share(kernel, shape):
    def value(f):
        rows, _ = f.timed(kernel, shape)
        return (min(r["share"] for r in rows), f"{rows[0]['us']:.1f} us") if rows else None
    return value


def over_products(f):
    """Time of the fused loss over that of its matrix products, the slowest of its forms."""
    rows, limits = f.timed("linear_cross_entropy")
    if not rows:
        return None
    worst = max(rows, key=lambda r: limits["bf16_tflop_s"] / r["tflop_s"])
    return limits["bf16_tflop_s"] / worst["tflop_s"], f"{worst['us'] / 1e3:.1f} ms, {worst['shape']}"


def milliseconds(kernel, shape=""):
    def value(f):
        rows, _ = f.timed(kernel, shape)
        worst = max(rows, key=lambda r: r["us"], default=None)
        return (worst["us"] / 1e3, worst["shape"]) if worst else None
    return value


def of_copy(kernel):
    def value(f):
        rows, limits = f.timed(kernel)
        worst = min((r for r in rows if r["gb_s"] * r["us"] * 1e3 >= LARGE_BYTES), key=lambda r: r["gb_s"], default=None)
        if worst is None:
            return None
        # kernels_bench copied inside a graph once, which is slower: then the copy of gpu_model_bench
        copy = max([limits["copy_gb_s"]] + [r["value"] for rows in f.models for r in rows if r["what"] == "copy"])
        return worst["gb_s"] / copy, worst["shape"]
    return value


def equal_answers(f):
    rows = [r for r in f.parity if r["must_be_equal"]]
    answers = sum(r["answers"] for r in rows)
    return (sum(r["equal"] for r in rows) / answers, f"{answers} answers") if answers else None


@dataclass
class Aim:
    what: str
    bound: float
    unit: str
    value: Callable
    at_least: bool = True

    def show(self, number):
        return {"%": f"{100 * number:.1f} %", "x": f"{number:.2f} x"}.get(self.unit, f"{number:.2f} {self.unit}")


AIMS = [
    Aim("decode bf16, batch 1, of 4.3 TB/s", 0.85, "%", decode_share("bf16|bfloat16")),
    Aim("decode bf16, batch 1", 81, "tok/s", decode_rate),
    Aim("decode fp8, batch 1, of 4.3 TB/s", 0.80, "%", decode_share("fp8|float8")),
    Aim("decode int4, batch 1, of 4.3 TB/s", 0.75, "%", decode_share("int4")),
    Aim("decode bf16, batch 16 over batch 1", 12, "x", batch_gain),
    Aim("decode attention, depth 32768, bf16, of the memory's rate", 0.80, "%", kernel_share("decode attention", r"^batch 1 depth 32768 bf16$")),
    Aim("decode bf16 over compiled PyTorch", 1.2, "x", over_peer("compiled")),
    Aim("decode bf16 over transformers", 2.5, "x", over_peer("transformers")),
    Aim("prefill of 4096 tokens, of the matrix rate", 0.60, "%", share("prefill bf16", "4096 tokens")),
    Aim("training step of an adapter (4 N), of the matrix rate", 0.55, "%", share("train adapter", "4096 tokens, .*")),
    Aim("training step over eager PyTorch", 1.5, "x", train_over_eager),
    Aim("fused cross entropy, 8192 rows of 128000, time over that of its products", 1.3, "x", over_products, at_least=False),
    *(Aim(f"{kernel}, of the copy's rate", 0.85, "%", of_copy(kernel)) for kernel in ELEMENTWISE),
    Aim("a picture to an encoder's input, kernels alone", 1.0, "ms", milliseconds("image_transform"), at_least=False),
    Aim("log-mel of 30 s, kernels alone", 2.0, "ms", milliseconds("log_mel", "^1 x 30 s"), at_least=False),
    Aim("greedy answers equal on CPU and GPU", 1.0, "%", equal_answers),
]


def rows(figures):
    """For gpu-check.json: every aim with what was reached; None where it was not measured."""
    out = []
    for aim in AIMS:
        got = aim.value(figures)
        value, note = got if got else (None, "")
        reached = None if got is None else bool(value >= aim.bound if aim.at_least else value <= aim.bound)
        out.append({"what": aim.what, "aim": ("at least " if aim.at_least else "at most ") + aim.show(aim.bound), "value": value,
                    "shown": "not measured" if got is None else aim.show(value), "reached": reached, "note": note})
    return out


def table(figures):
    words = {True: "reached", False: "missed", None: ""}
    lines = ["| what | aim | measured | | |", "|---|---|---|---|---|"]
    return lines + [f"| {r['what']} | {r['aim']} | {r['shown']} | {words[r['reached']]} | {r['note']} |" for r in rows(figures)]
