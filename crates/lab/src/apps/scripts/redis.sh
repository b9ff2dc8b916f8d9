# The first VM is the primary, the others are its replicas. Nothing is saved; else as it comes.
mkdir -p /run/redis
primary=${VM_PEERS%%,*}
set -- --bind "$VM_IP" --protected-mode no --dir /run/redis --save ''
if [ "$VM_INDEX" -gt 0 ]; then
    set -- "$@" --replicaof "$primary" 6379
fi
exec redis-server "$@"
