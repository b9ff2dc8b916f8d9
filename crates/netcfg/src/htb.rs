//! The bands' tree of queues: tc-htb(8), linux/pkt_sched.h. What is there is read, and single steps
//! are carried out; which ones is decided by `transhume_bands`.

use std::io;

use netlink_packet_core::{DefaultNla, Emitable, Nla, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle, TcMessage, TcOption, TcU32Key, TcU32Selector,
    TcU32SelectorFlags,
};
use transhume_bands::limits::{QUANTUM_BYTES, QUEUE_BYTES};
use transhume_bands::{Class, Filter, HANDLE, Key, Previous, Root, Step};

use crate::socket::{Mode, Netlink};

const KIND: &str = "htb";
const QUEUE: &str = "bfifo";
const TCA_OPTIONS: u16 = 2;
const TCA_HTB_PARMS: u16 = 1;
const TCA_HTB_INIT: u16 = 2;
const TCA_HTB_RATE64: u16 = 6;
const TCA_HTB_CEIL64: u16 = 7;
/// `TC_HTB_PROTOVER`.
const VERSION: u32 = 3;
const LINKLAYER_ETHERNET: u8 = 1;
/// struct tc_ratespec.
const RATESPEC_BYTES: usize = 12;
const ETH_P_ALL: u16 = 0x0003;

fn ours(minor: u16) -> TcHandle {
    TcHandle { major: HANDLE, minor }
}

fn message(index: u32, parent: TcHandle, handle: TcHandle, kind: &str) -> TcMessage {
    let mut message = TcMessage::with_index(index as i32);
    message.header.parent = parent;
    message.header.handle = handle;
    message.attributes = vec![TcAttribute::Kind(kind.to_owned())];
    message
}

fn raw(kind: u16, bytes: Vec<u8>) -> TcOption {
    TcOption::Other(DefaultNla::new(kind, bytes))
}

/// Fields of the machine's byte order, one after the other.
fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn root(index: u32, default: u16) -> TcMessage {
    let mut message = message(index, TcHandle::ROOT, ours(0), KIND);
    // struct tc_htb_glob: version, rate2quantum, defcls, debug, direct_pkts.
    let glob = words(&[VERSION, 10, u32::from(default), 0, 0]);
    let options = TcAttribute::Options(vec![raw(TCA_HTB_INIT, glob)]);
    message.attributes.push(options);
    message
}

/// struct tc_ratespec: cell_log, linklayer, overhead, cell_align, mpu, rate.
fn ratespec(bytes_per_s: u64) -> [u8; RATESPEC_BYTES] {
    let mut spec = [0; RATESPEC_BYTES];
    spec[1] = LINKLAYER_ETHERNET;
    let rate = u32::try_from(bytes_per_s).unwrap_or(u32::MAX);
    spec[8..].copy_from_slice(&rate.to_ne_bytes());
    spec
}

fn class(index: u32, class: &Class) -> TcMessage {
    let mut message = message(index, ours(class.parent), ours(class.minor), KIND);
    // struct tc_htb_opt: rate, ceil, buffer, cbuffer, quantum, level, prio.
    let mut parameters = ratespec(class.bytes_per_s).to_vec();
    parameters.extend(ratespec(class.ceil_bytes_per_s));
    let (burst, ceil_burst) = (class.burst_ticks, class.ceil_burst_ticks);
    parameters.extend(words(&[burst, ceil_burst, QUANTUM_BYTES, 0, class.priority]));
    let long = |kind, rate: u64| {
        let needed = u32::try_from(rate).is_err();
        needed.then(|| raw(kind, rate.to_ne_bytes().to_vec()))
    };
    let mut options = vec![raw(TCA_HTB_PARMS, parameters)];
    options.extend(long(TCA_HTB_RATE64, class.bytes_per_s));
    options.extend(long(TCA_HTB_CEIL64, class.ceil_bytes_per_s));
    message.attributes.push(TcAttribute::Options(options));
    message
}

/// A plain queue below a leaf. Its handle is the class's minor number, so that it is found in
/// dumps.
fn queue(index: u32, minor: u16) -> TcMessage {
    let handle = TcHandle {
        major: HANDLE + minor,
        minor: 0,
    };
    let mut message = message(index, ours(minor), handle, QUEUE);
    // struct tc_fifo_qopt is the attribute itself, not one within it.
    let limit = DefaultNla::new(TCA_OPTIONS, words(&[QUEUE_BYTES]));
    message.attributes.push(TcAttribute::Other(limit));
    message
}

fn filters(index: u32, preference: u16, protocol: u16) -> TcMessage {
    let mut message = message(index, ours(0), TcHandle::UNSPEC, TcFilterU32::KIND);
    message.header.info = u32::from(preference) << 16 | u32::from(protocol.to_be());
    message
}

