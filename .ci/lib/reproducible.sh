# Environment of .ci/release, which sources this at the root of the repository: what is built depends on the
# commit alone, not on when and in which folders.

SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH TZ=UTC LC_ALL=C
umask 022

# Sources appear in messages of panics. Cargo separates the flags of this variable by an ASCII 31, so that
# folders may contain spaces.
remap() {
  local flags=() folder
  for folder in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*; do
    flags+=("--remap-path-prefix=$folder=/dependencies")
  done
  flags+=("--remap-path-prefix=$(rustc --print sysroot)/lib/rustlib/src/rust=/rust")
  # The last that matches counts.
  flags+=("--remap-path-prefix=$PWD=/owl2" "--remap-path-prefix=$(realpath -m "${CARGO_TARGET_DIR:-target}")=/target")
  (IFS=$'\x1f'; printf '%s' "${flags[*]}")
}

cargo fetch --locked --quiet
CARGO_ENCODED_RUSTFLAGS=$(remap)
export CARGO_ENCODED_RUSTFLAGS CARGO_INCREMENTAL=0
