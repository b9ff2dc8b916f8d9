#!/usr/bin/env python3
"""Measures what the project promises, and puts it in one table.

    scripts/bench.py [--out DIR] [--reps N] [--parts NAME,..]

Runs each part (page path, loss and blackout, what guests notice, buffer, planner) as root, with what `cargo build
--release` made; raw CSV stays in DIR. While it runs, a virtual machine's free memory is not given back to its
hypervisor. A part that is in DIR already is not run again, so that an interrupted run goes on. DIR/bench.csv has one
line per figure: median, quartiles, number. Beside each stands the figure of the last release, from the newest
docs/bench/*.csv, where it was measured on the same machine.

    scripts/bench.py --only-table --out DIR      no runs: the table of what DIR has
"""

import argparse
import contextlib
import csv
import mmap
import pathlib
import re
import statistics
import subprocess
import sys
from collections import defaultdict

ROOT = pathlib.Path(__file__).resolve().parent.parent
TRANSHUME = ROOT / "target/release/transhume"
EXAMPLES = ROOT / "target/release/examples"
# Seeds and seconds of each of the planner's cases (docs/design/planner-figures.md).
PLANNER_CASES = {"triplets-249": (5, 30), "400-all-different": (5, 30), "trace-1176": (1, 30), "perfect-40x4": (5, 30)}

# The least order of the blocks of pages that are reported as free; the largest order is 10 (/proc/buddyinfo).
PAGE_REPORTING = pathlib.Path("/sys/module/page_reporting/parameters/page_reporting_order")
PAGE_ORDER_NEVER = 11

PARTS = {
    "memory": lambda out, reps: [
        [TRANSHUME, "lab", "memory", "--loads", "idle,cache,random", "--vms", "1,4", "--reps", reps, "--out", out]
    ],
    "eight": lambda out, reps: [
        [TRANSHUME, "lab", "memory", "--loads", "idle,cache,random", "--links", "1gbit,unlimited", "--vms", "8", "--reps"]
        + [reps, "--out", out]
    ],
    "figures": lambda out, reps: [
        [TRANSHUME, "lab", "figures", "6", "7", "--vms", "4", "--batch", "1,4", "--reps", reps, "--out", out]
    ],
    "brownout": lambda out, reps: [
        [TRANSHUME, "lab", "brownout", "--vms", "2", "--rate", "200", "--reps", reps, "--out", out]
    ],
    "buffer": lambda out, reps: [[EXAMPLES / "buffer_rate", reps]],
    "planner": lambda out, reps: [
        [EXAMPLES / "table", case, seeds, seconds] for case, (seeds, seconds) in PLANNER_CASES.items()
    ],
}


class Figures:
    """Values by part, case and measure, in the order in which they were met."""

    def __init__(self):
        self.values = defaultdict(list)

    def add(self, part, case, measure, value):
        if value not in (None, ""):
            self.values[part, case, measure].append(float(value))

    def rows(self):
        for (part, case, measure), values in self.values.items():
            median = statistics.median(values)
            low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (median,) * 3
            yield {
                "part": part,
                "case": case,
                "measure": measure,
                "median": f"{median:.6g}",
                "low": f"{low:.6g}",
                "high": f"{high:.6g}",
                "n": str(len(values)),
            }


def lines(path):
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def read_memory(out, figures):
    for row in lines(out / "memory.csv"):
        case = f"{row['load']}, {row['link']}, {row['vms']} VMs, {row['mover']}"
        figures.add("memory", case, "seconds", row["seconds"])
        figures.add("memory", case, "MB on the wire", float(row["bytes"]) / 1e6)
        if float(row["agents_s_per_gb"]) > 0:
            figures.add("memory", case, "agents, s/GB", row["agents_s_per_gb"])


def read_figures(out, figures):
    losses = defaultdict(int)
    for row in lines(out / "figures.csv"):
        case = f"{row['mover']}, MTU {row['mtu']}"
        figures.add("figures", case, "blackout of a VM, ms", row["blackout_ms"])
        wrong = sum(int(row[what]) for what in ("lost", "duplicated", "reordered"))
        losses[case, row["repetition"]] += wrong
    for (case, _), wrong in losses.items():
        figures.add("figures", case, "messages lost, doubled, out of order in a move", wrong)


def read_brownout(out, figures):
    for row in lines(out / "brownout.csv"):
        figures.add("brownout", row["mover"], "gap, ms", row["gap_ms"])
        figures.add("brownout", row["mover"], "stall, ms", row["stall_ms_longest"])


def read_buffer(out, figures):
    for length, rate in re.findall(r"^(\d+) B: (\d+) frames/s, lost 0", text(out), re.M):
        figures.add("buffer", f"frames of {length} B", "frames/s", rate)


def read_planner(out, figures):
    for case, hosts, bound, seconds in re.findall(r"^(\S+) \d+ \| (\S+) (\d+) ([\d.]+) ", text(out), re.M):
        figures.add("planner", case, "processor seconds", seconds)
        if hosts != "-":
            figures.add("planner", case, "hosts above the bound", int(hosts) - int(bound))


