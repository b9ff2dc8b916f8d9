#!/usr/bin/env bash
# Path of the guests' kernel that the lab's image builder has unpacked.
set -euo pipefail
ls /var/cache/transhume/guest/kernel/boot/vmlinuz-* | sort -V | tail -n 1
