//! How long what a move writes can become, known before it begins: a journal may have no room for
//! it, and that is told then.

use super::request::MoveRequest;

/// What an agent says of a trouble is cut to it, bytes.
pub const WORDS_BYTES_MAX: usize = 1_000;
/// What one write may bring of each VM: its part of the report, what is known of it at a decision,
/// and one entry of each kind that is a VM's own, all with the longest names, words and numbers.
pub const VM_BYTES_MAX: usize = 32_000;
/// The same of the move itself, without what its request has.
const MOVE_BYTES_MAX: usize = 16_000;

/// At the end of what was cut.
const CUT: char = '…';

/// Words of others, as they are kept: none of them takes more than two bytes of JSON for one of its
/// own.
pub fn words(text: &str) -> String {
    let mut kept = String::new();
    for letter in text.chars() {
        let letter = if letter.is_control() { ' ' } else { letter };
        if kept.len() + letter.len_utf8() > WORDS_BYTES_MAX - CUT.len_utf8() {
            kept.push(CUT);
            break;
        }
        kept.push(letter);
    }
    kept
}

impl MoveRequest {
    /// No write of this move is longer, in bytes of JSON.
    pub fn write_bytes_max(&self) -> usize {
        let own = serde_json::to_vec(self).map_or(0, |json| json.len());
        let vms: usize = self.batches.iter().map(Vec::len).sum();
        // Hosts and what was assumed of VMs are in the report once more.
        2 * own + vms * VM_BYTES_MAX + MOVE_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;
    use transhume_model::{Bytes, Epoch, HostName, Interval, MigrationId, Millis, VmName, WallMicros};

    use super::*;
    use crate::forecast::{Comparison, Expected, ForecastVsActual, VmComparison};
    use crate::message::{
        ActivationTimes, CaptureTimes, ClassPages, CopyTimes, Fault, FaultKind, GuestState, Mode, OldPath,
        PageClasses, PageProgress, PlainBytes, SourceFrames, TargetFrames,
    };
    use crate::migration::decision::{Ran, Resolvable};
    use crate::migration::{Cleaning, ClockUse, JournalEntry, RunOn, VmSoFar, trouble};
    use crate::report::{
        BlackoutParts, Ending, Frames, MigrationReport, PhaseTime, Reclaimed, SourceLoss, Trouble, VmLoss,
        VmReport,
    };
    use crate::step::{Phase, Side, Step};

    /// No number of JSON is longer: 24 letters.
    const FLOAT: f64 = -2.225_073_858_507_201_4e-308;
    const WALL: WallMicros = WallMicros(u64::MAX);
    const BYTES: Bytes = Bytes(u64::MAX);

    fn bytes(value: &impl Serialize) -> usize {
        serde_json::to_vec(value).unwrap().len()
    }

    fn host() -> HostName {
        "h".repeat(253).parse().unwrap()
    }

    /// Each letter takes two.
    fn vm() -> VmName {
        "\"".repeat(200).parse().unwrap()
    }

    fn long_words() -> String {
        words(&"\"".repeat(1 << 20))
    }

    fn class() -> ClassPages {
        ClassPages {
            pages: u64::MAX,
            bytes: BYTES,
        }
    }

    fn pages() -> PageProgress {
        PageProgress {
            total: BYTES,
            transferred: BYTES,
            remaining: BYTES,
            wire: BYTES,
            classes: PageClasses {
                zero: class(),
                fill: class(),
                known: class(),
                delta: class(),
                wkdm: class(),
                lz4: class(),
                zstd: class(),
                raw: class(),
                lzo: class(),
            },
            plain: PlainBytes {
                fast_link: BYTES,
                not_understood: BYTES,
                way_changes: u32::MAX,
            },
            rounds: u64::MAX,
            dirty_per_second: BYTES,
            blackout: Millis(u64::MAX),
        }
    }

    fn interval() -> Interval {
        Interval {
            low: FLOAT,
            high: FLOAT,
        }
    }

    fn figure() -> ForecastVsActual {
        ForecastVsActual {
            forecast: interval(),
            actual: Some(FLOAT),
            inside: Some(false),
        }
    }

    fn comparison() -> Comparison {
        Comparison {
            bytes: figure(),
            duration_ms: figure(),
            blackout_ms: figure(),
            gap_ms: Some(figure()),
        }
    }

    fn frames() -> Frames {
        Frames {
            captured: u64::MAX,
            delivered: u64::MAX,
            lost: u64::MAX,
            duplicated: u64::MAX,
            reordered: u64::MAX,
            late: u64::MAX,
            broadcast: u64::MAX,
            own_echo: u64::MAX,
            untaken: u64::MAX,
            second_speaker: u64::MAX,
        }
    }

    /// Names and numbers in the longest hint of those that the machine makes itself.
    fn long_hint() -> String {
        let (vm, host) = (vm(), host());
        let open = [
            Resolvable::OnlyCopyOnTarget,
            Resolvable::TargetLost,
            Resolvable::LostOnTarget,
        ];
        let decisions = open.map(|open| open.hint(MigrationId(u64::MAX), &vm, &host, Ran::Maybe));
        let cluster = "c".repeat(63).parse().unwrap();
        let others = [
            trouble::restart_elsewhere(&cluster, &vm, &host),
            trouble::start_again(&cluster, &vm),
        ];
        let longest = decisions.into_iter().chain(others).max_by_key(bytes);
        longest.unwrap()
    }

    /// Each field is named, so that a new one has to be thought of here.
    fn vm_report() -> VmReport {
        VmReport {
            id: vm(),
            batch: usize::MAX,
            source: host(),
            target: host(),
            host: host(),
            guest: GuestState::DiskError,
            lost: Some(VmLoss {
                reason: long_words(),
                hint: long_hint(),
            }),
            source_lost: Some(SourceLoss {
                host: host(),
                frames_lost: Some(u64::MAX),
                delivered: u64::MAX,
            }),
            reclaimed: Some(Reclaimed {
                from: host(),
                may_have_run: false,
            }),
            phase: Phase::StopAndCopy,
            blackout_ms: Some(FLOAT),
            blackout_parts: Some(BlackoutParts {
                capture_ms: FLOAT,
                memory_ms: FLOAT,
                device_ms: FLOAT,
                commit_ms: FLOAT,
                resume_ms: FLOAT,
            }),
            gap_ms: Some(FLOAT),
            clock_uncertainty_ms: Some(FLOAT),
            // Two hosts, and the longest sentence about them with two numbers.
            clocks: Some(host().to_string().repeat(2) + &"x".repeat(300)),
            frames: Some(frames()),
            old_path: Some(OldPath::Lingered),
            buffer_peak_bytes: u64::MAX,
            pages: pages(),
            ready_ms: Some(FLOAT),
            phases: vec![
                PhaseTime {
                    phase: Phase::StopAndCopy,
                    ms: FLOAT,
                };
                Phase::ALL.len()
            ],
            forecast: Some(VmComparison {
                rate_mbit_s: FLOAT,
                dirty_mib_s: Some(interval()),
                // In the request as well, and counted there.
                assumed: Vec::new(),
                modelled: Some(Expected {
                    bytes: interval(),
                    duration_ms: interval(),
                    blackout_ms: interval(),
                    gap_ms: Some(interval()),
                }),
                figures: comparison(),
            }),
        }
    }

    fn vm_so_far() -> VmSoFar {
        let clock = ClockUse {
            taken_as_they_are: false,
            uncertainty_us: Some(u64::MAX),
        };
        VmSoFar {
            vm: vm(),
            guest: GuestState::DiskError,
            capture: Some(CaptureTimes {
                begun_at: WALL,
                shut_at: WALL,
                empty_at: WALL,
                stopped_at: WALL,
                capturing_at: WALL,
            }),
            copy: Some(CopyTimes {
                begun_at: WALL,
                pre_switchover_at: WALL,
                completed_at: WALL,
            }),
            loaded_at: Some(WALL),
            pages: pages(),
            ready_at: Some(WALL),
            entered: vec![(Phase::StopAndCopy, WALL); Phase::ALL.len()],
            capture_sent_at: Some(WALL),
            source_clock: clock,
            target_clock: clock,
        }
    }

    fn source_frames() -> SourceFrames {
        SourceFrames {
            captured: u64::MAX,
            bytes: BYTES,
            broadcast: u64::MAX,
            own_echo: u64::MAX,
            dropped: u64::MAX,
            put_back: u64::MAX,
            untaken: u64::MAX,
            second_speaker: u64::MAX,
            peak: BYTES,
            old_path: Some(OldPath::Lingered),
            last_sent_at: Some(WALL),
        }
    }

    fn target_frames() -> TargetFrames {
        TargetFrames {
            delivered: u64::MAX,
            broadcast: u64::MAX,
            duplicated: u64::MAX,
            reordered: u64::MAX,
            late: u64::MAX,
            untaken: u64::MAX,
            given_up: u64::MAX,
            dropped: u64::MAX,
            peak: BYTES,
            first_sent_at: Some(WALL),
        }
    }

    /// Entries of one VM. Those of two hosts are there twice.
    fn own_entries() -> Vec<JournalEntry> {
        let (vm, host, at) = (vm(), host(), WALL);
        let given_up = JournalEntry::GivenUp {
            vm: vm.clone(),
            side: Side::Source,
            host: host.clone(),
            at,
        };
        let left_behind = JournalEntry::LeftBehind {
            vm: vm.clone(),
            host: host.clone(),
            at,
            clean: Cleaning::RestoreSource,
        };
        vec![
            given_up.clone(),
            given_up,
            left_behind.clone(),
            left_behind,
            JournalEntry::PutOff {
                vm: vm.clone(),
                batch: usize::MAX,
                into: usize::MAX,
                epoch: Epoch(u64::MAX),
                at,
            },
            JournalEntry::VmActivated {
                vm: vm.clone(),
                at,
                times: ActivationTimes {
                    begun_at: at,
                    running_at: at,
                    injected_at: at,
                    announced_at: at,
                },
            },
            JournalEntry::VmClosed {
                vm: vm.clone(),
                at,
                source: Some(source_frames()),
                target: Some(target_frames()),
                without_fin: true,
            },
            JournalEntry::Resolved {
                vm: vm.clone(),
                at,
                run_on: RunOn::Nowhere,
                although_it_may_have_run: true,
            },
            JournalEntry::VmLost {
                vm: vm.clone(),
                at,
                host,
                fault: Fault::new(FaultKind::AgentRestarted, long_words()).with_hint(long_words()),
            },
            JournalEntry::VmDiscarded {
                vm: vm.clone(),
                at,
                source: Some(source_frames()),
            },
            JournalEntry::VmRestored {
                vm,
                at,
                restored_at: Some(at),
                source: Some(source_frames()),
            },
        ]
    }

    fn whole_trouble() -> Trouble {
        Trouble {
            step: Step::ALL.into_iter().max_by_key(bytes).unwrap(),
            host: Some(host()),
            vm: Some(vm()),
            reason: long_words(),
            hint: long_words(),
        }
    }

    fn report() -> MigrationReport {
        MigrationReport {
            migration: MigrationId(u64::MAX),
            cluster: "c".repeat(63).parse().unwrap(),
            outcome: Ending::CommittedWithLoss,
            mode: Mode::Offline,
            // Those of the request.
            from: Vec::new(),
            to: Vec::new(),
            used: Vec::new(),
            batch: usize::MAX,
            started_at: WALL,
            duration_ms: FLOAT,
            frames: frames(),
            vms: Vec::new(),
            forecast: Some(comparison()),
            trouble: Some(whole_trouble()),
            waiting: Vec::new(),
        }
    }

    /// The bounds are what the worst of everything takes, rounded up by a tenth at least.
    #[test]
    fn the_worst_that_a_vm_and_a_move_can_write_is_within_the_bounds() {
        // Its name once more where batches are cut anew, its target among the hosts that were used.
        let of_vm = bytes(&vm_report())
            + bytes(&vm_so_far())
            + bytes(&own_entries())
            + bytes(&vm())
            + bytes(&host())
            + 8;
        let of_move = bytes(&report())
            + bytes(&JournalEntry::RollingBack {
                batch: usize::MAX,
                at: WALL,
                trouble: whole_trouble(),
                refused: false,
                put_off: Some(vm()),
                vms: Vec::new(),
            })
            + 4 * 200;
        eprintln!(
            "a VM: {of_vm} (report {}, so far {}, entries {}); a move: {of_move}",
            bytes(&vm_report()),
            bytes(&vm_so_far()),
            bytes(&own_entries())
        );
        assert!(of_vm * 11 / 10 <= VM_BYTES_MAX, "a VM takes {of_vm}");
        assert!(of_vm * 3 / 2 > VM_BYTES_MAX, "the bound is far too high: {of_vm}");
        assert!(of_move * 11 / 10 <= MOVE_BYTES_MAX, "a move takes {of_move}");
    }

    #[test]
    fn words_of_others_are_cut_between_letters_and_hold_nothing_that_takes_six_bytes() {
        for text in ["\u{1}", "\"", "ü", "…", "𐍈", "a"] {
            let kept = words(&text.repeat(2_000));
            assert!(kept.len() <= WORDS_BYTES_MAX, "{text:?}: {}", kept.len());
            assert!(bytes(&kept) <= 2 * WORDS_BYTES_MAX + 2, "{text:?}");
            assert!(kept.ends_with('…'), "{text:?}");
        }
        assert_eq!(words("no\nroom"), "no room");
        let fits = "a".repeat(WORDS_BYTES_MAX - 3);
        assert_eq!(words(&fits), fits);
    }
}
