"""scripts/gpu-check over a bundle of stand-ins: order, budget, what is left when it is killed, what is read from GoogleTest and compute-sanitizer, answers of two
devices, and the table of aims over the figures of 2026-11-26."""
import importlib.util
import json
import os
import runpy
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest

SCRIPT = sys.argv.pop()
TOP = os.path.dirname(os.path.dirname(os.path.abspath(SCRIPT)))
sys.path.insert(0, os.path.join(TOP, "scripts", "gpu_check"))
sys.dont_write_bytecode = True
import gtest  # noqa: E402
ROWS = [{"what": "decode bf16", "setting": "batch 1 depth 0", "value": 90.25, "unit": "tok/s", "share": 0.897},
        {"what": "memory", "setting": "all", "value": 46.0, "unit": "GB", "share": 0.0}]
KERNELS = {"limits": {"copy_gb_s": 4000.0, "read_gb_s": 4600.0, "bf16_tflop_s": 800.0}, "failed": [], "left_out": [],
           "results": [{"bench": "rope", "kernel": "rope", "shape": "4096 x 48 x 128 bf16", "us": 50.0, "gb_s": 2000.0, "tflop_s": 0.0, "share": 0.4},
                       {"bench": "linear_cross_entropy", "kernel": "linear_cross_entropy", "shape": "8192", "us": 2e4, "gb_s": 1.0, "tflop_s": 640.0, "share": 0.8}]}

# A GoogleTest program by what its tests do: ok, skip, fail, spoilt (fails unless it is alone), die, hang.
GTEST = """#!/usr/bin/env python3
import os, sys, time
tests = {tests!r}
word = sys.argv[1] if len(sys.argv) > 1 else ""
if word == "--gtest_list_tests":
    print("Running main() from gtest_main.cc")
    for suite in dict.fromkeys(name.split(".")[0] for name in tests):
        print(suite + ".")
        for name in tests:
            if name.startswith(suite + "."):
                print("  " + name.split(".")[1] + ("  # GetParam() = Char" if "/" in name else ""))
    sys.exit(0)
chosen = word.split("=")[1].split(":") if word.startswith("--gtest_filter=") else list(tests)
print(os.environ.get("FROM_BUNDLE"), "small=" + os.environ.get("EUROMODAL_SMALL_TESTS", ""), flush=True)
failed = []
for name in chosen:
    what = tests[name]
    print("[ RUN      ] " + name, flush=True)
    if what == "die":
        os.kill(os.getpid(), 9)
    if what == "hang":
        time.sleep(60)
    bad = what == "fail" or (what == "spoilt" and len(chosen) > 1)
    failed += [name] if bad else []
    tail = ", where GetParam() = Char" if "/" in name and bad else ""
    print({{"skip": "[  SKIPPED ] "}}.get(what, "[  FAILED  ] " if bad else "[       OK ] ") + name + tail + " (1 ms)", flush=True)
for name in failed:
    print("[  FAILED  ] " + name)
if os.environ.get("WITHOUT"):
    print("no NVIDIA GPU on this host")
sys.exit(1 if failed else 0)
"""
SANITIZER = """#!/bin/bash
# compute-sanitizer --error-exitcode 1 --tool TOOL PROGRAM ...
tool=$4; shift 4; "$@"; code=$?
[ $tool = racecheck ] && echo "========= RACECHECK SUMMARY: $RACES hazards displayed (0 errors, 0 warnings)" || echo "========= ERROR SUMMARY: 0 errors"
[ $tool = racecheck ] && [ $RACES != 0 ] && exit 1
exit $code
"""
# The program of the bundle: every device's answers, from FOLDER/answers-DEVICE.
EUROMODAL = """#!/usr/bin/env python3
import shutil, sys
word = dict(zip(sys.argv[2:], sys.argv[3:]))
assert "--greedy" in sys.argv
assert word["--records"].endswith("records") if sys.argv[1] == "caption" else sys.argv[1] == "generate" and word["--batch"].endswith("records.jsonl")
shutil.copyfile(word["--model"] + "/answers-" + word["--device"] + word.get("--dtype", ""), word["--output"])
"""


