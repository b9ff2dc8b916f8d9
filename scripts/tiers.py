#!/usr/bin/env python3
"""Each test belongs to exactly one tier of .config/nextest.toml, and an ignored one says `soak`."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CARGO = os.environ.get("CARGO", "cargo")
TIERS = {"quick": "default", "net": "net", "qemu": "qemu", "lab": "lab"}
# The longest that listing all tests may take, a build included.
LIST_S_MAX = 1800


def listed(*options):
    """The tests that a run with these options chooses, long ones too."""
    command = [CARGO, "nextest", "list", "--locked", "--workspace", "--run-ignored", "all", *options]
    done = subprocess.run(
        [*command, "--message-format", "json"], stdout=subprocess.PIPE, cwd=ROOT, timeout=LIST_S_MAX
    )
    if done.returncode:
        sys.exit(f"error: `{' '.join(command)}` failed")
    suites = json.loads(done.stdout)["rust-suites"]
    return [
        (binary, name)
        for binary, suite in suites.items()
        for name, test in suite["testcases"].items()
        if test["filter-match"]["status"] == "matches"
    ]


tiers_of = {test: [] for test in listed("--ignore-default-filter")}
for tier, profile in TIERS.items():
    for test in listed("--profile", profile):
        tiers_of[test].append(tier)

wrong = []
for (binary, name), tiers in sorted(tiers_of.items()):
    if len(tiers) != 1:
        wrong.append(f"{binary} {name} is in {' and '.join(tiers) or 'no tier'}")
for path in sorted(ROOT.glob("crates/**/*.rs")):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if re.match(r"\s*#\[ignore\b", line) and "soak: " not in line:
            where = path.relative_to(ROOT)
            wrong.append(f"{where}:{number}: write `#[ignore = \"soak: how long\"]`, or let it run")
for what in wrong:
    print(f"error: {what}", file=sys.stderr)
if wrong:
    print("hint: the tiers are the profiles of .config/nextest.toml", file=sys.stderr)
counts = ", ".join(f"{tier} {sum(tier in tiers for tiers in tiers_of.values())}" for tier in TIERS)
print(f"tests by tier: {counts}")
sys.exit(bool(wrong))
