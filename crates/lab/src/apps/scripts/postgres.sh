# The first VM is the primary, the others follow its log. Whoever is in this network is trusted.
# A commit ends when the standbys show it.
mkdir -p /dev/shm /run/postgres /run/postgresql
mount -t tmpfs tmpfs /dev/shm
chmod 1777 /dev/shm /tmp
echo 'postgres:x:100:100:postgres:/run/postgres:/bin/sh' >>/etc/passwd
echo 'postgres:x:100:' >>/etc/group
chown -R postgres:postgres /run/postgres /run/postgresql
cat >/run/postgres/start <<'END'
set -e
cd /run/postgres
PATH=$PATH:$(echo /usr/lib/postgresql/*/bin)
data=/run/postgres/data
primary=${VM_PEERS%%,*}
if [ "$VM_INDEX" = 0 ]; then
    initdb -D $data -U postgres -A trust --locale C --encoding UTF8 --no-sync --wal-segsize 1
    echo "host all all 0.0.0.0/0 trust
host replication all 0.0.0.0/0 trust" >>$data/pg_hba.conf
    echo "listen_addresses = '0.0.0.0'
unix_socket_directories = '/run/postgresql'
shared_buffers = 16MB
max_connections = 40
min_wal_size = 2MB
max_wal_size = 32MB
wal_keep_size = 16MB
synchronous_commit = remote_apply
synchronous_standby_names = 'FIRST $((VM_COUNT - 1)) (*)'" >>$data/postgresql.conf
else
    until pg_basebackup -h "$primary" -U postgres -D $data -R -X stream -c fast --no-sync; do
        rm -rf $data
        sleep 1
    done
fi
exec postgres -D $data
END
exec su postgres -c 'sh /run/postgres/start'
