#!/usr/bin/env bash
# What each host does once systemd is up: a network for the hosts, a bridge for their guests, then the check.
set -euo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
of() { sed -n "s/.*deep\.$1=\([^ ]*\).*/\1/p" /proc/cmdline; }
HOST_NUMBER=$(of host)
export HOST_NUMBER
trap 'sync; echo o > /proc/sysrq-trigger' EXIT
modprobe -a virtio_net tun bridge kvm_amd vhost_net tls sch_plug
echo "h$HOST_NUMBER" > /proc/sys/kernel/hostname
ip link set lo up
ip link add br0 type bridge
ip link set br0 up
links=(/sys/class/net/*/device)
hosts=$(basename "$(dirname "${links[0]}")")
guests=$(basename "$(dirname "${links[1]}")")
ip link set "$hosts" up
ip address add "10.0.0.$HOST_NUMBER/24" dev "$hosts"
ip link set "$guests" up master br0
"/given/deep/$(of check).sh"