fn filter(index: u32, filter: &Filter) -> TcMessage {
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.keys = filter
        .keys
        .iter()
        .map(|key| {
            let mut wire = TcU32Key::default();
            (wire.mask, wire.val, wire.off) = (key.mask, key.value, i32::from(key.offset));
            wire
        })
        .collect();
    selector.nkeys = selector.keys.len() as u8;
    let mut message = filters(index, filter.preference, ETH_P_ALL);
    message.attributes.push(TcAttribute::Options(vec![
        TcOption::U32(TcFilterU32Option::ClassId(ours(filter.class))),
        TcOption::U32(TcFilterU32Option::Selector(selector)),
    ]));
    message
}

/// What went through a class since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClassCounts {
    /// Minor number of the class.
    pub minor: u16,
    /// Bytes sent.
    pub bytes: u64,
    /// Packets sent.
    pub packets: u32,
    /// Packets that its queue had no room for.
    pub dropped: u32,
    /// Times that it had to wait for its rate.
    pub overlimits: u32,
    /// Bytes that wait.
    pub waiting_bytes: u32,
}

impl Netlink {
    /// What went through our classes on a link; none where the root is not ours.
    pub fn class_counts(&mut self, index: u32) -> io::Result<Vec<ClassCounts>> {
        let mut counts = Vec::new();
        self.dump_classes(index, |class| {
            let stats = class.attributes.iter().find_map(|attribute| match attribute {
                TcAttribute::Stats(stats) => Some(stats),
                _ => None,
            });
            counts.extend(stats.map(|stats| ClassCounts {
                minor: class.header.handle.minor,
                bytes: stats.bytes,
                packets: stats.packets,
                dropped: stats.drops,
                overlimits: stats.overlimits,
                waiting_bytes: stats.backlog,
            }));
        })?;
        counts.sort_by_key(|class| class.minor);
        Ok(counts)
    }

    /// The queue at the root of a link, with our classes and filters where it is ours.
    pub fn root_queue(&mut self, index: u32) -> io::Result<Root> {
        let mut top = None;
        let mut has_parts = false;
        let question = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::with_index(index as i32));
        self.dump(question, |message| {
            let RouteNetlinkMessage::NewQueueDiscipline(queue) = message else {
                return;
            };
            if queue.header.index != index as i32 || queue.header.parent == TcHandle::INGRESS {
                return;
            }
            match queue.header.parent == TcHandle::ROOT {
                true => top = Some(queue),
                false => has_parts = true,
            }
        })?;
        let Some(top) = top.filter(|top| top.header.handle.major != 0) else {
            return Ok(Root::ByKernel);
        };
        let kind = kind_of(&top);
        let options = options_of(&top);
        if top.header.handle.major == HANDLE && kind == KIND {
            return Ok(Root::Ours {
                classes: self.classes(index)?,
                filters: self.filters(index)?,
                default: default_of(&options).unwrap_or(0),
            });
        }
        Ok(Root::Others(Previous {
            kind,
            major: top.header.handle.major,
            options,
            has_parts,
        }))
    }

    fn classes(&mut self, index: u32) -> io::Result<Vec<Class>> {
        let mut classes = Vec::new();
        self.dump_classes(index, |class| classes.extend(class_of(class)))?;
        // The kernel lists them in the order of its table: the ones above come first here.
        classes.sort_by_key(|class| (class.parent != 0, class.minor));
        Ok(classes)
    }

    fn dump_classes(&mut self, index: u32, mut take: impl FnMut(&TcMessage)) -> io::Result<()> {
        let question = RouteNetlinkMessage::GetTrafficClass(TcMessage::with_index(index as i32));
        self.dump(question, |message| {
            if let RouteNetlinkMessage::NewTrafficClass(class) = message
                && class.header.handle.major == HANDLE
            {
                take(&class);
            }
        })
    }

    fn filters(&mut self, index: u32) -> io::Result<Vec<Filter>> {
        let mut found = Vec::new();
        let mut question = TcMessage::with_index(index as i32);
        question.header.parent = ours(0);
        self.dump(RouteNetlinkMessage::GetTrafficFilter(question), |message| {
            if let RouteNetlinkMessage::NewTrafficFilter(filter) = message {
                found.extend(filter_of(&filter));
            }
        })?;
        found.sort_by_key(|filter| filter.preference);
        Ok(found)
    }

    /// Carries out one step on a link.
    pub fn take_step(&mut self, index: u32, step: &Step) -> io::Result<()> {
        use RouteNetlinkMessage as Message;
        match step {
            Step::PutRoot { default } => {
                self.order(Mode::Put, Message::NewQueueDiscipline(root(index, *default)))
            }
            Step::RemoveRoot => {
                let root = message(index, TcHandle::ROOT, ours(0), KIND);
                self.order(Mode::Change, Message::DelQueueDiscipline(root))
            }
            Step::PutBack(previous) => {
                let handle = TcHandle {
                    major: previous.major,
                    minor: 0,
                };
                let mut root = message(index, TcHandle::ROOT, handle, &previous.kind);
                let options = DefaultNla::new(TCA_OPTIONS, previous.options.clone());
                root.attributes.push(TcAttribute::Other(options));
                self.order(Mode::Put, Message::NewQueueDiscipline(root))
            }
            Step::AddClass(wanted) => {
                self.order(Mode::Create, Message::NewTrafficClass(class(index, wanted)))?;
                match wanted.is_leaf() {
                    true => self.order(
                        Mode::Create,
                        Message::NewQueueDiscipline(queue(index, wanted.minor)),
                    ),
                    false => Ok(()),
                }
            }
            Step::ChangeClass(wanted) => {
                self.order(Mode::Change, Message::NewTrafficClass(class(index, wanted)))
            }
            Step::RemoveClass(minor) => {
                let class = message(index, TcHandle::UNSPEC, ours(*minor), KIND);
                self.order(Mode::Change, Message::DelTrafficClass(class))
            }
            Step::AddFilter(wanted) => {
                self.order(Mode::Create, Message::NewTrafficFilter(filter(index, wanted)))
            }
            // Of any protocol: somebody may have put one of another there.
            Step::RemoveFilter(preference) => self.order(
                Mode::Change,
                Message::DelTrafficFilter(filters(index, *preference, 0)),
            ),
        }
    }
}

