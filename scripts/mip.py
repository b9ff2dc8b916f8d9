#!/usr/bin/env python3
"""Solves mixed integer programs with HiGHS, to compare the planner with: `mip.py SECONDS FILE..`.

Needs `pip install highspy`. One thread; seconds are of the processor, as in the planner's table.
"""

import resource
import sys

import highspy


def used_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> int:
    if len(sys.argv) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    seconds = float(sys.argv[1])
    print("instance | hosts bound s status")
    for path in sys.argv[2:]:
        solver = highspy.Highs()
        solver.setOptionValue("output_flag", False)
        solver.setOptionValue("threads", 1)
        solver.setOptionValue("mip_abs_gap", 0.999)
        start = used_s()

        def over(event) -> None:
            if used_s() - start > seconds:
                event.interrupt()

        solver.cbMipInterrupt.subscribe(over)
        if solver.readModel(path) != highspy.HighsStatus.kOk:
            print(f"{path} cannot be read", file=sys.stderr)
            return 1
        solver.run()
        info = solver.getInfo()
        found = info.primal_solution_status == 2
        hosts = f"{info.objective_function_value:.0f}" if found else "-"
        status = solver.modelStatusToString(solver.getModelStatus())
        print(f"{path} | {hosts} {info.mip_dual_bound:.2f} {used_s() - start:.2f} {status}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
