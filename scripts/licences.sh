#!/usr/bin/env bash
# Every dependency has a permissive licence.
set -euo pipefail
cargo metadata --locked --format-version 1 | python3 -c '
import json, re, sys
allowed = {"MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Zlib", "CC0-1.0", "BSL-1.0", "Unicode-3.0", "Unlicense", "0BSD", "MIT-0", "OFL-1.1", "Ubuntu-font-1.0"}
def permitted(text):
    text = text.replace("/", " OR ").replace("(", " ( ").replace(")", " ) ")
    text = re.sub(r"([\w.-]+) WITH ([\w.-]+)", r"\1+\2", text)
    words = ["(" if w == "(" else ")" if w == ")" else "or" if w == "OR" else "and" if w == "AND" else str(w.replace("+", " WITH ") in allowed) for w in text.split()]
    return eval(" ".join(words))
bad = [(p["name"], p["version"], p["license"]) for p in json.load(sys.stdin)["packages"] if not (p["license"] and permitted(p["license"]))]
for name, version, licence in bad:
    print(f"error: {name} {version} is under {licence}", file=sys.stderr)
sys.exit(bool(bad))
'