def writes(value, then=""):
    """A benchmark that leaves this JSON in the file behind --json."""
    return f"#!/usr/bin/env python3\nimport json, os, sys\nfile = sys.argv[sys.argv.index('--json') + 1]\njson.dump({value!r}, open(file, 'w'))\n{then}\n"


def ended(pid):
    """Is the process gone, or waiting for somebody to take note?"""
    for _ in range(50):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
                if file.read().split(") ")[-1][0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.1)
    return False


class GpuCheckTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(lambda: subprocess.run(["rm", "-rf", self.folder], check=True))
        self.out, self.path = os.path.join(self.folder, "out"), os.environ["PATH"]
        self.program("env.sh", "export FROM_BUNDLE=yes\n")
        self.program("bin/tests_kernels_gpu", GTEST.format(tests={"A.One": "ok", "A.Two/int8": "skip"}))
        self.program("bin/tests_ops_gpu", GTEST.format(tests={"B.One": "ok"}))
        self.program("bin/kernels_bench", writes(KERNELS))
        self.program("bin/gpu_model_bench", writes(ROWS))

    def program(self, name, text):
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, 0o755)

    def check(self, *words, **env):
        """-> exit code; what the files say is in self.results (step -> record), self.table, self.aims."""
        done = subprocess.run([sys.executable, SCRIPT, "--bundle", self.folder, "--out", self.out, *words], capture_output=True, text=True, check=False,
                              env={**os.environ, "PATH": self.path, **env})
        self.said = done.stdout + done.stderr
        with open(os.path.join(self.out, "gpu-check.json"), encoding="utf-8") as file:
            data = json.load(file)
        self.results, self.aims = {r["step"]: r for r in data["steps"]}, {r["what"]: r for r in data["aims"]}
        self.words = {name: r["result"] for name, r in self.results.items()}
        with open(os.path.join(self.out, "gpu-check.md"), encoding="utf-8") as file:
            self.table = file.read()
        return done.returncode

    def log(self, step):
        with open(os.path.join(self.out, step + ".log"), encoding="utf-8") as file:
            return file.read()

    def test_all_well(self):
        self.assertEqual(self.check("--quick"), 0)
        self.assertEqual(self.words, {"kernels": "ok", "operators": "ok", "parity": "skipped: no model in the bundle (scripts/bundle --model)", "kernels_bench": "ok",
                                      "decode": "ok", "prefill_train": "ok"})
        self.assertIn("| decode bf16 | batch 1 depth 0 | 90.25 tok/s | 89.7 % |", self.table)
        self.assertIn("| memory | all | 46.00 GB | |", self.table)
        self.assertIn("1 passed; 1 skipped", self.table)
        self.assertTrue(self.log("kernels").startswith("yes small=1\n"), self.log("kernels"))
        self.assertIn("kernels: ok", self.said)

    def test_a_bundle_in_one_file(self):
        archive = os.path.join(self.folder, "bundle.tar.xz")
        with tarfile.open(archive, "w:xz") as tar:
            for name in ("env.sh", "bin"):
                tar.add(os.path.join(self.folder, name), arcname="bundle/" + name)
        self.assertEqual(self.check("--quick", "--bundle", archive), 0)
        self.assertEqual((self.words["kernels"], self.words["decode"]), ("ok", "ok"))

    def test_failed_tests_are_named_and_tried_alone_and_stop_nothing(self):
        self.program("bin/tests_kernels_gpu", GTEST.format(tests={"A.One": "ok", "A.Two/int8": "fail", "A.Three": "spoilt"}))
        self.assertEqual(self.check("--quick"), 1)
        self.assertEqual((self.words["kernels"], self.words["operators"], self.words["decode"]), ("failed", "ok", "ok"))
        self.assertEqual(self.results["kernels"]["tests"]["failed"], ["A.Two/int8", "A.Three"])
        self.assertIn("1 passed; 2 failed: A.Two/int8, A.Three; alone: A.Two/int8 fails, A.Three passes", self.table)

    def test_behind_a_test_that_ends_its_program_the_others_run(self):
        self.program("bin/tests_ops_gpu", GTEST.format(tests={"B.One": "ok", "B.Two": "die", "B.Three": "ok"}))
        self.assertEqual(self.check("--only", "operators"), 1)
        self.assertEqual(self.results["operators"]["tests"], {"passed": 2, "failed": [], "skipped": 0, "ended_in": ["B.Two"], "timed_out_in": [], "not_run": []})

    def test_a_test_that_hangs_costs_its_part(self):
        self.program("bin/tests_kernels_gpu", GTEST.format(tests={f"A.N{i}": "hang" if i == 0 else "ok" for i in range(6)}))
        program, log = os.path.join(self.folder, "bin/tests_kernels_gpu"), os.path.join(self.folder, "log")
        out, codes = gtest.run([program], [], 6, dict(os.environ), log, parts=3)
        self.assertEqual((gtest.verdict(out, codes), out["passed"], out["timed_out_in"], out["not_run"]), ("timed out", 4, ["A.N0"], ["A.N3"]))
        self.assertEqual(gtest.text(out), "4 passed; 1 under way at the limit: A.N0; 1 not run: A.N3")

    def test_nothing_that_ran_is_no_success(self):
        self.program("bin/tests_ops_gpu", GTEST.format(tests={"B.One": "skip"}))
        self.assertEqual((self.check("--only", "operators"), self.words["operators"]), (1, "no test ran"))
        self.program("bin/tests_ops_gpu", GTEST.format(tests={"B.One": "skip", "B.Two": "ok"}))
        self.assertEqual((self.check("--only", "operators", WITHOUT="1"), self.words["operators"]), (1, "no GPU"))

    def test_compute_sanitizer(self):
        self.program("tools/compute-sanitizer", SANITIZER)
        self.path = os.path.join(self.folder, "tools") + ":" + self.path
        self.program("bin/tests_kernels_gpu", GTEST.format(tests={f"A.N{i}": "ok" for i in range(9)}))
        self.assertEqual(self.check("--only", "racecheck,memcheck", RACES="0"), 0)
        self.assertEqual(self.results["racecheck"]["about"], "9 passed; 0 errors")
        self.assertEqual(self.log("racecheck").count("RACECHECK SUMMARY"), 4)
        self.assertEqual(self.check("--only", "racecheck,memcheck", RACES="3"), 1)
        self.assertEqual((self.results["racecheck"]["about"], self.words["memcheck"]), ("9 passed; 12 errors", "ok"))

    def test_budget_and_order(self):
        child = os.path.join(self.folder, "child")
        self.program("bin/kernels_bench", f"#!/bin/bash\nsleep 60 &\necho $! > {child}\nwait\n")
        self.assertEqual(self.check("--only", "operators,kernels_bench,decode,kernels", "--budget", "13"), 0)
        self.assertEqual(list(self.words.items()), [("operators", "ok"), ("kernels_bench", "timed out"), ("decode", "not run (time)"), ("kernels", "not run (time)")])
        self.assertLess(self.results["kernels_bench"]["seconds"], 12)
        with open(child, encoding="utf-8") as file:
            self.assertTrue(ended(int(file.read())))  # what it started, too
        self.assertIn("| decode | not run (time) |", self.table)
        first, self.out = self.out, os.path.join(self.folder, "second")
        self.program("bin/kernels_bench", writes(KERNELS))
        self.assertEqual(self.check("--only", "kernels,operators,kernels_bench", "--after", first), 0)
        self.assertEqual(list(self.words.items()), [("kernels", "ok"), ("kernels_bench", "ok")])

    def test_what_is_killed_leaves_what_was_done(self):
        archive = os.path.join(self.folder, "all.tar.gz")
        self.program("bin/kernels_bench", writes(KERNELS, "os.kill(os.getppid(), 9)"))
        self.assertEqual(self.check("--quick", "--archive", archive), -9)
        self.assertEqual((self.words["kernels"], self.words["operators"], self.words["kernels_bench"], self.words["decode"]), ("ok", "ok", "cut off", "not run (time)"))
        with tarfile.open(archive) as tar:
            self.assertIn("gpu-check/operators.log", tar.getnames())
            self.assertIn("cut off", tar.extractfile("gpu-check/gpu-check.md").read().decode())

    def test_ended_from_outside_it_writes_too(self):
        self.program("bin/kernels_bench", writes(KERNELS, "import time\nos.kill(os.getppid(), 15)\ntime.sleep(60)"))
        self.assertEqual(self.check("--quick"), 143)
        self.assertEqual(self.words["kernels_bench"], "cut off")
        self.assertAlmostEqual(self.aims["rope, of the copy's rate"]["value"], 0.5)

    def test_a_failed_benchmark_is_shown(self):
        self.program("bin/gpu_model_bench", "#!/bin/bash\necho no memory\nexit 1\n")
        self.assertEqual((self.check("--quick"), self.words["decode"], self.results["decode"]["about"]), (0, "exit 1", "no memory"))

    def test_benches_behind_a_kernel_that_spoils_the_device_run(self):
        first = {**KERNELS, "failed": [{"bench": "gelu", "error": "illegal address"}], "left_out": ["rms_norm_forward", "swiglu"], "results": []}
        self.program("bin/kernels_bench", writes(first, f"if '--filter' in sys.argv:\n    assert sys.argv[-1] == '^(rms_norm_forward|swiglu)$'\n"
                                                       f"    json.dump({KERNELS!r}, open(file, 'w'))\n    sys.exit(0)\nsys.exit(1)"))
        self.assertEqual(self.check("--only", "kernels_bench"), 0)
        self.assertEqual(self.results["kernels_bench"]["about"], "2 figures; gelu failed: illegal address")
        self.assertAlmostEqual(self.aims["rope, of the copy's rate"]["value"], 0.5)

    def parity(self, device, head=48, coupled=True, bf16=None):
        lines = [{"id": "a", "text": "x", "tokens": [1, 2, 3]}, {"id": "b", "text": "y", "tokens": [4, 5]}]
        self.program("bin/euromodal", EUROMODAL)
        for name, tokens in (("cpu", None), ("cuda", device), ("cpubfloat16", None), ("cudabfloat16", bf16)):
            changed = lines if tokens is None else [lines[0], {**lines[1], "tokens": tokens}]
            self.program(f"parity/0-demo/model/answers-{name}", "".join(json.dumps(line) + "\n" for line in changed))
        self.program("parity/0-demo/model/config.json", json.dumps({"head_dim": head}))
        if coupled:
            self.program("parity/0-demo/model/multimodal.yaml", "")
            os.makedirs(os.path.join(self.folder, "parity/0-demo/records"), exist_ok=True)
        else:
            subprocess.run(["rm", "-rf", "parity/0-demo/model/multimodal.yaml", "parity/0-demo/records"], cwd=self.folder, check=True)
            self.program("parity/0-demo/records.jsonl", "")
        return self.check("--only", "parity")

    def test_answers_of_two_devices(self):
        self.assertEqual(self.parity([4, 5]), 0)
        self.assertEqual(self.results["parity"]["about"], "0-demo, as the files: 2 of 2 answers equal (5 tokens)")
        self.assertTrue(self.aims["greedy answers equal on CPU and GPU"]["reached"])
        self.assertEqual(self.parity([4, 6]), 1)
        self.assertIn("1 of 2 answers equal (5 tokens); the first that differs: b, at token 1: [5] and [6]", self.table)
        self.assertFalse(self.aims["greedy answers equal on CPU and GPU"]["reached"])
        self.assertEqual(self.parity([4]), 1)  # one token fewer
        self.assertEqual(self.parity([4, 5], head=128, bf16=[9]), 0)
        self.assertEqual(self.results["parity"]["about"].count("0-demo"), 1)  # features are of one dtype
        self.assertEqual(self.parity([4, 5], head=128, coupled=False, bf16=[9]), 0)  # only shown
        self.assertIn("0-demo, bfloat16: 1 of 2 answers equal", self.table)
        self.program("bin/euromodal", "#!/bin/bash\necho no such device >&2\nexit 1\n")
        self.assertEqual((self.check("--only", "parity"), self.results["parity"]["about"].count("no such device")), (1, 2))  # two dtypes

    def test_peers_run_where_python_has_what_they_need(self):
        for name in ("decode_peers", "train_peers"):
            self.program(f"peers/{name}.py", writes({"layers": 54, "compiled": 80.0}, "sys.exit('--only' not in sys.argv or 'FROM_BUNDLE' in os.environ)"))
        if importlib.util.find_spec("torch") is None:
            self.program("site/torch/__init__.py", "")
        self.check("--only", "decode_peers,train_peers", PYTHONPATH=os.path.join(self.folder, "site"))
        if importlib.util.find_spec("transformers") is None:
            self.assertEqual(self.words, {"decode_peers": "ok", "train_peers": "skipped: python3 has no transformers"})

    def test_aims_over_recorded_figures(self):
        done = subprocess.run([sys.executable, SCRIPT, "--report", os.path.join(TOP, "experiments/runs/gpu")], capture_output=True, text=True, check=True)
        for line in ("| decode bf16, batch 1, of 4.3 TB/s | at least 85.0 % | 91.8 % | reached | 90.3 tok/s |",
                     "| decode bf16, batch 16 over batch 1 | at least 12.00 x | 8.75 x | missed | 790 tok/s |",
                     "| prefill of 4096 tokens, of the matrix rate | at least 60.0 % | 70.9 % | reached | 12482 tok/s |",
                     "| rope, of the copy's rate | at least 85.0 % | not measured |  |  |",
                     "| decode attention, depth 32768, bf16, of the memory's rate | at least 80.0 % | 52.2 % | missed | 55.3 us |"):
            self.assertIn(line, done.stdout)

    def test_aims_of_kernels(self):
        self.check("--only", "kernels_bench")
        self.assertEqual(self.aims["rope, of the copy's rate"]["shown"], "50.0 %")
        self.assertAlmostEqual(self.aims["fused cross entropy, 8192 rows of 128000, time over that of its products"]["value"], 1.25)
        self.assertTrue(self.aims["fused cross entropy, 8192 rows of 128000, time over that of its products"]["reached"])
        self.assertIsNone(self.aims["decode bf16, batch 1"]["reached"])

    def test_list_and_wrong_words(self):
        done = subprocess.run([sys.executable, SCRIPT, "--list", "--skip", "kernels"], capture_output=True, text=True, check=True)
        self.assertEqual(done.stdout.split()[0], "operators")
        done = subprocess.run([sys.executable, SCRIPT, "--only", "kernel"], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("there is no step kernel; the steps are kernels", done.stderr)

    def test_the_bundles_environment(self):
        self.program("env.sh", runpy.run_path(os.path.join(os.path.dirname(SCRIPT), "bundle"))["ENV"])
        self.program("torch/lib/libtorch_cuda.so", "")   # no folders of CUDA's libraries beside it
        self.assertEqual(self.check("--only", "operators", LIBTORCH_ROOT=os.path.join(self.folder, "torch")), 0)
        done = subprocess.run([sys.executable, SCRIPT, "--bundle", self.folder, "--out", self.out + "2"], capture_output=True, text=True, check=False,
                              env={**os.environ, "LIBTORCH_ROOT": "/nowhere"})
        self.assertEqual((done.returncode, done.stdout, os.path.exists(self.out + "2")), (1, "", False))
        self.assertIn("no LibTorch for CUDA in '/nowhere'", done.stderr)
        self.assertNotIn("Traceback", done.stderr)

    def test_without_a_bundle(self):
        done = subprocess.run([sys.executable, SCRIPT, "--bundle", "/nowhere"], capture_output=True, text=True, check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("scripts/bundle", done.stderr)


if __name__ == "__main__":
    unittest.main()
