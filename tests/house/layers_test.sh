#!/usr/bin/env bash
# A wrong edge between folders must stop the configure step, a right one must not: layers_test.sh SOURCE SCRATCH.
set -euo pipefail
source=$1 scratch=$2
rm -rf "$scratch"
mkdir -p "$scratch"/{cmake,low,high/sub}
cp "$source"/cmake/Layers.cmake "$source"/cmake/empty.cpp "$scratch/cmake/"
cat > "$scratch/CMakeLists.txt" <<'CM'
cmake_minimum_required(VERSION 3.25)
project(layers LANGUAGES CXX)
add_library(fmt::fmt INTERFACE IMPORTED)
include(cmake/Layers.cmake)
set_property(GLOBAL PROPERTY EM_FOLDERS low high/sub high)
euromodal_layer(NAME low)
euromodal_layer(NAME high/sub USES low)
euromodal_layer(NAME high USES high/sub)
CM
echo '// low' > "$scratch/low/a.h"
printf '#include "low/a.h"\n' > "$scratch/high/sub/b.cpp"
printf '#include "low/a.h"\n#include "high/sub/b.h"\n' > "$scratch/high/c.cpp"
cmake -S "$scratch" -B "$scratch/build" > "$scratch/log" 2>&1 || { echo "right edges were refused:"; cat "$scratch/log"; exit 1; }

printf '#include "high/c.h"\n' > "$scratch/low/a.h"
if cmake -S "$scratch" -B "$scratch/build" > "$scratch/log" 2>&1; then echo "low may include high"; exit 1; fi
grep -q 'low/a.h (layer low) may not include' "$scratch/log" || { echo "the error names no file:"; cat "$scratch/log"; exit 1; }
echo '// low' > "$scratch/low/a.h"

printf '#include "high/c.h"\n' > "$scratch/high/sub/b.cpp"
if cmake -S "$scratch" -B "$scratch/build" > "$scratch/log" 2>&1; then echo "high/sub may include high"; exit 1; fi

sed -i 's/^euromodal_layer(NAME low)/euromodal_layer(NAME low USES high)/' "$scratch/CMakeLists.txt"
if cmake -S "$scratch" -B "$scratch/build" > "$scratch/log" 2>&1; then echo "a layer may use one below it"; exit 1; fi
echo "layers hold"
