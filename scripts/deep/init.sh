#!/bin/busybox sh
# The first process of a host: puts its root together, then systemd is it.
/bin/busybox --install -s /bin
export PATH=/bin
mkdir -p /proc /sys /host /layer /given /up /new
mount -t proc proc /proc
mount -t sysfs sys /sys
for module in $(cat /modules); do modprobe "$module"; done
plan9() { mount -t 9p -o "trans=virtio,version=9p2000.L,msize=524288,$3" "$1" "$2"; }
plan9 root /host ro,cache=loose
plan9 layer /layer ro,cache=loose
mount -t tmpfs -o mode=755 tmpfs /up
mkdir /up/upper /up/work
mount -t overlay -o lowerdir=/layer:/host,upperdir=/up/upper,workdir=/up/work overlay /new
# What this machine's own first process left says that it is a container, perhaps.
mount -t tmpfs -o mode=755 tmpfs /new/run
mkdir -p /new/given
plan9 given /new/given cache=none
mkdir -p /new/etc/systemd/system
cp /new/given/deep/deep.* /new/etc/systemd/system/
: > /new/etc/fstab
: > /new/etc/machine-id
rm -f /new/.dockerenv
umount /proc /sys
exec env -i switch_root /new /lib/systemd/systemd
