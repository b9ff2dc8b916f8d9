#!/usr/bin/env python3
"""Comments of Rust code are at most 100 columns wide, drawings and code in them 120.

scripts/comments.py --check [PATH...]   names each line that is wider
scripts/comments.py --wrap [PATH...]    flows paragraphs that have such a line anew

A PATH is a file or a directory; without one, all crates are meant. Fenced and indented code, tables,
headings and drawings are left as they are, and so are paragraphs that are narrow enough.
"""

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COLUMNS_MAX = 100
FENCED_COLUMNS_MAX = 120
COMMENT = re.compile(r"(\s*)(//[/!]?)(?: (.*)|)$")
FENCE = re.compile(r"\s*(```|~~~)")
ITEM = re.compile(r"(\s{0,3}(?:[*+-]|\d{1,2}[.)]) +)(.*)")
# Never flowed: indented code, tables, headings, references of links, drawings.
FIXED = re.compile(r"\s{4}|\s*\||\s*#+ |\s*\[[^]]+\]: |.*[─-╿]|.*\S {3,}\S")
# Begins a paragraph wherever it stands.
LABEL = re.compile(r"[A-Z]{3,}:|\*\*")
# At the start of a line Markdown would take these for a list, a heading or a quotation.
MARKUP = re.compile(r"([*+>-]|#+|\d+[.)])$")
NUMBER = re.compile(r"[(≤≥<>~]*\d[\d.,]*$")
ENDS = (".", ":", ";", "?", "!")


def comment(line):
    """Indentation, marker and text of a line that is nothing but a comment."""
    found = COMMENT.match(line)
    return found and (found[1], found[2], found[3] or "")


def too_wide(line, columns_max=COLUMNS_MAX):
    found = comment(line)
    # A single word, such as an address, cannot be broken.
    return bool(found) and len(line) > columns_max and " " in found[2].strip()


def wide_lines(lines):
    """The numbers of lines that are too wide."""
    fenced = False
    for number, line in enumerate(lines, 1):
        found = comment(line)
        if not found:
            fenced = False
        elif FENCE.match(found[2]):
            fenced = not fenced
        elif too_wide(line, FENCED_COLUMNS_MAX if fenced else COLUMNS_MAX):
            yield number


def words_of(text):
    """What a line may end after: quoted code and a number with its unit are one word, and what a line
    must not begin with stays with the word before it."""
    words = []
    for word in re.findall(r"(?:`[^`]*`|\S)+", text):
        if words and (MARKUP.match(word) or NUMBER.match(words[-1])):
            words[-1] += " " + word
        else:
            words.append(word)
    return words


def flowed(lines, prefix):
    """One paragraph, its lines filled; the lines of a list's item hang beneath its first word."""
    item = ITEM.match(lines[0])
    lead = item[1] if item else re.match(r"\s*", lines[0])[0]
    texts = [item[2] if item else lines[0], *lines[1:]]
    hang = " " * len(lead)
    out, line = [], prefix + lead
    empty = True
    for word in words_of(" ".join(text.strip() for text in texts)):
        if not empty and len(line) + 1 + len(word) > COLUMNS_MAX:
            out.append(line)
            line, empty = prefix + hang, True
        line += word if empty else " " + word
        empty = False
    return [*out, line]


def paragraphs(texts, prefix):
    """(lines, whether they may be flowed) of one block of comment lines."""
    fenced = False
    current = []
    for text in texts:
        is_fence = bool(FENCE.match(text))
        hangs = bool(current and ITEM.match(current[0]) and text.startswith("  "))
        fixed = fenced or is_fence or not text.strip() or (bool(FIXED.match(text)) and not hangs)
        fenced ^= is_fence
        deliberate = (
            current
            and current[-1].rstrip().endswith(ENDS)
            and text.strip()
            and len(prefix) + len(current[-1]) + 1 + len(text.split()[0]) <= COLUMNS_MAX
        )
        if current and (fixed or ITEM.match(text) or LABEL.match(text) or deliberate):
            yield current, True
            current = []
        if fixed:
            yield [text], False
        else:
            current.append(text)
    if current:
        yield current, True


def wrapped(lines):
    out = []
    at = 0
    while at < len(lines):
        first = comment(lines[at])
        if not first:
            out.append(lines[at])
            at += 1
            continue
        end = at
        while end < len(lines) and (found := comment(lines[end])) and found[:2] == first[:2]:
            end += 1
        prefix = f"{first[0]}{first[1]} "
        for part, flows in paragraphs([comment(line)[2] for line in lines[at:end]], prefix):
            whole = [(prefix + text).rstrip() for text in part]
            out += flowed(part, prefix) if flows and any(map(too_wide, whole)) else whole
        at = end
    return out


def files(paths):
    for path in paths or [ROOT / "crates"]:
        if path.is_file():
            yield path
        elif path.is_dir():
            yield from sorted(p for p in path.rglob("*.rs") if "target" not in p.relative_to(path).parts)
        else:
            sys.exit(f"error: there is no {path}")


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
mode = parser.add_mutually_exclusive_group(required=True)
mode.add_argument("--check", action="store_true")
mode.add_argument("--wrap", action="store_true")
parser.add_argument("paths", nargs="*", type=Path, metavar="PATH")
options = parser.parse_args()

wide = 0
for path in files(options.paths):
    text = path.read_text()
    lines = text.split("\n")
    if options.wrap:
        lines = wrapped(lines)
        if (new := "\n".join(lines)) != text:
            path.write_text(new)
    for number in wide_lines(lines):
        wide += 1
        shown = path.resolve()
        shown = shown.relative_to(ROOT) if shown.is_relative_to(ROOT) else path
        columns = len(lines[number - 1])
        print(f"error: {shown}:{number}: a comment of {columns} columns", file=sys.stderr)
if wide:
    hint = "shorten these by hand" if options.wrap else "`scripts/comments.py --wrap` flows paragraphs anew"
    print(f"hint: {hint}", file=sys.stderr)
sys.exit(bool(wide))
