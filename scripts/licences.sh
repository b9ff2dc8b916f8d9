#!/usr/bin/env bash
# Every dependency has a permissive licence, and every direct one its row in docs/dependencies.md.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo metadata --locked --format-version 1 | python3 -c '
import json, re, sys
allowed = {"MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Zlib", "CC0-1.0", "BSL-1.0", "Unicode-3.0", "Unlicense", "0BSD", "MIT-0", "OFL-1.1", "Ubuntu-font-1.0"}
def permitted(text):
    text = text.replace("/", " OR ").replace("(", " ( ").replace(")", " ) ")
    text = re.sub(r"([\w.-]+) WITH ([\w.-]+)", r"\1+\2", text)
    words = ["(" if w == "(" else ")" if w == ")" else "or" if w == "OR" else "and" if w == "AND" else str(w.replace("+", " WITH ") in allowed) for w in text.split()]
    return eval(" ".join(words))

metadata = json.load(sys.stdin)
packages = {package["id"]: package for package in metadata["packages"]}
wrong = []
for package in packages.values():
    if not (package["license"] and permitted(package["license"])):
        wrong.append("{name} {version} is under {license}".format(**package))

page = "docs/dependencies.md"
libraries = open(page).read().split("\n## Libraries\n")[1].split("\n## ")[0]
rows = {}
for line in libraries.splitlines():
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    if line.startswith("| `"):
        rows[cells[0].strip("`")] = cells
direct = {}
for node in metadata["resolve"]["nodes"]:
    if node["id"] in metadata["workspace_members"]:
        for dependency in node["deps"]:
            package = packages[dependency["pkg"]]
            if package["source"]:
                direct[package["name"]] = (package["license"].replace("/", " OR "), packages[node["id"]]["name"])
for name, (licence, user) in sorted(direct.items()):
    if name not in rows:
        wrong.append(f"{page} has no row for {name}, which {user} depends on: say what it is for and why it")
    elif len(rows[name]) != 5 or not all(rows[name]):
        wrong.append(f"{page}: the row of {name} is not complete")
    elif rows[name][3] != licence:
        wrong.append(f"{page}: {name} is under {licence}, not {rows[name][3]}")
for name in sorted(rows.keys() - direct.keys()):
    wrong.append(f"{page} has a row for {name}, which nothing depends on")

for what in wrong:
    print(f"error: {what}", file=sys.stderr)
sys.exit(bool(wrong))
'
