//! A VM just moved, by the buffers' own steps; its old path is still open.

use transhume_netbuf::{PlugState, Responsiveness, SourceBuffer, Tap, TargetBuffer};

use super::{Guest, build, no_events, source_config, tap, target_config};

/// The source's guest is stopped, the target's runs, and nothing was sent meanwhile. Buffers go
/// before guests, and those before taps.
pub struct Moved {
    pub source: SourceBuffer,
    pub target: TargetBuffer,
    pub source_guest: Guest,
    pub target_guest: Guest,
    pub source_tap: Tap,
    pub target_tap: Tap,
}

impl Moved {
    /// Builds the network and moves a VM from `src` to `dst`.
    pub fn new() -> Self {
        build();
        let source_tap = tap("src", "br-a", PlugState::Open);
        let target_tap = tap("dst", "br-b", PlugState::Shut);
        let (source_guest, target_guest) = (Guest::new(&source_tap, true), Guest::new(&target_tap, false));
        source_guest.send([0xff; 6], 1 << 40);
        let mut source = SourceBuffer::open(source_config(64 << 20), &source_tap, no_events()).unwrap();
        let mut target = TargetBuffer::open(target_config(), &target_tap, no_events()).unwrap();
        source.connect(&target.endpoint()).unwrap();
        source.announce().unwrap();
        source.shut(Responsiveness::Taking).unwrap();
        source_guest.run(false);
        source.capture().unwrap();
        source.committed();
        target_guest.run(true);
        target.activate().unwrap();
        Moved {
            source,
            target,
            source_guest,
            target_guest,
            source_tap,
            target_tap,
        }
    }
}
