//! Real clusters move, and whoever uses them notices nothing but a delay: etcd, Redis, PostgreSQL
//! and MPI from the distribution's packages, each VM of them with a client. Times are not judged
//! here, nor are elections: a starved machine holds them without a move.

mod user;

use user::{moved, raise_within, says};

/// Packages are fetched the first time, and a database initializes itself under emulation.
const UP_MAX: std::time::Duration = std::time::Duration::from_secs(400);

/// There one VM after the other, and back all at once.
fn moves_and_serves(app: &str) {
    let arguments = ["lab", "up", "--app", app, "--workload", "none"];
    let lab = raise_within(&arguments, UP_MAX);
    let vms = lab.open().state.vms.len();
    let begun = says("lab app --json").succeeded().json();
    assert_eq!(begun["app"], app, "{begun}");
    moved("migrate lab --from h1,h2 --to h3,h4 --batch 1");
    moved(&format!("migrate lab --from h3,h4 --to h1,h2 --batch {vms}"));
    let hosts = lab.hosts_of_vms();
    assert!(
        hosts.iter().all(|host| ["h1", "h2"].contains(&host.as_str())),
        "{hosts:?}"
    );
    let seen = says("lab app --json").succeeded().json();
    let total = &seen["total"];
    assert_eq!(total["serving"], true, "{seen}");
    for checker in seen["vms"].as_array().expect("a list of VMs") {
        assert!(checker["operations"].as_u64() > Some(0), "{seen}");
    }
    for count in ["failed", "wrong"] {
        assert_eq!(total[count], 0, "{count}: {seen}");
    }
    for count in ["link_breaks", "full_copies"] {
        assert_eq!(total["cluster"][count], 0, "{count}: {seen}");
    }
    let shown = says("lab app");
    assert!(shown.succeeded().stdout.contains("SLOWEST ms"), "{shown:?}");
}

#[test]
fn etcd_serves_while_its_members_move() {
    moves_and_serves("etcd");
}

#[test]
fn redis_keeps_its_replicas_while_they_move() {
    moves_and_serves("redis");
}

#[test]
fn postgres_keeps_its_standby_while_both_move() {
    moves_and_serves("postgres");
}

#[test]
fn a_ring_of_mpi_goes_round_while_its_ranks_move() {
    moves_and_serves("mpi");
}
