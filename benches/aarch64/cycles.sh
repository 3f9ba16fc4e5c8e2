#!/usr/bin/env bash
# Cycles that a static model of the processor gives the inner loops of the matrix products on ARM,
# beside those that their multiplications alone would take: each loop as if it went on for ever, all
# loads hitting the first-level cache.
#
# Needs a cross compiler for linking (Debian: gcc-aarch64-linux-gnu and libc6-dev-arm64-cross) and LLVM 22
# (its directory in LLVM, or in the PATH). LLVM has no model of the Cortex-A76 itself; the Neoverse N1 is the same core for servers. Apple's are modelled as
# their ancestor Cyclone, which had three vector units instead of four.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

target=aarch64-unknown-linux-gnu
tools=${LLVM:+$LLVM/}
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
cargo build --release --example one_product --target "$target"
program=${CARGO_TARGET_DIR:-target}/$target/release/examples/one_product
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT

# loops NAME N: writes each innermost loop, up to its branch back, that has N instructions NAME
loops() {
  "${tools}llvm-objdump" -d --no-show-raw-insn --mattr=+all "$program" | awk -v name="$1" -v n="$2" -v out="$work" '
    /^ *[0-9a-f]+:/ {
      address = $1; sub(":", "", address); at[address] = ++lines
      text = $0; sub(/^ *[0-9a-f]+:[ \t]*/, "", text); sub(/ <.*/, "", text); line[lines] = text
      if (text ~ /^(b\.|cbn?z|tbn?z)/ && match(text, /0x[0-9a-f]+$/)) {
        start = at[substr(text, RSTART + 2)]
        if (start) {
          back[lines] = start
          found = 0
          for (i = start; i < lines; i++) {
            if (line[i] ~ "^" name) found++
            if (back[i] >= start) found = -n
          }
          if (found == n) {
            file = out "/" name "." ++files
            for (i = start; i < lines; i++) print line[i] > file
            close(file)
          }
        }
      }
    }'
}

# cycles MODEL DISPATCH FILE: of one round
cycles() {
  "${tools}llvm-mca" -mtriple=aarch64 -mcpu="$1" -mattr=+all -dispatch="$2" -iterations=200 \
    -instruction-info=false -resource-pressure=false "$3" | awk '/^Total Cycles/ { print $3 / 200 }'
}

# A round is 128 columns of 6 rows and 8 tokens: 48 blocks of 32 by 4 outputs, of 8 sdot or 4 smmla
# each. `units` are the multiplications that the model starts in a cycle. Formats differ in how they
# are unpacked, not here; attention's scores come of the same loop.
printf '%-8s %-14s %13s %8s %18s %6s\n' loop model instructions cycles "per 32 x 4" share
measure() {
  local name=$1 n=$2 cpu=$3 units=$4 file took
  loops "$name" "$n"
  for file in "$work/$name".*; do
    took=$(cycles "$cpu" 8 "$file")
    awk -v name="$name" -v cpu="$cpu" -v n="$n" -v took="$took" -v units="$units" -v lines="$(wc -l <"$file")" \
      'BEGIN { printf "%-8s %-14s %13d %8.1f %18.2f %5.0f%%\n", name, cpu, lines + 1, took, took / 48, 100 * n / units / took }'
  done | sort -u
}
measure sdot 384 neoverse-n1 2
measure sdot 384 apple-m1 3
measure smmla 192 neoverse-n2 2
measure smmla 192 apple-m2 3
