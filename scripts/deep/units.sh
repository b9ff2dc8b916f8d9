#!/usr/bin/env bash
# The packaged units under a live systemd, set up by the words of docs/operating.md: agents with their capabilities and
# filters, QEMUs in control groups of version 2 with limits, VMs that outlive their agent, a move between two such hosts.
set -euo pipefail
cd /given
say() { echo "$(cut -d' ' -f1 /proc/uptime) $*"; }
fail() {
    say "FAILED: $*"
    journalctl --no-pager -n 60 -u transhume-agent -o cat
    touch /given/over
    for left in 1 2 3 4 5 6 7 8; do [ -f /given/h2.done ] || sleep 1; done
    exit 1
}
# Up to so many seconds, until a command succeeds.
within() {
    local left=$1
    shift
    until "$@" > /dev/null 2>&1; do
        [ $((left--)) -gt 0 ] || fail "not within its time: $*"
        sleep 1
    done
}
readonly SERVICE=/sys/fs/cgroup/system.slice/transhume-agent.service

install -m 755 transhume /usr/bin/transhume
install -m 644 packaging/systemd/*.service /etc/systemd/system/
install -m 644 packaging/systemd/transhume.sysusers.conf /usr/lib/sysusers.d/transhume.conf
install -m 644 packaging/systemd/transhume.tmpfiles.conf /usr/lib/tmpfiles.d/transhume.conf
systemd-sysusers && systemd-tmpfiles --create 2> /dev/null || true
systemctl daemon-reload

if [ "$HOST_NUMBER" = 1 ]; then
    transhume ca --dir ca init --name deep > /dev/null
    for role in coordinator agent/h1 agent/h2; do
        transhume ca --dir ca issue $role --out "${role#agent/}" > /dev/null
    done
    touch issued
fi
within 300 test -f issued
cp h$HOST_NUMBER/* /etc/transhume/
# Kernel and initial file system of the guests are where this machine's lab has them.
cat > /etc/transhume/agent.toml <<T
host = "h$HOST_NUMBER"
state_dir = "/var/lib/transhume"
bridge = "br0"
capacity = { vcpus = 8, memory = 2048 }
images = ["/var/cache/transhume/guest"]
listen = { control = "10.0.0.$HOST_NUMBER:7401", ct = "10.0.0.$HOST_NUMBER", vmct = "10.0.0.$HOST_NUMBER" }
[trust]
authority = "/etc/transhume/ca.pem"
certificate = "/etc/transhume/agent-h$HOST_NUMBER.pem"
key = "/etc/transhume/agent-h$HOST_NUMBER.key"
revoked = "/etc/transhume/revoked.pem"
T
systemctl start transhume-agent
say "agent: $(systemctl is-active transhume-agent)"
journalctl --no-pager -u transhume-agent -o cat | head -20
# Linux takes a connection's next keys since 6.14.
sealer="this agent seals and opens"
[ "$(printf '6.14\n%s\n' "$(uname -r)" | sort -V | head -1)" = 6.14 ] && sealer="the kernel seals and opens"
said() { journalctl --no-pager -u transhume-agent -o cat | grep "$1"; }
within 60 said "$sealer page streams"
said "$sealer page streams"

# Each VM's group: its limits and what is in it.
groups() {
    local group pid
    for group in "$SERVICE"/vm-*; do
        [ -d "$group" ] || continue
        pid=$(head -1 "$group/cgroup.procs")
        echo "${group##*/} memory.max=$(cat "$group/memory.max") pids.max=$(cat "$group/pids.max") user=$(stat -c %U "/proc/$pid") pid=$pid"
    done 2> /dev/null
}
if [ "$HOST_NUMBER" = 2 ]; then
    until [ -f over ]; do
        groups > h2.new && mv h2.new h2.groups
        sleep 1
    done
    journalctl --no-pager -n 60 -u 'transhume-*' -o cat
    touch h2.done
    exit 0
fi

