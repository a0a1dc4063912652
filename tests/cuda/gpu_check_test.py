"""scripts/gpu-check over a bundle of stand-ins: a failed step stops no other, a failed test is the exit code, a failed benchmark is not."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

SCRIPT = sys.argv.pop()
ROWS = [{"what": "decode bf16", "setting": "batch 1", "value": 90.25, "unit": "tok/s", "share": 0.897}, {"what": "memory", "setting": "all", "value": 46.0, "unit": "GB", "share": 0.0}]


class GpuCheckTest(unittest.TestCase):
    def check(self, **codes):
        """Runs the script; `codes`: exit codes of the programs that fail."""
        with tempfile.TemporaryDirectory() as folder:
            os.mkdir(os.path.join(folder, "bin"))
            with open(os.path.join(folder, "env.sh"), "w", encoding="utf-8") as env:
                env.write("export FROM_BUNDLE=yes\n")
            for name in ("tests_kernels_gpu", "tests_ops_gpu", "kernels_bench", "gpu_model_bench"):
                path = os.path.join(folder, "bin", name)
                with open(path, "w", encoding="utf-8") as program:
                    program.write("#!/bin/bash\necho $FROM_BUNDLE small=$EUROMODAL_SMALL_TESTS\n")
                    if name == "gpu_model_bench":
                        program.write(f"echo '{json.dumps(ROWS)}' > \"${{@: -1}}\"\n")
                    program.write(f"exit {codes.get(name, 0)}\n")
                os.chmod(path, 0o755)
            out = os.path.join(folder, "out")
            done = subprocess.run([sys.executable, SCRIPT, "--quick", "--bundle", folder, "--out", out], capture_output=True, text=True, check=False)
            with open(os.path.join(out, "gpu-check.json"), encoding="utf-8") as file:
                results = {row["step"]: row["exit"] for row in json.load(file)}
            with open(os.path.join(out, "gpu-check.md"), encoding="utf-8") as file:
                table = file.read()
            with open(os.path.join(out, "kernels.log"), encoding="utf-8") as file:
                log = file.read()
            return done.returncode, results, table, log

    def test_all_well(self):
        code, results, table, log = self.check()
        self.assertEqual(code, 0)
        self.assertEqual(results, {"kernels": 0, "operators": 0, "kernels_bench": 0, "gpu_model_bench": 0})
        self.assertIn("| decode bf16 | batch 1 | 90.25 tok/s | 89.7 % |", table)
        self.assertIn("| memory | all | 46.00 GB | |", table)
        self.assertEqual(log, "yes small=1\n")

    def test_a_failed_test_is_the_exit_code_and_stops_nothing(self):
        code, results, table, _ = self.check(tests_kernels_gpu=3)
        self.assertEqual(code, 1)
        self.assertEqual(results, {"kernels": 3, "operators": 0, "kernels_bench": 0, "gpu_model_bench": 0})
        self.assertIn("| kernels | exit 3 |", table)

    def test_a_failed_benchmark_is_shown(self):
        code, results, _, _ = self.check(kernels_bench=1)
        self.assertEqual((code, results["kernels_bench"]), (0, 1))

    def test_without_a_bundle(self):
        done = subprocess.run([sys.executable, SCRIPT, "--bundle", "/nowhere"], capture_output=True, text=True, check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("scripts/bundle", done.stderr)


if __name__ == "__main__":
    unittest.main()
