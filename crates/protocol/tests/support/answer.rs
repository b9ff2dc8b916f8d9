//! What a well-behaved agent answers.

use std::net::SocketAddr;

use transhume_model::*;
use transhume_protocol::message::*;

/// Orders in the course of a move without faults. `Converge` is the second answer to `PreCopy`.
pub const COURSE: [&str; 15] = [
    "Reserve",
    "Prepare",
    "PreCopy",
    "OpenSourceBuffer",
    "OpenTargetBuffer",
    "ConnectBuffers",
    "Converge",
    "Capture",
    "StopAndCopy",
    "AwaitLoaded",
    "Activate",
    "Commit",
    "CloseSourceBuffer",
    "CloseTargetBuffer",
    "Discard",
];

pub fn address(port: u16) -> Endpoint {
    Endpoint {
        host: "b".parse().unwrap(),
        address: SocketAddr::from(([10, 0, 0, 1], port)),
        secret: Secret::new([7; Secret::BYTES]),
    }
}

pub fn pages() -> PageProgress {
    let total = Bytes(96 << 20);
    PageProgress {
        total,
        transferred: total,
        wire: total,
        rounds: 2,
        ..PageProgress::default()
    }
}

pub fn natural(command: &str, at: WallMicros) -> Outcome {
    match command {
        "Reserve" => Outcome::Reserved,
        "Prepare" => Outcome::Prepared {
            page_stream: address(1),
        },
        "PreCopy" => Outcome::PreCopying,
        "Converge" => Outcome::Converged(pages()),
        "OpenSourceBuffer" => Outcome::SourceBufferOpen,
        "OpenTargetBuffer" => Outcome::TargetBufferOpen {
            tunnels: vec![address(2)],
        },
        "ConnectBuffers" => Outcome::BuffersConnected,
        "Capture" => Outcome::Captured {
            guest: GuestState::Running,
            times: CaptureTimes {
                begun_at: at,
                shut_at: at,
                empty_at: at,
                stopped_at: at,
                capturing_at: at,
            },
        },
        "StopAndCopy" => Outcome::Copied {
            pages: pages(),
            times: CopyTimes {
                begun_at: at,
                pre_switchover_at: at,
                completed_at: at,
            },
        },
        "AwaitLoaded" => Outcome::Loaded { loaded_at: at },
        "Activate" => Outcome::Activated(ActivationTimes {
            begun_at: at,
            running_at: at,
            injected_at: at,
            announced_at: at,
        }),
        "Commit" => Outcome::CommitNoted,
        "CloseSourceBuffer" => Outcome::SourceClosed(SourceFrames {
            captured: 40,
            last_sent_at: Some(at - WallMicros(30_000)),
            old_path: Some(OldPath::Marker),
            ..SourceFrames::default()
        }),
        "CloseTargetBuffer" | "OpenPlug" => Outcome::TargetClosed(TargetFrames {
            delivered: 40,
            first_sent_at: Some(at),
            ..TargetFrames::default()
        }),
        "Discard" => Outcome::Discarded { frames: None },
        "AbortSource" | "Reclaim" => Outcome::SourceRestored(SourceFrames {
            captured: 7,
            put_back: 7,
            ..SourceFrames::default()
        }),
        "AbortTarget" => Outcome::TargetDropped,
        other => panic!("no order is called {other}"),
    }
}

pub fn refusal(kind: RefusalKind) -> Outcome {
    let (reason, hint) = (
        "host t1 has 64 MiB free, 96 MiB are asked".to_owned(),
        "take another host".to_owned(),
    );
    Outcome::Refused(Refusal { kind, reason, hint })
}

pub fn fault(kind: FaultKind) -> Outcome {
    Outcome::Failed(Fault::new(kind, "it broke"))
}

pub fn host_state(host: HostName) -> HostState {
    HostState {
        protocol: PROTOCOL_VERSION,
        release: None,
        host,
        agent_run: 1,
        capacity: Capacity::default(),
        free: Capacity::default(),
        qemu: None,
        qemu_error: None,
        mtu_max: 1500,
        vms: Vec::new(),
        stranded: Vec::new(),
        bands: None,
        no_throttle: None,
        insecure: true,
        certificate: None,
        dirty: Default::default(),
    }
}
