//! What an Ethernet frame says of itself, and the few frames we make.

use transhume_model::Mac;

use crate::limits::OTHER_ADDRESSES_MAX;

/// Destination, source and type.
pub(crate) const ETHERNET_BYTES: usize = 14;
/// Shortest frame on a wire, without its checksum.
const FRAME_BYTES_MIN: usize = 60;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_RARP: u16 = 0x8035;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// IEEE 802 local experimental ethertype 1: the plug's dummies.
const ETHERTYPE_DUMMY: u16 = 0x88b5;
/// A locally administered address that no guest has: its NIC filters the dummies out.
const DUMMY_DESTINATION: [u8; 6] = [0x02, b'p', b'l', b'u', b'g', 0];
const RARP_REQUEST_REVERSE: u16 = 3;
const ARP_BYTES: usize = 28;
/// Behind the ARP part of an announcement: who made it. Bridges pass the padding of a short frame
/// on as it is.
const SIGNATURE_AT: usize = ETHERNET_BYTES + ARP_BYTES;
const SIGNATURE: [u8; 2] = *b"TH";

/// The addresses that are a guest's own: its NIC's and those that its bridge has learned on its
/// port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Addresses {
    nic: Mac,
    others: Vec<Mac>,
}

impl Addresses {
    pub(crate) fn of(nic: Mac) -> Self {
        Self {
            nic,
            others: Vec::new(),
        }
    }

    pub(crate) fn nic(&self) -> Mac {
        self.nic
    }

    pub(crate) fn others(&self) -> &[Mac] {
        &self.others
    }

    pub(crate) fn has_room(&self) -> bool {
        self.others.len() < OTHER_ADDRESSES_MAX
    }

    /// Nothing to do where it is known, or there is no room.
    pub(crate) fn add(&mut self, other: Mac) {
        let known = other == self.nic || self.others.contains(&other);
        if !known && self.has_room() {
            self.others.push(other);
        }
    }

    /// The others, and the NIC's last: its announcement is the marker, behind which nothing older
    /// comes.
    pub(crate) fn all(&self) -> impl Iterator<Item = Mac> {
        self.others.iter().copied().chain([self.nic])
    }

    fn contains(&self, bytes: &[u8]) -> bool {
        self.all().any(|mac| mac.bytes() == bytes)
    }
}

/// A number that only the target of one move has, by which its source knows the marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signature(pub(crate) u64);

/// How a captured frame is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// One receiver: exactly once.
    Unicast,
    /// Many receivers: reaches both bridges.
    Broadcast,
    /// An announcement that carries a signature.
    Announcement(Signature),
    /// An announcement of one of the VM's addresses without a signature: its source's, or a
    /// stranger's.
    OwnAnnouncement,
    /// Any other frame from one of the VM's own addresses.
    Own,
    /// A dummy of the plug.
    Dummy,
    /// Too short to be a frame.
    Runt,
}

fn ethertype(frame: &[u8]) -> u16 {
    u16::from_be_bytes([frame[12], frame[13]])
}

/// Sorts a frame that came out of the tap of the VM `own`. Whatever is for a single receiver is for
/// its guest, whoever that says it is: the bridge sent it here.
pub(crate) fn classify(frame: &[u8], own: &Addresses) -> Class {
    if frame.len() < ETHERNET_BYTES {
        Class::Runt
    } else if ethertype(frame) == ETHERTYPE_DUMMY && frame[..6] == DUMMY_DESTINATION {
        Class::Dummy
    } else if own.contains(&frame[6..12]) {
        match (is_announcement(frame), signature(frame)) {
            (true, Some(signature)) => Class::Announcement(signature),
            (true, None) => Class::OwnAnnouncement,
            (false, _) => Class::Own,
        }
    } else if frame[0] & 1 == 1 {
        Class::Broadcast
    } else {
        Class::Unicast
    }
}

/// Whether it is an announcement rather than the guest's own traffic.
pub(crate) fn is_announcement(frame: &[u8]) -> bool {
    frame.len() >= ETHERNET_BYTES && ethertype(frame) == ETHERTYPE_RARP
}

fn signature(frame: &[u8]) -> Option<Signature> {
    let number = frame
        .get(SIGNATURE_AT..)?
        .strip_prefix(&SIGNATURE)?
        .first_chunk()?;
    Some(Signature(u64::from_be_bytes(*number)))
}

/// "I am here" to every bridge (RFC 903, as QEMU announces itself), signed by the target of a move.
pub(crate) fn announcement(of: Mac, signature: Option<Signature>) -> [u8; FRAME_BYTES_MIN] {
    let mut frame = [0; FRAME_BYTES_MIN];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&of.bytes());
    frame[12..14].copy_from_slice(&ETHERTYPE_RARP.to_be_bytes());
    frame[14..16].copy_from_slice(&1u16.to_be_bytes());
    frame[16..18].copy_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
    frame[18] = 6;
    frame[19] = 4;
    frame[20..22].copy_from_slice(&RARP_REQUEST_REVERSE.to_be_bytes());
    frame[22..28].copy_from_slice(&of.bytes());
    frame[32..38].copy_from_slice(&of.bytes());
    if let Some(Signature(number)) = signature {
        let number_at = SIGNATURE_AT + SIGNATURE.len();
        frame[SIGNATURE_AT..number_at].copy_from_slice(&SIGNATURE);
        frame[number_at..number_at + 8].copy_from_slice(&number.to_be_bytes());
    }
    frame
}

