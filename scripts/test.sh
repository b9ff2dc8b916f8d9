#!/usr/bin/env bash
# All tests, one at a time; at the end once more what the failed ones said, since a log of an hour is long.
set -uo pipefail
cd "$(dirname "$0")/.."

log=target/test.log
mkdir -p target
"${CARGO:-cargo}" test --locked --workspace --no-fail-fast -- --test-threads=1 2>&1 | tee "$log"
status=$?
if [ "$status" -ne 0 ]; then
    echo
    echo "what failed, from $log:"
    awk '/^---- .* stdout ----$/ { told = 1 }
         /^failures:$/ || /^stack backtrace:$/ { told = 0 }
         told' "$log" | cut -c1-8000
    grep -E '^error: test failed|^error(\[|:)' "$log" | sort -u
fi
exit "$status"
