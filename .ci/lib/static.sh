# Functions of .ci/static and .ci/release, which source this at the root of the repository: both programs as
# static binaries, linked by Rust's own linker with no C compiler for the target.

targets=${CARGO_TARGET_DIR:-target}
host=$(rustc -vV | sed -n 's/^host: //p')
sysroot=$(rustc --print sysroot)

# Rust's own tool knows every target, unlike that of the system. It does not find its library by itself in every
# release of Rust.
objcopy() {
  LD_LIBRARY_PATH=$sysroot/lib "$sysroot/lib/rustlib/$host/bin/rust-objcopy" "$@"
}

# build TARGET
build() {
  local target=$1 name
  name=$(tr a-z- A-Z_ <<<"$target")
  rustup target list --installed | grep -qx "$target" || rustup target add "$target"
  env "CC_${target//-/_}=false" "CXX_${target//-/_}=false" "CARGO_TARGET_${name}_LINKER=rust-lld" \
    cargo build --release --locked --workspace --bins --target "$target"
}

# ask FOLDER [RUNNER...]: asks the program of a folder a question, through whatever runs it.
ask() {
  local binaries=$1 answer
  shift
  answer=$("$@" "$binaries/owl2" --image assets/cat.png -p "Describe the image.")
  [ "$answer" = "A cat on a blue background." ] || { echo "answered: $answer" >&2; return 1; }
  "$@" "$binaries/owl2-convert" --version
}

# runner PROCESSOR: sets `runner` to what runs a program of a processor: nothing, or an emulator.
runner() {
  runner=(env)
  [ "$1" = "$(uname -m)" ] || runner=("qemu-$1")
}

# strip_into FROM TO: the programs of a folder without their symbols.
strip_into() {
  local name
  mkdir -p "$2"
  for name in owl2 owl2-convert; do
    objcopy --strip-all "$1/$name" "$2/$name"
  done
}
