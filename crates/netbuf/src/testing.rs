//! What takes bytes of others apart, without the sockets, files and taps around it: for the fuzz
//! targets (`crates/fuzz`). Says no more than whoever uses it in earnest is told.

use transhume_model::{Epoch, Mac, NicIndex, Secret};

use crate::config::NicIdentity;
use crate::frame::{self, Addresses, Class, Signature};
use crate::spool::{self, Head};
use crate::tunnel::{self, ANSWER_BYTES, Answer};

pub use crate::spool::RecordError;

/// Offset of a spool's first record.
pub const SPOOL_RECORDS_AT: usize = spool::RECORDS_AT;

/// What a tunnel brought, `bytes`, behind record `last`: how much of it is whole records, and the
/// number of the last of them.
pub fn records(bytes: &[u8], last: u64) -> Result<(usize, u64), RecordError> {
    spool::whole(bytes, 0, last)
}

/// What the record at an offset carries, and where the next one is; `None` where there is none.
pub fn record(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let record = spool::parse(bytes, at).ok()??;
    Some((record.data, record.next))
}

/// Where the records of a killed agent's spool end, and the number of the last one; `None` where it
/// is none.
pub fn spool(bytes: &[u8]) -> Option<(usize, u64)> {
    let Head { tail, last } = spool::head(bytes)?;
    Some((tail, last))
}

/// The length of a frame that was read and not published.
pub fn recovered_bytes(bytes: &[u8]) -> Option<usize> {
    frame::recovered_bytes(bytes)
}

/// How a frame out of a tap is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treated {
    /// Delivered, exactly once.
    Unicast,
    /// Delivered; the target may have had it from its own bridge.
    Broadcast,
    /// The marker of the move whose number this is.
    Marker(u64),
    /// Left out: the guest's own, a dummy of the plug, or no frame.
    LeftOut,
}

/// The same for the guest of this address.
pub fn treated(frame: &[u8], guest: Mac) -> Treated {
    match frame::classify(frame, &Addresses::of(guest)) {
        Class::Unicast => Treated::Unicast,
        Class::Broadcast => Treated::Broadcast,
        Class::Announcement(Signature(number)) => Treated::Marker(number),
        Class::OwnAnnouncement | Class::Own | Class::Dummy | Class::Runt => Treated::LeftOut,
    }
}

/// The announcement that is a marker.
pub fn marker(guest: Mac, number: u64) -> Vec<u8> {
    frame::announcement(guest, Some(Signature(number))).to_vec()
}

/// What a target answers, as it is written again; `None` where it is no answer.
pub fn answer(bytes: [u8; ANSWER_BYTES]) -> Option<[u8; ANSWER_BYTES]> {
    Answer::parse(bytes).map(Answer::bytes)
}

/// The hello of a NIC's source.
pub fn hello(vm: &str, mac: Mac, epoch: u64, secret: [u8; Secret::BYTES], vnet_header_bytes: u8) -> Vec<u8> {
    let identity = NicIdentity {
        vm: vm.parse().expect("a VM's name"),
        nic: NicIndex(0),
        mac,
        epoch: Epoch(epoch),
    };
    tunnel::hello(&identity, &Secret::new(secret), usize::from(vnet_header_bytes))
}

/// What a target makes of a hello that is as long as the one that it expects: the length of the
/// virtio-net headers behind it, or why whoever said it is turned away.
pub fn check_hello(found: &[u8], expected: &[u8]) -> std::io::Result<usize> {
    tunnel::check_hello(found, expected)
}
