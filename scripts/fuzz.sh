#!/usr/bin/env bash
# Fuzzes the parsers of what others send or keep: scripts/fuzz.sh [EXECUTIONS [TARGET...]]; 1000000 of every target if
# nothing else is said. FUZZ_SECONDS_MAX bounds each target. Without sanitizers, so that a stable compiler will do; a
# panic, an overflow, a broken promise, too much memory or time is a finding, kept in crates/fuzz/artifacts.
# FUZZ_KEEP=1 adds to the seeds what found new code.
set -euo pipefail
cd "$(dirname "$0")/../crates/fuzz"

if ! command -v c++ > /dev/null; then
    echo "error: a C++ compiler is missing, for libFuzzer" >&2
    echo "hint: apt-get install g++" >&2
    exit 1
fi

executions=${1:-1000000}
if [[ ! $executions =~ ^[1-9][0-9]*$ ]]; then
    echo "error: \`$executions\` is no number of executions" >&2
    echo "hint: scripts/fuzz.sh 10000000 stream" >&2
    exit 2
fi
targets=("${@:2}")
((${#targets[@]})) || mapfile -t targets < <(ls seeds)

# Coverage as libFuzzer reads it. Compared words are not shown to it: they cost most of its time, and the words that
# matter stand in the seeds.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
# Named, so that build scripts and macros have no coverage.
host=$(rustc -vV | sed -n 's/^host: //p')

mkdir -p artifacts
for target in "${targets[@]}"; do
    max_len=$(sed -n "s/^    of(\"$target\", .*, \([0-9]*\)),$/\1/p" src/targets/mod.rs)
    if [[ -z $max_len ]]; then
        echo "error: there is no fuzz target \`$target\`" >&2
        echo "hint: $(ls seeds | paste -sd ' ')" >&2
        exit 2
    fi
    log=$(mktemp) words=$(mktemp)
    mkdir -p "corpus/$target"
    # A program holds one target: its name is read when it is compiled.
    if ! TRANSHUME_FUZZ_TARGET=$target cargo build --quiet --locked --release --target "$host" \
        --manifest-path libfuzzer/Cargo.toml > "$log" 2>&1; then
        tail -40 "$log" >&2
        echo "error: $target: it cannot be built" >&2
        exit 1
    fi
    program=libfuzzer/target/$host/release/$target
    cp "libfuzzer/target/$host/release/transhume-libfuzzer" "$program"
    grep -ahoE '[A-Za-z0-9_.-]{2,40}' -r "seeds/$target" | sort -u | sed 's/.*/"&"/' > "$words"
    if ! "$program" "corpus/$target" "seeds/$target" -runs="$executions" -max_total_time="${FUZZ_SECONDS_MAX:-3600}" \
        -max_len="$max_len" -dict="$words" -rss_limit_mb=512 -timeout=20 \
        -artifact_prefix="artifacts/$target-" > "$log" 2>&1; then
        tail -40 "$log" >&2
        echo "error: $target: a finding; see above and $log" >&2
        echo "hint: cargo run -p transhume-fuzz --example try_input -- $target crates/fuzz/artifacts/$target-..." >&2
        exit 1
    fi
    printf '%-10s %s\n' "$target" "$(grep -a '^Done ' "$log")"
    if [[ -n ${FUZZ_KEEP:-} ]]; then
        "$program" -merge=1 -max_len="$max_len" "seeds/$target" "corpus/$target" > "$log" 2>&1
    fi
    rm "$log" "$words"
done
