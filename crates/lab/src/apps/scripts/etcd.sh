# One member of the cluster per VM; its data in memory. On a ramfs, where room that is kept for a
# log to come takes none: on a tmpfs that is 128 MiB.
mkdir -p /run/etcd
mount -t ramfs ramfs /run/etcd
chmod 700 /run/etcd
cluster=
index=0
for ip in $(echo "$VM_PEERS" | tr , ' '); do
    cluster="$cluster${cluster:+,}member$index=http://$ip:2380"
    index=$((index + 1))
done
# Debian's 100 and 1000 are for real processors.
exec etcd --name "member$VM_INDEX" --data-dir /run/etcd \
    --listen-peer-urls "http://$VM_IP:2380" --initial-advertise-peer-urls "http://$VM_IP:2380" \
    --listen-client-urls "http://$VM_IP:2379" --advertise-client-urls "http://$VM_IP:2379" \
    --initial-cluster "$cluster" --initial-cluster-state new \
    --heartbeat-interval 200 --election-timeout 2000 --logger zap --log-level warn
