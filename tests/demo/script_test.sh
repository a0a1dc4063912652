#!/usr/bin/env bash
# scripts/demo on wrong use: one line that names the fault, exit 2, nothing touched. $1: the checkout, $2: a folder for this test.
set -uo pipefail
demo=$1/scripts/demo work=$2 bad=0
rm -rf "$work"
mkdir -p "$work/mine"
echo precious > "$work/mine/thesis.txt"
expect() {   # exit code, words on stderr, arguments...
  local code=$1 words=$2 said got
  shift 2
  said=$("$demo" "$@" 2>&1 >/dev/null); got=$?
  [ "$got" = "$code" ] || { echo "demo $*: exit $got, expected $code"; bad=1; }
  [[ "$said" == *"$words"* ]] || { echo "demo $*: said '$said', expected '$words'"; bad=1; }
  [ "$(echo "$said" | wc -l)" -le 2 ] || { echo "demo $*: more than two lines"; bad=1; }
}
expect 2 "unknown argument --nope" --nope
expect 2 "--output needs a folder" --output
expect 2 "without spaces" --output "$work/with space"
expect 2 "was not made by scripts/demo" --output "$work/mine" --fresh --no-build
expect 0 "" --help
[ "$(cat "$work/mine/thesis.txt")" = precious ] || { echo "demo removed a folder that it had not made"; bad=1; }
[ ! -e "$work/with space" ] || { echo "demo made a folder on wrong use"; bad=1; }
exit $bad
