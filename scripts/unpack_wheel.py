"""Unpacks a wheel's shared libraries and C++ headers (no Python code) into a folder: unpack_wheel.py WHEEL DIR."""
import os
import sys
import zipfile

KEEP = (".so", ".h", ".hpp", ".cuh", ".inc")
SKIP = ("torch/lib/libtorch_python.so", "torch/bin/", "torch/test/")


def wanted(name: str) -> bool:
    base = os.path.basename(name)
    if any(name.startswith(s) for s in SKIP):
        return False
    if not (name.startswith("torch/lib/") or name.startswith("torch/include/") or name.startswith("nvidia/") or name == "torch/version.py"):
        return False
    return base.endswith(KEEP) or ".so." in base or base == "version.py"


def main() -> int:
    wheel, out = sys.argv[1], sys.argv[2]
    with zipfile.ZipFile(wheel) as z:
        members = [m for m in z.infolist() if not m.is_dir() and wanted(m.filename)]
        total = sum(m.file_size for m in members) or 1
        done, shown = 0, -1
        for m in members:
            z.extract(m, out)
            done += m.file_size
            percent = 100 * done // total
            if percent // 10 != shown:
                shown = percent // 10
                print(f"  {percent:3d} % of {total / 1e6:.0f} MB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
