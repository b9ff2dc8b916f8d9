#!/usr/bin/env bash
# Installs what Transhume needs on a fresh Debian 12/13 or Ubuntu 24.04; touches nothing that is there already.
set -euo pipefail

qemu_min=9.2
# Older ones move guests under KVM only (docs/design/qemu.md, versions).
if [ -e /dev/kvm ] && grep -qwE 'svm|vmx' /proc/cpuinfo; then
    qemu_min=8.2
fi
need=()
want() { # command package
    command -v "$1" >/dev/null 2>&1 || need+=("$2")
}

want busybox busybox-static
want ip iproute2
want tc iproute2
want qemu-nbd qemu-utils
want zstd zstd
want python3 python3
want cc gcc
want make make
want virsh libvirt-clients
want setpriv util-linux
want systemd-analyze systemd
want etcd etcd-server

qemu_version() { qemu-system-x86_64 --version 2>/dev/null | sed -n 's/^QEMU emulator version \([0-9]*\.[0-9]*\).*/\1/p'; }
at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }
have=$(qemu_version || true)
qemu_missing=
if [ -z "$have" ] || ! at_least "$qemu_min" "$have"; then
    qemu_missing=1
fi

# The lab's image builder asks apt for the guests' kernel: the package lists must be there.
lists_missing=
if ! ls /var/cache/transhume/guest/kernel/boot/vmlinuz-* >/dev/null 2>&1 && ! apt-cache show linux-image-cloud-amd64 >/dev/null 2>&1 &&
    ! apt-cache show linux-image-virtual >/dev/null 2>&1; then
    lists_missing=1
fi

[ ${#need[@]} -eq 0 ] && [ -z "$qemu_missing" ] && [ -z "$lists_missing" ] && exit 0

if [ "$(id -u)" -ne 0 ]; then
    echo "error: missing: ${need[*]:-} ${qemu_missing:+QEMU >= $qemu_min}" >&2
    echo "hint: run this as root, or install them by hand" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive

# A source of the backports suite, like the main source that is installed: same address, same keys.
backports_source() { # suite
    local file
    for file in /etc/apt/sources.list.d/*.sources; do
        [ -e "$file" ] || continue
        awk -v suite="$1" 'BEGIN { RS = ""; FS = "\n" }
            {
                found = 0
                for (i = 1; i <= NF; i++) if ($i ~ "^Suites:" && $i ~ "(^|[ \t])" suite "([ \t]|$)") found = 1
                if (!found) next
                for (i = 1; i <= NF; i++) {
                    if ($i ~ /^#/) continue
                    if ($i ~ /^Suites:/) print "Suites: " suite "-backports"; else print $i
                }
                exit
            }' "$file" | grep . && { echo sources; return; }
    done
    [ -e /etc/apt/sources.list ] || return 1
    awk -v suite="$1" '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i == suite) { $i = suite "-backports"; print; exit } }' \
        /etc/apt/sources.list | grep . && { echo list; return; }
    return 1
}

echo "setup: refreshing the package lists"
apt-get update -qq
if [ -n "$qemu_missing" ]; then
    candidate=$(apt-cache policy qemu-system-x86 | sed -n 's/^ *Candidate: \([0-9]*:\)\?\([0-9]*\.[0-9]*\).*/\2/p')
    release=()
    if [ -z "$candidate" ] || ! at_least "$qemu_min" "$candidate"; then
        . /etc/os-release
        described=$(backports_source "$VERSION_CODENAME") || {
            echo "error: no package source of $VERSION_CODENAME was found to derive its backports from" >&2
            echo "hint: install QEMU $qemu_min or newer by hand" >&2
            exit 1
        }
        kind=$(tail -n 1 <<<"$described")
        head -n -1 <<<"$described" >"/etc/apt/sources.list.d/transhume-backports.$kind"
        apt-get update -qq
        release=(-t "$VERSION_CODENAME-backports")
    fi
    echo "setup: installing QEMU"
    apt-get install -y -qq --no-install-recommends "${release[@]}" qemu-system-x86 >/dev/null
fi
if [ ${#need[@]} -gt 0 ]; then
    echo "setup: installing ${need[*]}"
    # Its package would start a server of its own.
    if [[ " ${need[*]} " == *" etcd-server "* ]] && [ ! -e /usr/sbin/policy-rc.d ]; then
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod +x /usr/sbin/policy-rc.d
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
fi
at_least "$qemu_min" "$(qemu_version)" || { echo "error: QEMU is still older than $qemu_min" >&2; exit 1; }