/// A frame of `bytes` that every guest's NIC filters out.
pub(crate) fn dummy(bytes: usize) -> Vec<u8> {
    let mut frame = vec![0; bytes.max(ETHERNET_BYTES)];
    frame[..6].copy_from_slice(&DUMMY_DESTINATION);
    frame[6..12].copy_from_slice(&DUMMY_DESTINATION);
    frame[12..14].copy_from_slice(&ETHERTYPE_DUMMY.to_be_bytes());
    frame
}

/// The length of a frame at the start of `bytes`, where what follows is zero: by its own headers
/// where they have it, else up to the last byte that is not zero. `None` where there is no frame.
pub(crate) fn recovered_bytes(bytes: &[u8]) -> Option<usize> {
    let written = bytes.iter().rposition(|&byte| byte != 0)? + 1;
    let payload = bytes.get(ETHERNET_BYTES..)?;
    let word = |at: usize| {
        payload
            .get(at..at + 2)
            .map(|two| usize::from(u16::from_be_bytes([two[0], two[1]])))
    };
    let stated = match ethertype(bytes) {
        ETHERTYPE_IPV4 => word(2),
        ETHERTYPE_IPV6 => word(4).map(|length| length + 40),
        ETHERTYPE_ARP | ETHERTYPE_RARP => Some(ARP_BYTES),
        _ => None,
    };
    let bytes_stated = stated.map_or(0, |length| ETHERNET_BYTES + length);
    Some(written.max(bytes_stated).max(ETHERNET_BYTES).min(bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Mac {
        "52:54:00:00:00:01".parse().unwrap()
    }

    fn frame(to: [u8; 6], from: [u8; 6], kind: u16) -> Vec<u8> {
        [&to[..], &from, &kind.to_be_bytes(), &[7; 50]].concat()
    }

    #[test]
    fn frames_are_sorted() {
        let peer = [0x52, 0x54, 0, 0, 0, 2];
        let own_addresses = Addresses::of(own());
        let classify = |frame: &[u8]| classify(frame, &own_addresses);
        assert_eq!(classify(&frame(own().bytes(), peer, 0x800)), Class::Unicast);
        assert_eq!(classify(&frame([0xff; 6], peer, 0x806)), Class::Broadcast);
        assert_eq!(
            classify(&frame([1, 0, 0x5e, 0, 0, 1], peer, 0x800)),
            Class::Broadcast
        );
        assert_eq!(classify(&frame(peer, own().bytes(), 0x800)), Class::Own);
        assert_eq!(classify(&dummy(1514)), Class::Dummy);
        assert_eq!(classify(&[0; 13]), Class::Runt);
    }

    #[test]
    fn only_a_signed_announcement_says_who_made_it() {
        let own_addresses = Addresses::of(own());
        let signed = announcement(own(), Some(Signature(77)));
        assert_eq!(
            classify(&signed, &own_addresses),
            Class::Announcement(Signature(77))
        );
        assert_eq!(
            classify(&announcement(own(), None), &own_addresses),
            Class::OwnAnnouncement
        );
        assert_eq!(
            classify(&signed[..40], &own_addresses),
            Class::OwnAnnouncement,
            "cut short"
        );
    }

    #[test]
    fn a_guest_has_the_other_addresses_that_it_sends_from() {
        let mut addresses = Addresses::of(own());
        let virtual_router: Mac = "00:00:5e:00:01:07".parse().unwrap();
        let from_it = frame([0xff; 6], virtual_router.bytes(), 0x806);
        assert_eq!(classify(&from_it, &addresses), Class::Broadcast);
        for mac in [virtual_router, virtual_router, own()] {
            addresses.add(mac);
        }
        assert_eq!(addresses.others(), [virtual_router]);
        assert_eq!(classify(&from_it, &addresses), Class::Own);
        assert_eq!(
            classify(&frame(virtual_router.bytes(), [2; 6], 0x800), &addresses),
            Class::Unicast
        );
        assert_eq!(addresses.all().last(), Some(own()));
    }

    #[test]
    fn an_unpublished_frame_that_ends_in_zeroes_keeps_its_length() {
        let mut bytes = vec![0; 2048];
        bytes[..6].copy_from_slice(&own().bytes());
        bytes[12..14].copy_from_slice(&0x0800u16.to_be_bytes());
        bytes[14] = 0x45;
        bytes[16..18].copy_from_slice(&100u16.to_be_bytes());
        assert_eq!(recovered_bytes(&bytes), Some(114));
        assert_eq!(recovered_bytes(&[0; 64]), None);
    }
}
