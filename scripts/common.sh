# shellcheck shell=bash
# What the scripts share; each sources it after `set -euo pipefail`.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root" || exit
command -v cargo >/dev/null || PATH=$PATH:$HOME/.cargo/bin
# Names this script in what it says.
me=$(basename "$0")

say() { printf '%s: %s\n' "$me" "$*"; }
die() { say "$*" >&2; exit 1; }

command -v cargo >/dev/null || die 'cargo is missing: install Rust, https://rustup.rs'
target=${CARGO_TARGET_DIR:-$root/target}
[[ $target == /* ]] || target=$root/$target

# Runs a command as a process group of its own that ends with this script: a shell that is told to end would otherwise
# leave its children running.
guarded() {
    local group status=0
    set -m
    "$@" </dev/null &
    group=$!
    set +m
    trap 'end_group "$group" INT; exit 130' INT
    trap 'end_group "$group" TERM; exit 143' TERM
    trap 'end_group "$group" TERM; exit 129' HUP
    wait "$group" || status=$?
    trap - INT TERM HUP
    return "$status"
}

end_group() {
    local tries
    kill -s "$2" -- "-$1" 2>/dev/null || true
    wait "$1" || true
    # The leader's children may take a moment more.
    for ((tries = 0; tries < 40; tries++)); do
        kill -0 -- "-$1" 2>/dev/null || break
        sleep 0.05
    done
}

# Becomes a program of the release build, as root; what the harness reads from the environment goes along.
exec_as_root() {
    local program=$target/release/$1
    shift
    if [[ $(id -u) -eq 0 ]]; then
        exec "$program" "$@"
    fi
    command -v sudo >/dev/null || die 'network namespaces and TAPs need root: run this as root, or install sudo'
    say 'network namespaces and TAPs need root: going on with sudo'
    local name kept=()
    for name in GUEST_CACHE GUEST_ACCEL VNICD; do
        [[ -z ${!name:-} ]] || kept+=("$name=${!name}")
    done
    exec sudo env "${kept[@]}" "$program" "$@"
}
