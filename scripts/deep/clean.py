#!/usr/bin/env python3
"""Whether a report says that everything committed and no frame was lost, doubled or out of order.

clean.py REPORT N       at least N frames were captured for each VM
"""

import json
import sys

report = json.load(open(sys.argv[1]))
vms = report["vms"]
for vm in vms:
    frames = vm["frames"]
    assert all(frames[count] == 0 for count in ("lost", "duplicated", "reordered")), vm
    assert frames["captured"] == frames["delivered"] >= int(sys.argv[2]), vm
assert (report["outcome"], len(vms)) == ("committed", 2), report
