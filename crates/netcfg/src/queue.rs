//! Token bucket filters at the root of a link: tc-tbf(8), linux/pkt_sched.h.

use std::io;

use netlink_packet_core::{DefaultNla, Nla, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};

use crate::socket::{Mode, Netlink};

const KIND: &str = "tbf";
/// "1:" – ours; any number would do.
const HANDLE: TcHandle = TcHandle { major: 1, minor: 0 };
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const LINKLAYER_ETHERNET: u8 = 1;
/// Where the rate stands in the parameters: the last field of struct tc_ratespec, which comes
/// first.
const RATE_AT: usize = 8;

/// The settings of a token bucket filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBucket {
    /// Rate.
    pub bytes_per_s: u64,
    /// Bytes that may go at once; a longer frame is dropped.
    pub burst_bytes: u32,
    /// Bytes that may wait.
    pub queue_bytes_max: u32,
}

/// What a root queue holds and has dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueState {
    /// Frames that wait in it.
    pub waiting_frames: u32,
    /// Frames that it, or the link behind it, dropped since they were made.
    pub dropped_frames: u64,
    /// Frames that left the link: for a tap, those that were read.
    pub passed_frames: u64,
    /// Whether the link is up; one that is down loses what is sent to it.
    pub up: bool,
    /// Rate of the filter, where it has one of 32 bits.
    pub bytes_per_s: Option<u64>,
}

impl TokenBucket {
    /// The library knows no options of this filter, so they are laid out here: struct tc_tbf_qopt,
    /// burst, 64-bit rate.
    fn options(&self) -> Vec<TcOption> {
        let option = |kind, bytes| TcOption::Other(DefaultNla::new(kind, bytes));
        // struct tc_ratespec: cell_log, linklayer, overhead, cell_align, mpu, rate.
        let rate = u32::try_from(self.bytes_per_s).unwrap_or(u32::MAX);
        let mut parameters = vec![0, LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0];
        parameters.extend(rate.to_ne_bytes());
        // No peak rate; then limit, buffer and mtu, of which the kernel takes the first from here.
        parameters.extend([0; 12]);
        parameters.extend(self.queue_bytes_max.to_ne_bytes());
        parameters.extend([0; 8]);
        let mut options = vec![
            option(TCA_TBF_PARMS, parameters),
            option(TCA_TBF_BURST, self.burst_bytes.to_ne_bytes().to_vec()),
        ];
        if rate == u32::MAX {
            options.push(option(TCA_TBF_RATE64, self.bytes_per_s.to_ne_bytes().to_vec()));
        }
        options
    }

    fn message(&self, index: u32) -> RouteNetlinkMessage {
        let mut message = TcMessage::with_index(index as i32);
        message.header.handle = HANDLE;
        message.header.parent = TcHandle::ROOT;
        message.attributes = vec![
            TcAttribute::Kind(KIND.to_owned()),
            TcAttribute::Options(self.options()),
        ];
        RouteNetlinkMessage::NewQueueDiscipline(message)
    }
}

/// The rate of a filter as the kernel dumps it: the library keeps the options of a kind that it
/// does not know as one attribute, in whose value the filter's own lie.
fn rate_of(options: &[TcOption]) -> Option<u64> {
    let [TcOption::Other(options)] = options else {
        return None;
    };
    let mut bytes = vec![0; options.value_len()];
    options.emit_value(&mut bytes);
    let mut inner = NlasIterator::new(&bytes).flatten();
    let parameters = inner.find(|option| option.kind() == TCA_TBF_PARMS)?;
    let rate = parameters.value().get(RATE_AT..)?.first_chunk()?;
    Some(u64::from(u32::from_ne_bytes(*rate))).filter(|rate| *rate != u64::from(u32::MAX))
}

impl Netlink {
    /// Installs the filter at the root of a link.
    pub fn add_queue(&mut self, index: u32, settings: &TokenBucket) -> io::Result<()> {
        self.order(Mode::Put, settings.message(index))
    }

    /// Changes it; frames in it stay.
    pub fn change_queue(&mut self, index: u32, settings: &TokenBucket) -> io::Result<()> {
        self.order(Mode::Change, settings.message(index))
    }

    /// What is in the root queue of a link, and what was dropped.
    pub fn queue_state(&mut self, index: u32) -> io::Result<QueueState> {
        let link = self.link_counts(index)?;
        let mut state = QueueState {
            waiting_frames: 0,
            dropped_frames: link.dropped,
            passed_frames: link.passed,
            up: link.up,
            bytes_per_s: None,
        };
        let question = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::with_index(index as i32));
        self.dump(question, |message| {
            let RouteNetlinkMessage::NewQueueDiscipline(queue) = message else {
                return;
            };
            if queue.header.index != index as i32 || queue.header.parent != TcHandle::ROOT {
                return;
            }
            for attribute in &queue.attributes {
                match attribute {
                    TcAttribute::Stats(stats) => {
                        state.waiting_frames = stats.qlen;
                        state.dropped_frames += u64::from(stats.drops);
                    }
                    TcAttribute::Options(options) => state.bytes_per_s = rate_of(options),
                    _ => {}
                }
            }
        })?;
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable;

    use super::*;

    fn emitted(options: &[TcOption]) -> Vec<u8> {
        let mut bytes = vec![0; options.buffer_len()];
        options.emit(&mut bytes);
        bytes
    }

    #[test]
    fn the_options_are_laid_out_as_pkt_sched_says() {
        let bytes = emitted(
            &TokenBucket {
                bytes_per_s: 1,
                burst_bytes: 1518,
                queue_bytes_max: 4096,
            }
            .options(),
        );
        assert_eq!(bytes.len(), 40 + 8);
        assert_eq!(bytes[..4], [40, 0, 1, 0]);
        assert_eq!(bytes[12..16], 1u32.to_ne_bytes());
        assert_eq!(bytes[28..32], 4096u32.to_ne_bytes());
        assert_eq!(
            bytes[40..48],
            [&[8u8, 0, 6, 0][..], &1518u32.to_ne_bytes()].concat()[..]
        );
    }

    #[test]
    fn the_rate_is_read_back_where_it_has_32_bits() {
        for (bytes_per_s, read) in [(1, Some(1)), (1 << 36, None)] {
            let settings = TokenBucket {
                bytes_per_s,
                burst_bytes: 1518,
                queue_bytes_max: 4096,
            };
            let dumped = TcOption::Other(DefaultNla::new(2, emitted(&settings.options())));
            assert_eq!(rate_of(&[dumped]), read);
        }
    }

    #[test]
    fn a_rate_above_32_bits_goes_into_its_own_attribute() {
        let bytes = emitted(
            &TokenBucket {
                bytes_per_s: 1 << 36,
                burst_bytes: 1,
                queue_bytes_max: 1,
            }
            .options(),
        );
        assert_eq!(bytes[12..16], u32::MAX.to_ne_bytes());
        assert_eq!(
            bytes[48..60],
            [&[12u8, 0, 4, 0][..], &(1u64 << 36).to_ne_bytes()].concat()[..]
        );
    }
}