fn kind_of(message: &TcMessage) -> String {
    let kind = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind.clone()),
        _ => None,
    });
    kind.unwrap_or_default()
}

/// The options as the kernel gave them: the library keeps those of a kind that it does not know as
/// one attribute, in whose value they lie.
fn options_of(message: &TcMessage) -> Vec<u8> {
    let options = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(&options[..]),
        _ => None,
    });
    match options {
        None => Vec::new(),
        Some([TcOption::Other(whole)]) => {
            let mut bytes = vec![0; whole.value_len()];
            whole.emit_value(&mut bytes);
            bytes
        }
        Some(known) => {
            let mut bytes = vec![0; known.buffer_len()];
            known.emit(&mut bytes);
            bytes
        }
    }
}

fn inner(options: &[u8], kind: u16) -> Option<Vec<u8>> {
    let mut options = NlasIterator::new(options).flatten();
    let found = options.find(|option| option.kind() == kind)?;
    Some(found.value().to_vec())
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn default_of(options: &[u8]) -> Option<u16> {
    word(&inner(options, TCA_HTB_INIT)?, 8)?.try_into().ok()
}

fn class_of(message: &TcMessage) -> Option<Class> {
    let options = options_of(message);
    let parameters = inner(&options, TCA_HTB_PARMS)?;
    let rate = |kind, at| match inner(&options, kind) {
        Some(long) => Some(u64::from_ne_bytes(*long.first_chunk()?)),
        None => word(&parameters, at).map(u64::from),
    };
    // What comes after both rates: buffer, cbuffer, quantum, level, prio.
    let after = |nth: usize| word(&parameters, 2 * RATESPEC_BYTES + 4 * nth);
    let parent = message.header.parent;
    Some(Class {
        minor: message.header.handle.minor,
        // A class at the root says so.
        parent: if parent == TcHandle::ROOT { 0 } else { parent.minor },
        bytes_per_s: rate(TCA_HTB_RATE64, RATESPEC_BYTES - 4)?,
        ceil_bytes_per_s: rate(TCA_HTB_CEIL64, 2 * RATESPEC_BYTES - 4)?,
        burst_ticks: after(0)?,
        ceil_burst_ticks: after(1)?,
        priority: after(4)?,
    })
}

/// `None` for what a classifier lists besides: its tables, and the preference itself.
fn filter_of(message: &TcMessage) -> Option<Filter> {
    let (preference, protocol) = ((message.header.info >> 16) as u16, message.header.info as u16);
    if kind_of(message) != TcFilterU32::KIND || protocol != ETH_P_ALL.to_be() {
        // Somebody's, and unlike any of ours.
        return Some(Filter {
            preference,
            class: 0,
            keys: Vec::new(),
        });
    }
    let options = message.attributes.iter().flat_map(|attribute| match attribute {
        TcAttribute::Options(options) => &options[..],
        _ => &[],
    });
    let (mut class, mut keys) = (0, None);
    for option in options {
        match option {
            TcOption::U32(TcFilterU32Option::ClassId(handle)) if handle.major == HANDLE => {
                class = handle.minor;
            }
            TcOption::U32(TcFilterU32Option::Selector(selector)) => {
                keys = selector.keys.iter().map(key_of).collect::<Option<Vec<_>>>();
            }
            _ => {}
        }
    }
    Some(Filter {
        preference,
        class,
        keys: keys?,
    })
}

fn key_of(wire: &TcU32Key) -> Option<Key> {
    Some(Key {
        offset: wire.off.try_into().ok()?,
        value: wire.val,
        mask: wire.mask,
    })
}
