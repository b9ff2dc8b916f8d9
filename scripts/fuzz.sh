#!/usr/bin/env bash
# Fuzzes the page streams: scripts/fuzz.sh [EXECUTIONS [TARGET...]]; 1000000 of every target if nothing else is said.
# FUZZ_SECONDS_MAX bounds each target. Without sanitizers, so that a stable compiler will do; a panic, an overflow, a
# broken promise, too much memory or time is a finding, kept in crates/pages/fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/../crates/pages/fuzz"

missing=()
cargo fuzz --version > /dev/null 2>&1 || missing+=("cargo-fuzz: cargo install cargo-fuzz --locked --version ^0.13")
command -v c++ > /dev/null || missing+=("a C++ compiler, for libFuzzer: apt-get install g++")
if ((${#missing[@]})); then
    printf 'error: %s is missing\n' "${missing[0]%%:*}" >&2
    printf 'hint: %s\n' "${missing[@]#*: }" >&2
    exit 1
fi

executions=${1:-1000000}
if [[ ! $executions =~ ^[1-9][0-9]*$ ]]; then
    echo "error: \`$executions\` is no number of executions" >&2
    echo "hint: scripts/fuzz.sh 10000000 stream" >&2
    exit 2
fi
targets=("${@:2}")
((${#targets[@]})) || mapfile -t targets < <(cargo fuzz list)

# Longest input: where a target needs no whole page, small ones are tried more often.
declare -A max_len=([decoder]=1024 [frames]=96 [answers]=128 [store]=32 [wkdm]=900)
# Here the compared words (hashes, ids, a page's contents) teach the fuzzer little and cost it two thirds of its time.
declare -A flags=([answers]=--no-trace-compares [lz4]=--no-trace-compares [lzo]=--no-trace-compares [store]=--no-trace-compares [wkdm]=--no-trace-compares)

for target in "${targets[@]}"; do
    mkdir -p "corpus/$target"
    log=$(mktemp)
    if ! cargo fuzz run --sanitizer none ${flags[$target]:-} "$target" "corpus/$target" "seeds/$target" -- \
        -runs="$executions" -max_total_time="${FUZZ_SECONDS_MAX:-3600}" -max_len="${max_len[$target]:-4608}" \
        -rss_limit_mb=512 -timeout=20 > "$log" 2>&1; then
        tail -40 "$log" >&2
        echo "error: $target: a finding, or it could not be built; see above and $log" >&2
        exit 1
    fi
    printf '%-8s %s\n' "$target" "$(grep -a '^Done ' "$log")"
    rm "$log"
done