cp coordinator/* /etc/transhume/
chown transhume: /etc/transhume/coordinator.key
cat > /etc/transhume/coordinator.toml <<T
journal = "/var/lib/transhume-coordinator/journal.redb"
api_socket = "/run/transhume-coordinator/api.sock"
[trust]
authority = "/etc/transhume/ca.pem"
certificate = "/etc/transhume/coordinator.pem"
key = "/etc/transhume/coordinator.key"
revoked = "/etc/transhume/revoked.pem"
[[hosts]]
name = "h1"
control = "10.0.0.1:7401"
[[hosts]]
name = "h2"
control = "10.0.0.2:7401"
T
systemctl start transhume-coordinator
export TRANSHUME_API=unix:/run/transhume-coordinator/api.sock
within 60 transhume hosts
transhume hosts
python3 deep/cluster.py > cluster.json
status=$(curl -s -o answer -w '%{http_code}' --unix-socket /run/transhume-coordinator/api.sock http://coordinator/v1/clusters \
    -H 'content-type: application/json' --data-binary @cluster.json)
[ "$status" = 201 ] || fail "the cluster is not created: $status $(cat answer)"
say "two VMs run"

# 128 MiB of guest and 2 GiB; a processor and 128 threads (crates/agent/src/limits.rs).
readonly LIMITS="memory.max=$(((128 + 2048) << 20)) pids.max=129 user=transhume-qemu"
limited() { [ "$(grep -c "^vm-web[12] $LIMITS pid=" <<< "$1")" = "$2" ]; }
agent() { systemctl show -P MainPID transhume-agent; }
before=$(groups)
limited "$before" 2 || fail "groups are $before"
[ "$(cat "/proc/$(agent)/cgroup")" = 0::/system.slice/transhume-agent.service/agent ] || fail "the agent is in $(cat "/proc/$(agent)/cgroup")"
ls -l /proc/$(head -1 $SERVICE/vm-web1/cgroup.procs)/fd | grep -q kvm-vm || fail "web1 does not run under KVM"
say "each QEMU has its group: $LIMITS"

old=$(agent)
systemctl restart transhume-agent
within 60 test "$(agent)" != "$old"
[ "$(groups)" = "$before" ] || fail "after a restart of the agent: $(groups)"
kill -9 "$(agent)"
within 60 systemctl is-active transhume-agent
within 60 sh -c 'transhume hosts | grep "^h1 *answers"'
[ "$(groups)" = "$before" ] || fail "after an agent that was killed: $(groups)"
say "VMs outlive their agent, in their groups"

# As a guest is slowed down (crates/agent/src/throttle.rs), here all of its QEMU's threads but the first. An agent that starts
# lets it run again.
group=$SERVICE/vm-web1
pid=$(head -1 $group/cgroup.procs)
slow=$group/transhume-$pid
mkdir "$slow"
echo threaded > "$slow/cgroup.type"
echo +cpu > $group/cgroup.subtree_control
echo "1000 10000" > "$slow/cpu.max"
for thread in /proc/$pid/task/*; do
    [ "${thread##*/}" = "$pid" ] || echo "${thread##*/}" > "$slow/cgroup.threads"
done
throttled() { [ "$(sed -n 's/^nr_throttled //p' "$slow/cpu.stat")" -gt 0 ]; }
within 60 throttled
systemctl restart transhume-agent
lifted() { [ ! -d "$slow" ]; }
within 60 lifted
within 60 sh -c 'transhume hosts | grep "^h1 *answers"'
say "web1 was slowed down, and runs again with the next agent"

moved() {
    transhume migrate web --from "$1" --to "$2" --batch 2 --max-time 4m 2>&1 | tee moved || fail "the move from $1"
    transhume report --json > report.json
    python3 deep/clean.py report.json "$3" || fail "the move from $1 was not clean"
}
# Its guests are still booting.
moved h1 h2 0
within 10 test -z "$(groups)"
within 10 grep -q web2 h2.groups
limited "$(cat h2.groups)" 2 || fail "on h2: $(cat h2.groups)"
say "moved to h2, whose groups have them now"
sleep 15 # until they run
moved h2 h1 1
limited "$(groups)" 2 || fail "back on h1: $(groups)"

# Out of memory: the kernel ends that QEMU and nobody else, its agent sees it, and it can be started again.
old=$(agent)
echo 16M > $SERVICE/vm-web2/memory.max
within 60 sh -c 'transhume cluster show web | grep "^web2 .* off "'
transhume cluster show web
[ "$(agent)" = "$old" ] || fail "the agent ended with the QEMU"
transhume vm start web web2 || fail "web2 does not start again"
limited "$(groups)" 2 || fail "started again: $(groups)"
say "web2's QEMU was ended by its limit, and started again"

status=$(curl -s -o answer -w '%{http_code}' --unix-socket /run/transhume-coordinator/api.sock -X DELETE http://coordinator/v1/clusters/web)
within 60 test -z "$(groups)"
say "the cluster is gone, and its groups: $status"
journalctl --no-pager -u transhume-agent -u transhume-coordinator -o cat | grep -E "not permitted|EPERM|Permission denied" && fail "something was not permitted"
touch over passed
