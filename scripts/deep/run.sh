#!/usr/bin/env bash
# Boots hosts that are virtual machines themselves, with a distribution's kernel and systemd, and runs a check on the first
# of them. For what a build machine's kernel does not have: control groups of version 2, KVM, vhost-net, kernel TLS.
#
#     scripts/deep/run.sh CHECK        scripts/deep/CHECK.sh; needs root, `cargo build --release`, 8 GiB
#     DEEP_SUITE=trixie-backports ...  with the kernel of that suite of Debian's
#
# Each host's root is this machine's, read-only, below a layer with what the hosts have in its place (kernel modules, a newer
# systemd) and one in memory. The hosts' only network is two sockets between the two QEMUs. Everything is emulated, and slow.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly CHECK=${1:-}
if [ -z "$CHECK" ] || [ ! -x "scripts/deep/$CHECK.sh" ]; then
    echo "usage: scripts/deep/run.sh net|tls|units" >&2
    exit 2
fi
# The suite that the kernel is of; this machine's own where it is empty.
readonly SUITE=${DEEP_SUITE:-}
readonly CACHE=/var/cache/transhume/deep${SUITE:+-$SUITE}
# What apt is told to look at that suite alone, beside this machine's own lists.
of_suite=()
if [ -n "$SUITE" ]; then
    mkdir -p "$CACHE-apt/lists/partial" "$CACHE-apt/archives/partial"
    archive=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | sed -n 1p)
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive $SUITE main" > "$CACHE-apt/sources.list"
    of_suite=(-o Dir::Etc::sourcelist="$CACHE-apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o Dir::State::lists="$CACHE-apt/lists" -o Dir::Cache="$CACHE-apt" -o APT::Sandbox::User=root)
    apt-get -qq "${of_suite[@]}" update
fi
# The newest kernel that has 9p.
KERNEL=$(apt-cache "${of_suite[@]}" depends linux-image-amd64 | sed -n 's/.*Depends: linux-image-//p' | sed -n 1p)
readonly KERNEL
readonly MEMORY_MIB=3000
# A host that has not ended by then is ended.
readonly LIMIT_S=${DEEP_LIMIT_S:-900}
# Modules that the root of a host is mounted with; what they need comes with them.
readonly ROOT_MODULES="virtio_pci 9p 9pnet_virtio overlay"

# Debian's packages, unpacked, with /bin, /sbin and /lib where a merged /usr has them.
unpack() {
    local into=$1 package
    shift
    mkdir -p "$into/tree/usr" "$into/debs"
    # Newer kernels are in parts.
    local parts="linux-image-$KERNEL"
    parts+=" $(apt-cache "${of_suite[@]}" depends "$parts" | sed -n 's/.*Depends: \(linux-\(base\|binary\|modules\)-[0-9].*\)/\1/p' | tr '\n' ' ')"
    (cd "$into/debs" && apt-get -qq -o APT::Sandbox::User=root "${of_suite[@]}" download $parts && for package; do
        # As root: `_apt` may not write here.
        apt-get -qq -o APT::Sandbox::User=root download "$package"
    done)
    for package in "$into"/debs/*.deb; do dpkg -x "$package" "$into/tree"; done
    for package in bin sbin lib; do
        [ -d "$into/tree/$package" ] || continue
        mkdir -p "$into/tree/usr/$package"
        cp -a "$into/tree/$package/." "$into/tree/usr/$package/"
        rm -r "$into/tree/$package"
    done
}

prepare() {
    local from="" module
    # DelegateSubgroup= wants systemd 254: Debian 12 has it in its backports.
    apt-cache policy systemd | grep bookworm-backports > /dev/null && from=/bookworm-backports
    rm -rf "$CACHE.new"
    unpack "$CACHE.new" kmod libkmod2 busybox-static \
        {systemd,libsystemd0,libsystemd-shared,udev,libudev1}"$from"
    local tree=$CACHE.new/tree
    # The initramfs has nothing that unpacks them.
    find "$tree/usr/lib/modules" -name '*.ko.xz' -exec xz -d {} +
    ln -sf kmod "$tree/usr/bin/depmod"
    LD_LIBRARY_PATH=$tree/usr/lib/x86_64-linux-gnu "$tree/usr/bin/depmod" -b "$tree/usr" "$KERNEL"
    local image=$tree/boot/vmlinuz-$KERNEL
    [ -f "$image" ] || image=$tree/usr/lib/modules/$KERNEL/vmlinuz
    cp "$image" "$CACHE.new/vmlinuz-$KERNEL"
    local init=$CACHE.new/init modules=lib/modules/$KERNEL
    mkdir -p "$init/bin" "$init/$modules"
    cp "$tree/usr/bin/busybox" "$init/bin/"
    cp "$tree/usr/$modules/modules.dep" "$init/$modules/"
    for module in $ROOT_MODULES; do
        # Some kernels have some of them inside.
        grep -E "/$module\.ko:" "$tree/usr/$modules/modules.dep" | tr -d : | tr ' ' '\n' || true
    done | sort -u | while read -r module; do
        install -D "$tree/usr/$modules/$module" "$init/$modules/$module"
    done
    echo "$ROOT_MODULES" > "$init/modules"
    cp scripts/deep/init.sh "$init/init"
    chmod +x "$init/init"
    (cd "$init" && find . | bin/busybox cpio -o -H newc 2>/dev/null | gzip -1) > "$CACHE.new/initrd"
    rm -rf "$CACHE"
    mv "$CACHE.new" "$CACHE"
}

if [ ! -f "$CACHE/vmlinuz-$KERNEL" ] || [ scripts/deep/init.sh -nt "$CACHE/initrd" ]; then
    prepare
fi

work=$(mktemp -d)
pids=()
finish() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' HUP INT TERM

# What is given to the hosts: the program, its units, the checks.
if [ ! -x target/release/transhume ]; then
    printf 'error: target/release/transhume is not there\nhint: `make deep` builds it\n' >&2
    exit 1
fi
mkdir -p "$work/given"
cp target/release/transhume "$work/given/"
cp -r packaging scripts/deep "$work/given/"
# Debug builds of tests, by their paths.
tests() {
    cargo test --locked "$@" --no-run 2>&1 | sed -n "s#.*Executable .*(\(.*\))#$PWD/\1#p" > "$work/given/tests"
    [ -s "$work/given/tests" ] || { echo "no tests were built" >&2; exit 1; }
}
case $CHECK in
    net) tests -p transhume-netbuf -p transhume-netcfg --test '*' ;;
    tls) tests -p transhume-agent --lib ;;
esac

# A host by its number; the first one waits for the other at both sockets.
host() {
    local number=$1 end="reconnect-ms=100"
    [ "$number" = 1 ] && end="server=on"
    net() { echo "stream,id=$1,$end,addr.type=unix,addr.path=$work/$1"; }
    timeout "$LIMIT_S" qemu-system-x86_64 -accel tcg,thread=multi -machine q35 -cpu EPYC,svm=on,npt=on -smp 1 -m "$MEMORY_MIB" \
        -nodefaults -display none -no-reboot -kernel "$CACHE/vmlinuz-$KERNEL" -initrd "$CACHE/initrd" \
        -append "console=ttyS0 quiet panic=-1 systemd.unit=deep.target systemd.show_status=no deep.host=$number deep.check=$CHECK" \
        -virtfs "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap" \
        -virtfs "local,path=$CACHE/tree,mount_tag=layer,security_model=none,readonly=on" \
        -virtfs "local,path=$work/given,mount_tag=given,security_model=none" \
        -netdev "$(net hosts)" -device "virtio-net-pci,netdev=hosts,mac=52:54:00:de:e9:0$number" \
        -netdev "$(net guests)" -device "virtio-net-pci,netdev=guests,mac=52:54:00:de:e9:1$number" \
        -serial "file:$work/h$number.log" 2> "$work/h$number.qemu" &
    pids+=($!)
}

host 1
host 2
tail -n +1 -F "$work/h1.log" 2>/dev/null --pid="${pids[0]}" | sed -u 's/^/h1: /' &
wait "${pids[0]}" || true
sed 's/^/h2: /' "$work/h2.log" | tail -20
if [ ! -f "$work/given/passed" ]; then
    cat "$work"/h?.qemu >&2
    echo "error: scripts/deep/$CHECK.sh did not pass" >&2
    exit 1
fi
