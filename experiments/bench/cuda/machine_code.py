#!/usr/bin/env python3
"""What nvcc made of the kernels in an object file: machine_code.py OBJECT... [--filter REGEX].

One line a kernel: instructions of all of it and of its hottest loop (the smallest that has tensor core products, else the smallest that
loads), loads and stores of spilled registers there, and how often the loop issues what is slow or tells most: logic, shifts, products,
conversions through the pipe of special functions. Needs cuobjdump and nvdisasm (CUDA toolkit, or the packages nvidia-cuda-cuobjdump and
nvidia-cuda-nvdisasm) and no GPU. An object: nvcc -std=c++20 -O3 -gencode=arch=compute_90a,code=sm_90a --expt-relaxed-constexpr -I. -c X.cu
"""
import argparse
import collections
import re
import subprocess
import sys

SHOWN = ("LOP3", "SHF", "IMAD", "HMMA", "HFMA2", "HMUL2", "FFMA", "LDG", "LDS", "F2F", "MUFU", "I2F")
LINE = re.compile(r"\s+/\*([0-9a-f]+)\*/\s+(.*?);")


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def kernels(path):
    """(name, [(address, instruction)]) of each kernel."""
    for part in re.split(r"\n\s*Function : ", run("cuobjdump", "-sass", path))[1:]:
        name, _, body = part.partition("\n")
        code = [(int(m[1], 16), m[2]) for m in map(LINE.match, body.splitlines()) if m]
        yield re.sub(r"euromodal::|\(anonymous namespace\)::|^void ", "", run("c++filt", name.strip()).strip()), code


def signature(name):
    """Without its parameters; template arguments may have parentheses of their own."""
    return name[:name.rindex(">(") + 1] if ">(" in name else name.partition("(")[0]


def opcode(text):
    return re.sub(r"^@!?U?P\w+\s+", "", text).split()[0].split(".")[0]


def hottest_loop(code):
    """The smallest loop with tensor core products, else with loads; all of the code where there is none."""
    loops = []
    for address, text in code:
        target = re.search(r"\bBRA\b.*?0x([0-9a-f]+)", text)
        if target and int(target[1], 16) < address:
            loops.append([t for a, t in code if int(target[1], 16) <= a <= address])
    for wanted in ("HMMA", "LDG"):
        having = [loop for loop in loops if any(opcode(t) == wanted for t in loop)]
        if having:
            return min(having, key=len)
    return [t for _, t in code]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("objects", nargs="+")
    parser.add_argument("--filter", default="", help="kernels whose name matches")
    args = parser.parse_args()
    try:
        for path in args.objects:
            for name, code in kernels(path):
                if not re.search(args.filter, name):
                    continue
                loop = collections.Counter(map(opcode, hottest_loop(code)))
                spills = loop["LDL"] + loop["STL"]
                print(f"{signature(name)}: {len(code)} instructions, loop {sum(loop.values())}, spills there {spills};",
                      " ".join(f"{op} {loop[op]}" for op in SHOWN if loop[op]))
    except FileNotFoundError as error:
        sys.exit(f"machine_code: {error.filename} is not there; CUDA's toolkit has it, and so have the packages nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm")
    except subprocess.CalledProcessError as error:
        sys.exit(f"machine_code: {' '.join(error.cmd)}: {error.stderr.strip()}")


if __name__ == "__main__":
    main()