READERS = {
    "memory": read_memory,
    "eight": read_memory,
    "figures": read_figures,
    "brownout": read_brownout,
    "buffer": read_buffer,
    "planner": read_planner,
}


def text(out):
    path = out / "output.txt"
    return path.read_text() if path.exists() else ""


def machine():
    """What figures can be compared on: processor, their number, kernel."""
    processors = re.findall(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    release = pathlib.Path("/proc/sys/kernel/osrelease").read_text().strip()
    return f"{len(processors)} x {processors[0] if processors else 'unknown'}, Linux {release}"


@contextlib.contextmanager
def memory_kept():
    """Keeps a virtual machine's free memory with it.

    One that reports free pages loses them to its hypervisor, and waits for each that it takes again: a target's fresh
    memory then costs more than everything else of a move on a fast link, and memory that was just in use nothing.
    """
    if not PAGE_REPORTING.exists():
        yield
        return
    before = PAGE_REPORTING.read_text().strip()
    try:
        try:
            PAGE_REPORTING.write_text(str(PAGE_ORDER_NEVER))
        except OSError as error:
            print(f"note: free memory goes back to the hypervisor meanwhile: {PAGE_REPORTING}: {error}", file=sys.stderr)
        # What is away already comes back when it is written to.
        pages = int(available_bytes() * 0.75) // mmap.PAGESIZE
        with mmap.mmap(-1, pages * mmap.PAGESIZE) as memory:
            for page in range(pages):
                memory[page * mmap.PAGESIZE] = 1
        yield
    finally:
        PAGE_REPORTING.write_text(before)


def available_bytes():
    kib = re.search(r"^MemAvailable:\s+(\d+) kB$", pathlib.Path("/proc/meminfo").read_text(), re.M)
    return int(kib[1]) << 10


def run(part, out, reps):
    done = out / "done"
    if done.exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    with memory_kept(), (out / "output.txt").open("w") as output:
        for command in PARTS[part](out, reps):
            command = [str(word) for word in command]
            print("+ " + " ".join(command), file=sys.stderr)
            try:
                code = subprocess.run(command, stdout=output, check=False).returncode
            except FileNotFoundError:
                sys.exit(f"error: {command[0]} is not there\nhint: `make bench` builds it")
            if code != 0:
                sys.exit(f"error: {part} ended with code {code}\nhint: run it again with --out {out.parent}: what is done is kept")
    done.write_text(machine() + "\n")


def newest_release():
    def version(path):
        return [int(number) for number in re.findall(r"\d+", path.stem)]

    releases = sorted((ROOT / "docs/bench").glob("*.csv"), key=version)
    return releases[-1] if releases else None


def before(here):
    """The last release's figures and its name; none of another machine."""
    path = newest_release()
    if path is None:
        return {}, None
    rows = [row for row in lines(path) if row["machine"] == here]
    return {(row["part"], row["case"], row["measure"]): float(row["median"]) for row in rows}, path.stem


def table(rows, earlier, release):
    columns = ["part", "case", "measure", "median (quartiles)", "n"]
    if release:
        columns += [release, f"of {release}"]
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        cells = [row["part"], row["case"], row["measure"], f"{row['median']} ({row['low']}–{row['high']})", row["n"]]
        if release:
            was = earlier.get((row["part"], row["case"], row["measure"]))
            ratio = f"{float(row['median']) / was:.2f}" if was else "–"
            cells += ["–" if was is None else f"{was:.6g}", ratio]
        print("| " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "target/bench")
    parser.add_argument("--reps", type=int, default=5, help="moves of each kind [default: 5]")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)} [default: all]")
    parser.add_argument("--only-table", action="store_true")
    args = parser.parse_args()
    parts = [part for part in args.parts.split(",") if part]
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        parser.error(f"there is no part `{', '.join(unknown)}`; there are {', '.join(PARTS)}")
    if not 1 <= args.reps <= 100:
        parser.error(f"{args.reps} repetitions are not between 1 and 100")
    figures = Figures()
    machines = set()
    for part in parts:
        out = args.out / part
        if not args.only_table:
            run(part, out, args.reps)
        READERS[part](out, figures)
        if (out / "done").exists():
            machines.add((out / "done").read_text().strip())
    rows = list(figures.rows())
    if not rows:
        sys.exit(f"error: {args.out} has no figures of {', '.join(parts)}\nhint: without --only-table they are measured")
    if len(machines) > 1:
        sys.exit(f"error: {args.out} has figures of several machines: {'; '.join(sorted(machines))}\nhint: another --out")
    here = machines.pop() if machines else machine()
    with (args.out / "bench.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "machine"], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "machine": here} for row in rows)
    earlier, release = before(here)
    table(rows, earlier, release)
    print(f"\n{here}; {args.out / 'bench.csv'}")


if __name__ == "__main__":
    main()
