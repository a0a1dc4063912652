"""gtest.py: a GoogleTest program in parts, so that a test that hangs or dies costs its part and not the others; also under compute-sanitizer."""
import os
import re
import subprocess
import time

import process

LINE = re.compile(r"\[ *(RUN|OK|FAILED|SKIPPED) +\] ([\w/]+\.[\w/]+)(?:, where .*?)?(?: \(\d+ ms\))?\s*$", re.M)
SUMMARY = re.compile(r"=+ (?:ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard)")
NO_GPU = "no NVIDIA GPU on this host"  # as the tests say why they are skipped
ALONE_SECONDS = 20
MOST_ALONE = 8


def names(program, env):
    """All tests of the program; [] when it does not say."""
    try:
        done = subprocess.run([program, "--gtest_list_tests"], capture_output=True, text=True, env=env, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    out, suite = [], ""
    for line in done.stdout.splitlines():
        word = line.split("#")[0].rstrip()
        if re.fullmatch(r"[\w/]+\.", word):
            suite = word
        elif suite and re.fullmatch(r"  [\w/]+", word):
            out.append(suite + word.strip())
    return out


def read(text):
    """(name -> "OK", "FAILED" or "SKIPPED", the test that was under way at the end or None, errors that a sanitizer counted or None)"""
    results, running = {}, None
    for word, name in LINE.findall(text):  # the summary at the end says the same again
        if word == "RUN":
            running = name
        else:
            results[name], running = word, None
    counts = [int(a or b) for a, b in SUMMARY.findall(text)]
    return results, running, (sum(counts) if counts else None)


def run(command, wrapper, seconds, env, log, parts):
    """Runs all tests in `parts` groups, each with its share of the time that is left -> what the step's record gets."""
    deadline = time.monotonic() + seconds
    tests = names(command[0], env)
    groups = [tests[i::parts] for i in range(parts)] if tests else [[]]
    groups = [group for group in groups if group or not tests]
    out = {"passed": 0, "failed": [], "skipped": 0, "ended_in": [], "timed_out_in": [], "not_run": []}
    errors, codes = [], []
    for i, group in enumerate(groups):
        rest = group
        end = time.monotonic() + (deadline - time.monotonic()) / (len(groups) - i)
        while time.monotonic() < end:
            start = os.path.getsize(log) if os.path.exists(log) else 0
            chosen = [f"--gtest_filter={':'.join(rest)}"] if rest else []
            code, _ = process.run([*wrapper, *command, *chosen], end - time.monotonic(), env, log)
            with open(log, "rb") as file:
                file.seek(start)
                said = file.read().decode(errors="replace")
            results, running, count = read(said)
            if NO_GPU in said:
                out["no_gpu"] = True
            codes.append(code)
            errors.append(count)
            out["passed"] += sum(word == "OK" for word in results.values())
            out["skipped"] += sum(word == "SKIPPED" for word in results.values())
            out["failed"] += [name for name, word in results.items() if word == "FAILED"]
            if running:
                out["timed_out_in" if code == process.TIMED_OUT else "ended_in"].append(running)
            rest = [name for name in rest if name not in results and name != running]
            if code == process.TIMED_OUT or not rest or not (results or running):
                break  # else it died in a test: on with those behind it
        out["not_run"] += rest
    if wrapper:
        out["errors"] = sum(e for e in errors if e is not None)
        out["parts_without_summary"] = sum(e is None for e in errors)
    elif out["failed"]:  # one test can spoil the device for those behind it: each again by itself
        out["alone"] = {}
        for name in out["failed"][:MOST_ALONE]:
            left = min(ALONE_SECONDS, deadline - time.monotonic())
            if left > 3:
                out["alone"][name] = process.run([*command, f"--gtest_filter={name}"], left, env, log)[0] == 0
    return out, codes


def verdict(out, codes):
    """The word for the table: "ok" only where tests passed and nothing is left to say."""
    if process.TIMED_OUT in codes:
        return "failed, timed out" if out["failed"] or out["ended_in"] else "timed out"
    if out["failed"] or out["ended_in"]:
        return "failed"
    if any(codes) or out.get("errors"):
        return f"exit {next((c for c in codes if c), 0)}"
    if out.get("no_gpu"):
        return "no GPU"
    return "ok" if out["passed"] else "no test ran"


def text(out):
    """The table's cell."""
    words = [f"{out['passed']} passed"]
    if out["skipped"]:
        words.append(f"{out['skipped']} skipped")
    for key, word in (("failed", "failed"), ("ended_in", "ended the program"), ("timed_out_in", "under way at the limit"), ("not_run", "not run")):
        if out[key]:
            shown = out[key] if key != "not_run" else out[key][:3]
            words.append(f"{len(out[key])} {word}: {', '.join(shown)}{' ...' if len(shown) < len(out[key]) else ''}")
    if out.get("alone"):
        words.append("alone: " + ", ".join(f"{name} {'passes' if passes else 'fails'}" for name, passes in out["alone"].items()))
    if "errors" in out:
        words.append(f"{out['errors']} errors")
        if out["parts_without_summary"]:
            words.append(f"{out['parts_without_summary']} parts without a summary")
    return "; ".join(words)
