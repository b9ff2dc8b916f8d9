#!/usr/bin/env bash
# Licences, banned crates and sources of all dependencies, by deny.toml. Known vulnerabilities are left
# out: their database is fetched from the network. `cargo deny check advisories` looks there.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! cargo deny --version > /dev/null 2>&1; then
    echo "error: cargo-deny is missing" >&2
    echo "hint: cargo install --locked cargo-deny --version ^0.20" >&2
    exit 1
fi
cargo deny --locked check licenses bans sources
