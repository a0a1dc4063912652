#!/usr/bin/env bash
# The CUDA library's link is complete and it reports a missing device: library_loads_test.sh PROGRAM SCRATCH. Needs a host without GPU.
set -euo pipefail
program=$1 scratch=$2
if ldconfig -p | grep -q 'libcuda\.so\.1'; then echo "skipped: this host has an NVIDIA driver; tests_ops_gpu loads the library there"; exit 77; fi
mkdir -p "$scratch"
for name in libcufile.so.0 libcusparseLt.so.0; do echo | gcc -shared -x c - -Wl,-soname,$name -o "$scratch/$name"; done
echo 'NVSHMEM { };' > "$scratch/nvshmem.map"
echo | gcc -shared -x c - -Wl,-soname,libnvshmem_host.so.3 -Wl,--version-script="$scratch/nvshmem.map" -o "$scratch/libnvshmem_host.so.3"
out=$(EUROMODAL_CUDA_SKIP_DRIVER_CHECK=1 LD_LIBRARY_PATH="$scratch${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" "$program" generate --model . --tokens 1 --device cuda 2>&1) && { echo "it ran without a GPU?"; exit 1; }
echo "$out"
grep -q 'see no device' <<< "$out"
