//! What each app is made of: the one table.

use transhume_guest::app::App;

/// Where a package's name comes from.
#[derive(Debug, Clone, Copy)]
pub enum Package {
    /// It is this.
    Named(&'static str),
    /// It has a version in it: what the meta package depends on that begins so.
    Behind {
        meta: &'static str,
        prefix: &'static str,
    },
}

/// A program of ours that is compiled against a package.
#[derive(Debug)]
pub struct Compiled {
    /// Its path in the guest.
    pub path: &'static str,
    /// C.
    pub source: &'static str,
    /// A header's name, whose directory is searched.
    pub header: &'static str,
    /// The library that it is linked to.
    pub library: &'static str,
}

/// One app.
#[derive(Debug)]
pub struct Recipe {
    /// Fetched for their files.
    pub packages: &'static [Package],
    /// Files and directories that are taken from them; `*` stands for any one name. The libraries
    /// that these need come besides.
    pub files: &'static [&'static str],
    /// Made here.
    pub compiled: Option<Compiled>,
    /// Run by every guest.
    pub script: &'static str,
    /// VMs of its cluster.
    pub vms: u16,
    /// Memory of each: its files twice while it boots, and what it works with.
    pub memory_mib: u64,
}

const ETCD: Recipe = Recipe {
    packages: &[Package::Named("etcd-server")],
    files: &["usr/bin/etcd"],
    compiled: None,
    script: include_str!("scripts/etcd.sh"),
    vms: 3,
    memory_mib: 192,
};

const REDIS: Recipe = Recipe {
    packages: &[Package::Named("redis-server"), Package::Named("redis-tools")],
    files: &["usr/bin/redis-server"],
    compiled: None,
    script: include_str!("scripts/redis.sh"),
    vms: 3,
    memory_mib: 160,
};

const POSTGRES: Recipe = Recipe {
    packages: &[
        Package::Behind {
            meta: "postgresql",
            prefix: "postgresql-",
        },
        Package::Behind {
            meta: "postgresql-client",
            prefix: "postgresql-client-",
        },
    ],
    files: &[
        "usr/lib/postgresql/*/bin/postgres",
        "usr/lib/postgresql/*/bin/initdb",
        "usr/lib/postgresql/*/bin/pg_basebackup",
        "usr/lib/postgresql/*/lib/libpqwalreceiver.so",
        "usr/lib/postgresql/*/lib/plpgsql.so",
        "usr/lib/postgresql/*/lib/dict_snowball.so",
        "usr/share/postgresql/*",
    ],
    compiled: None,
    script: include_str!("scripts/postgres.sh"),
    vms: 2,
    memory_mib: 384,
};

const MPI: Recipe = Recipe {
    packages: &[
        Package::Named("mpich"),
        Package::Named("libmpich12"),
        Package::Named("libmpich-dev"),
    ],
    files: &["usr/bin/mpiexec.hydra", "usr/bin/hydra_pmi_proxy"],
    compiled: Some(Compiled {
        path: "usr/bin/transhume-ring",
        source: include_str!("scripts/ring.c"),
        header: "mpi.h",
        library: "libmpich.so.12",
    }),
    script: include_str!("scripts/mpi.sh"),
    vms: 4,
    memory_mib: 224,
};

/// An app's.
pub fn of(app: App) -> &'static Recipe {
    match app {
        App::Etcd => &ETCD,
        App::Redis => &REDIS,
        App::Postgres => &POSTGRES,
        App::Mpi => &MPI,
    }
}
