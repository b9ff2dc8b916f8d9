#!/usr/bin/env python3
"""A cluster of two VMs of the lab's image, both on h1, that send to each other."""

import glob
import json

CMDLINE = (
    "console=ttyS0 quiet no_timer_check transhume.name={name} transhume.index={index} transhume.ip={ip}/24 transhume.mtu=1500"
    " transhume.count=2 transhume.peers=10.1.0.1,10.1.0.2 transhume.workload=mesh transhume.rate=50"
)
(KERNEL,) = glob.glob("/var/cache/transhume/guest/kernel/boot/vmlinuz-*")


def vm(index):
    name = f"web{index + 1}"
    cmdline = CMDLINE.format(name=name, index=index, ip=f"10.1.0.{index + 1}")
    boot = {"kernel": KERNEL, "initrd": "/var/cache/transhume/guest/initrd.img", "cmdline": cmdline}
    nics = [{"mac": f"52:54:00:00:10:0{index + 1}", "mtu": 1500}]
    return {"host": "h1", "spec": {"name": name, "cluster": "web", "vcpus": 1, "memory": 128, "nics": nics, "disks": [], "boot": boot}}


print(json.dumps({"name": "web", "vms": [vm(index) for index in range(2)]}))
