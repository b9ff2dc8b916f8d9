//! Hosts, clusters, and what clusters ask of hosts.

use super::*;

pub(super) fn hosts() -> HostList {
    let qemu = QemuState {
        version: Version {
            major: 10,
            minor: 0,
            micro: 2,
        },
        machines: vec![MachineType("pc-q35-10.0".into())],
        accel: "tcg".into(),
    };
    let amount = Some(Capacity {
        vcpus: Vcpus(4),
        memory: Mebibytes(1024),
    });
    let there = HostView {
        name: host("h1"),
        connected: true,
        away: None,
        release: Some("0.4.0".into()),
        protocol: Some(6),
        capacity: amount,
        free: amount,
        qemu: Some(qemu),
        qemu_error: None,
        vms: vec![vm("vm1")],
        stranded: vec![Stranded {
            vm: vm("vm2"),
            what: "QEMU with pid 71 and no record".into(),
            hint: "end it by hand".into(),
        }],
        bands: Some(BandsState {
            vmct: Some(BandRates {
                guaranteed: rate("500mbit"),
                ceiling: rate("1gbit"),
            }),
            put_back: 1,
            trouble: Some(Fault::new(FaultKind::Network, "somebody has a queue there")),
        }),
        insecure: false,
        certificate: Some(CertificateState {
            until: WallMicros(1_800_000_000_000_000),
            ends_soon: false,
        }),
        clock: Some(ClockView {
            offset_ms: -3.5,
            uncertainty_ms: 0.25,
        }),
        fenced_at: None,
        cordoned: true,
        leftovers: Vec::new(),
    };
    let away = HostView {
        name: host("h2"),
        connected: false,
        away: Some("connection refused".into()),
        release: None,
        protocol: None,
        capacity: None,
        free: None,
        qemu: None,
        qemu_error: Some("it is not installed".into()),
        vms: Vec::new(),
        stranded: Vec::new(),
        bands: None,
        insecure: true,
        certificate: None,
        clock: None,
        fenced_at: Some(WallMicros(1_800_000_000_000_000)),
        cordoned: false,
        leftovers: vec![vm("vm3")],
    };
    HostList {
        hosts: vec![there, away],
    }
}

fn rate(text: &str) -> BitRate {
    text.parse().unwrap()
}

pub(super) fn line(migration: Option<MigrationId>) -> ClusterLine {
    ClusterLine {
        name: lab(),
        stage: ClusterStage::Live,
        vms: 2,
        hosts: vec![host("h1")],
        migration,
    }
}

pub(super) fn view() -> ClusterView {
    let roles = [
        VmRole::Home,
        VmRole::Source,
        VmRole::Left,
        VmRole::Expected,
        VmRole::Target,
        VmRole::Arrived,
        VmRole::Off,
    ];
    let roles = roles.into_iter().map(Some).chain([None]);
    let vms = VmLife::ALL
        .into_iter()
        .zip(roles.cycle())
        .map(|(state, role)| VmView {
            id: vm("vm1"),
            host: host("h1"),
            state,
            role,
            demand: Demand {
                vcpus: Vcpus(1),
                memory: Mebibytes(96),
            },
        });
    ClusterView {
        name: lab(),
        stage: ClusterStage::Starting,
        migration: None,
        vms: vms.collect(),
    }
}

pub(super) fn cluster() -> ClusterSpec {
    let nbd = Disk::Nbd {
        host: "10.0.0.9".into(),
        port: 10809,
        export: "vm1".into(),
    };
    let spec = VmSpec {
        name: vm("vm1"),
        cluster: lab(),
        vcpus: Vcpus(1),
        memory: Mebibytes(96),
        machine: Some(MachineType("pc-q35-10.0".into())),
        nics: vec![NicSpec {
            mac: "52:54:00:00:00:01".parse().unwrap(),
            mtu: 1500,
        }],
        disks: vec![
            nbd,
            Disk::File {
                path: "/shared/vm1".into(),
            },
        ],
        boot: Boot {
            kernel: "/k".into(),
            initrd: "/i".into(),
            cmdline: "quiet".into(),
        },
    };
    ClusterSpec {
        name: lab(),
        vms: vec![PlacedVm {
            host: host("h1"),
            spec,
        }],
        rules: rules(),
    }
}

pub(super) fn rules() -> PlacementRules {
    PlacementRules {
        groups: vec![Group {
            name: "replicas".into(),
            kind: GroupKind::AntiAffinity,
            vms: vec![vm("vm1"), vm("vm2")],
        }],
        vms: [(
            vm("vm1"),
            VmRules {
                pin: vec![host("h1")],
                selector: [("zone".into(), "a".into())].into(),
                weight: Some(10),
            },
        )]
        .into(),
    }
}
