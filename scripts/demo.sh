#!/usr/bin/env bash
# A cluster of 6 VMs under traffic walks from two hosts to two others; then the proof.
set -euo pipefail
transhume=${1:?usage: demo.sh PATH-OF-TRANSHUME}
trap '"$transhume" lab down' EXIT

# Its owner is this script: killed, it leaves nothing that the next lab would not remove.
"$transhume" lab up --hosts 4 --vms 6 --owner $$
echo; echo "== before: who runs where"
"$transhume" cluster show lab
sleep 5
echo; echo "== control: the guests' own account, nobody moves"
"$transhume" lab workload
echo; echo "== the cluster moves from h1,h2 to h3,h4"
"$transhume" migrate lab --from h1,h2 --to h3,h4
echo; echo "== after: who runs where"
"$transhume" cluster show lab
sleep 3
echo; echo "== the guests' own account of the move: messages, TCP, and every disk block read again"
"$transhume" lab workload --verify-disks
"$transhume" lab down
echo; echo "== beside it, stock QEMU on this machine"
"$transhume" lab stock --vms 6
