#!/usr/bin/env bash
# Instructions that the kernels execute on ARM, counted under emulation, which is exact and
# repeatable: for a multiply-accumulate of matrix products (a prompt of 512 and a picture, quantizing
# the batch included), and for a byte of weights of generation.
#
#   benches/aarch64/count.sh [PROGRAM [ARGUMENT...]]
#
# PROGRAM is the example `one_product` unless another one is named that takes the same arguments, such
# as one that does the same with another library. What is shown is the difference between three times
# the work and once, halved, so start-up does not count.
#
# Needs qemu-user, a cross compiler for linking (Debian: gcc-aarch64-linux-gnu and libc6-dev-arm64-cross),
# and a C compiler for the plugin.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."

target=aarch64-unknown-linux-gnu
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export QEMU_LD_PREFIX=${QEMU_LD_PREFIX:-/usr/aarch64-linux-gnu}
program=("$@")
if [ $# = 0 ]; then
  cargo build --release --example one_product --target "$target"
  program=("${CARGO_TARGET_DIR:-target}/$target/release/examples/one_product")
fi
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
cc -O2 -shared -fPIC -o "$work/count.so" "$here/count.c"

# count CPU TIMES KIND FORMAT ROWS COLUMNS TOKENS
count() {
  local cpu=$1 times=$2
  shift 2
  RAYON_NUM_THREADS=1 qemu-aarch64 -cpu "$cpu" -plugin "$work/count.so,out=$work/n" \
    "${program[0]}" "$@" "$times" "${program[@]:1}" >/dev/null 2>&1
  cat "$work/n"
}

# per CPU AMOUNT KIND FORMAT ROWS COLUMNS TOKENS: instructions over an amount of work
per() {
  local cpu=$1 amount=$2 once thrice
  shift 2
  once=$(count "$cpu" 1 "$@")
  thrice=$(count "$cpu" 3 "$@")
  awk -v n=$((thrice - once)) -v amount="$amount" 'BEGIN { printf "%10.4f", n / 2 / amount }'
}

rows=4096 columns=4096 vit_rows=1024 vit_columns=1024 vit_tokens=1025 heads=2 head_dim=64
declare -A bytes=([q4_0]=$((rows * columns / 32 * 18)) [q4_k]=$((rows * columns / 256 * 144))
  [q6_k]=$((rows * columns / 256 * 210)) [q8_0]=$((rows * columns / 32 * 34))
  [h4]=$((rows * columns / 128 * 66)) [h8]=$((rows * columns / 128 * 130)))
for cpu in cortex-a72 cortex-a76 max; do
  echo "as $cpu           prompt per MAC, generation per byte"
  for format in h4 q4_0 q4_k q6_k h8 q8_0; do
    printf '%-22s %s %s\n' "$format" \
      "$(per $cpu $((512 * rows * columns)) product $format $rows $columns 512)" \
      "$(per $cpu "${bytes[$format]}" product $format $rows $columns 1)"
  done
  printf '%-22s %s\n' "picture, q8_0" \
    "$(per $cpu $((vit_rows * vit_columns * vit_tokens)) product q8_0 $vit_rows $vit_columns $vit_tokens)"
  # Scores and weighted values.
  printf '%-22s %s\n' "picture, attention" \
    "$(per $cpu $((2 * heads * head_dim * vit_tokens * vit_tokens)) attention f16 $heads $head_dim $vit_tokens)"
done
