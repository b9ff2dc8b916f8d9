#!/usr/bin/env python3
"""Every file, type and test that docs/paper-map.md names is there; so is every path that a page of docs/ links to."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CRATES = ROOT / "crates"
CODE = re.compile(r"`([^`]+)`")
wrong = []


def check_row(number, types, files, tests):
    texts = []
    for path in CODE.findall(files):
        if (CRATES / path).is_file():
            texts.append((CRATES / path).read_text())
        else:
            wrong.append(f"docs/paper-map.md:{number}: there is no crates/{path}")
    for name in CODE.findall(types):
        for part in name.split("::"):
            if not any(re.search(rf"\b{re.escape(part)}\b", text) for text in texts):
                wrong.append(f"docs/paper-map.md:{number}: no file of the row has `{part}`")
    path = None
    for name in CODE.findall(tests):
        if not name.startswith("::"):
            path = CRATES / name
            if not path.is_file():
                wrong.append(f"docs/paper-map.md:{number}: there is no crates/{name}")
                path = None
        elif path and not re.search(rf"\bfn {name[2:]}\(", path.read_text()):
            wrong.append(f"docs/paper-map.md:{number}: {path.relative_to(CRATES)} has no test `{name[2:]}`")


rows = 0
for number, line in enumerate((ROOT / "docs/paper-map.md").read_text().splitlines(), 1):
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    if line.startswith("|") and len(cells) == 5 and cells[0] not in ("§", "---"):
        rows += 1
        check_row(number, cells[2], cells[3], cells[4])
if not rows:
    wrong.append("docs/paper-map.md: there is no row")

for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if "://" not in target and not (page.parent / target).exists():
            wrong.append(f"{page.relative_to(ROOT)}: links to {target}, which is not there")

for what in wrong:
    print(f"error: {what}", file=sys.stderr)
sys.exit(bool(wrong))
