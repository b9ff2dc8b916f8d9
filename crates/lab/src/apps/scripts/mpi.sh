# A rank per VM, started from the first. Where mpiexec would log in by ssh, it says its command to
# the other VM, where a shell carries it out: nobody else is in this network.
cat >/run/answer <<'END'
#!/bin/sh
read -r line
eval "$line"
END
cat >/run/reach <<'END'
#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
host=$1
shift
until echo "$*" | nc "$host" 7805; do sleep 1; done
END
chmod +x /run/answer /run/reach
# UCX complains without it, though it is not used.
mkdir -p /dev/shm
mount -t tmpfs tmpfs /dev/shm
export UCX_TLS=tcp,self UCX_NET_DEVICES=eth0
if [ "$VM_INDEX" -gt 0 ]; then
    exec nc -ll -p 7805 -e /run/answer
fi
echo "$VM_PEERS" | tr , '\n' >/run/hosts
exec mpiexec.hydra -launcher ssh -launcher-exec /run/reach -localhost "$VM_IP" \
    -f /run/hosts -n "$VM_COUNT" -ppn 1 /usr/bin/transhume-ring 20
