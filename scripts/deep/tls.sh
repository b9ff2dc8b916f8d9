#!/usr/bin/env bash
# Page streams whose records the kernel seals and opens, of a debug build, on a kernel that can (Linux 6.14 and later).
set -euo pipefail
[ "$HOST_NUMBER" = 1 ] || exit 0
cd /given
uname -r
program=$(cat tests)
failed=0
"$program" page_stream::connection --test-threads=1 > told 2>&1 || failed=1
grep -E "^test |panicked|assert|left:|right:" -A3 told
# The kernel's own account of what it did.
for count in TlsTxSw TlsRxSw TlsTxRekeyOk TlsRxRekeyOk TlsDecryptError; do
    grep "^$count " /proc/net/tls_stat
    [ "$(sed -n "s/^$count[^0-9]*//p" /proc/net/tls_stat)" -gt 0 ] || failed=1
done
[ "$failed" = 0 ] && touch passed
