//! The return path of a migration stream: withholding the switchover-ack (design §3, step 2).
//!
//! The target's QEMU talks back on the migration socket in messages `{type u16, length u16, data}`,
//! big endian. As long as the source's QEMU has not seen `SWITCHOVER_ACK` it keeps copying and does
//! not pause the guest by itself. [`ReturnPathFilter`] takes the bytes as they come, in chunks of
//! any size, and gives out what may pass on.
//!
//! Pure: no sockets. Deliberately absent: understanding any other message, dropping any other
//! message.

/// Type and length.
const HEADER_BYTES: usize = 4;

/// Type of a return path message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageType(pub u16);

impl MessageType {
    /// The target's QEMU agrees that the source may stop the guest.
    pub const SWITCHOVER_ACK: MessageType = MessageType(7);
}

/// Which part of a message the next byte belongs to.
#[derive(Debug)]
enum Place {
    /// Inside the header; so many of its bytes are in `header`.
    Header { have: usize },
    /// Inside the data of a message that passes or is held.
    Data { left: u16, held: bool },
}

/// Withholds the switchover-ack until told otherwise; everything else passes unchanged and at once.
///
/// A message's length is a u16, so what can be held is bounded by 64 KiB per ack; QEMU sends one
/// ack of no data. Further acks while one is held are dropped: QEMU asks for one only.
#[derive(Debug)]
pub struct ReturnPathFilter {
    place: Place,
    header: [u8; HEADER_BYTES],
    withholding: bool,
    held: Vec<u8>,
}

impl Default for ReturnPathFilter {
    fn default() -> Self {
        Self::new()
    }
}

impl ReturnPathFilter {
    /// A filter at the start of a stream, withholding.
    pub fn new() -> Self {
        Self {
            place: Place::Header { have: 0 },
            header: [0; HEADER_BYTES],
            withholding: true,
            held: Vec::new(),
        }
    }

    /// Takes bytes from the target and appends what may pass to `out`.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            bytes = match self.place {
                Place::Header { have } => self.header_bytes(have, bytes, out),
                Place::Data { left, held } => self.data_bytes(left, held, bytes, out),
            };
        }
    }

    /// Stops withholding. What was held is appended to `out`, now or, where the stream is inside
    /// another message, by the next [`push`](Self::push) that ends it.
    pub fn release(&mut self, out: &mut Vec<u8>) {
        self.withholding = false;
        match self.place {
            // A partial header has not been passed on, so the held ack may go ahead of it.
            Place::Header { .. } => out.append(&mut self.held),
            Place::Data { .. } => {}
        }
    }

    /// Whether an ack has come and is being held: the target is ready.
    pub fn holds_ack(&self) -> bool {
        !self.held.is_empty()
    }

    fn header_bytes<'a>(&mut self, have: usize, bytes: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        let take = (HEADER_BYTES - have).min(bytes.len());
        self.header[have..have + take].copy_from_slice(&bytes[..take]);
        if have + take < HEADER_BYTES {
            self.place = Place::Header { have: have + take };
            return &bytes[take..];
        }
        let kind = MessageType(u16::from_be_bytes([self.header[0], self.header[1]]));
        let left = u16::from_be_bytes([self.header[2], self.header[3]]);
        let held = self.withholding && kind == MessageType::SWITCHOVER_ACK;
        if held {
            self.held.clear();
            self.held.extend_from_slice(&self.header);
        } else {
            out.extend_from_slice(&self.header);
        }
        self.advance(left, held, out);
        &bytes[take..]
    }

    fn data_bytes<'a>(&mut self, left: u16, held: bool, bytes: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
        let take = usize::from(left).min(bytes.len());
        if held {
            self.held.extend_from_slice(&bytes[..take]);
        } else {
            out.extend_from_slice(&bytes[..take]);
        }
        // `take` is at most `left`, which is a u16.
        self.advance(left - take as u16, held, out);
        &bytes[take..]
    }

    fn advance(&mut self, left: u16, held: bool, out: &mut Vec<u8>) {
        if left > 0 {
            self.place = Place::Data { left, held };
            return;
        }
        self.place = Place::Header { have: 0 };
        if !self.withholding {
            out.append(&mut self.held);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ACK: [u8; 4] = [0, 7, 0, 0];

    fn message(kind: u16, data: &[u8]) -> Vec<u8> {
        let mut bytes = kind.to_be_bytes().to_vec();
        bytes.extend_from_slice(&(data.len() as u16).to_be_bytes());
        bytes.extend_from_slice(data);
        bytes
    }

    #[test]
    fn the_ack_waits_and_the_rest_passes() {
        let mut filter = ReturnPathFilter::new();
        let mut out = Vec::new();
        let pong = message(2, &[0, 0, 0, 9]);
        filter.push(&[pong.clone(), ACK.to_vec(), pong.clone()].concat(), &mut out);
        assert_eq!(out, [pong.clone(), pong].concat());
        assert!(filter.holds_ack());
        out.clear();
        filter.release(&mut out);
        assert_eq!(out, ACK);
        assert!(!filter.holds_ack());
    }

    #[test]
    fn after_the_release_acks_pass() {
        let mut filter = ReturnPathFilter::new();
        let mut out = Vec::new();
        filter.release(&mut out);
        assert!(out.is_empty());
        filter.push(&ACK, &mut out);
        assert_eq!(out, ACK);
    }

    #[test]
    fn a_release_inside_a_message_does_not_split_it() {
        let mut filter = ReturnPathFilter::new();
        let mut out = Vec::new();
        let long = message(9, &[1; 10]);
        filter.push(&[&ACK[..], &long[..7]].concat(), &mut out);
        filter.release(&mut out);
        filter.push(&long[7..], &mut out);
        assert_eq!(out, [long, ACK.to_vec()].concat());
    }

    #[test]
    fn a_release_inside_the_ack_gives_the_whole_ack() {
        let mut filter = ReturnPathFilter::new();
        let mut out = Vec::new();
        let ack = message(7, &[1, 2, 3, 4]);
        filter.push(&ack[..6], &mut out);
        filter.release(&mut out);
        assert!(out.is_empty());
        filter.push(&ack[6..], &mut out);
        assert_eq!(out, ack);
    }

    #[test]
    fn a_hostile_stream_of_acks_is_held_once() {
        let mut filter = ReturnPathFilter::new();
        let mut out = Vec::new();
        for _ in 0..100 {
            filter.push(&message(7, &[0xff; 65535]), &mut out);
        }
        assert!(out.is_empty());
        filter.release(&mut out);
        assert_eq!(out.len(), HEADER_BYTES + 65535);
    }

    proptest! {
        #[test]
        fn chunk_boundaries_do_not_matter(
            messages in proptest::collection::vec((0u16..12, proptest::collection::vec(any::<u8>(), 0..40)), 0..20),
            cuts in proptest::collection::vec(1usize..9, 1..200),
        ) {
            let stream: Vec<u8> = messages.iter().flat_map(|(kind, data)| message(*kind, data)).collect();
            let passing: Vec<u8> = messages.iter().filter(|(kind, _)| *kind != 7).flat_map(|(kind, data)| message(*kind, data)).collect();
            let mut filter = ReturnPathFilter::new();
            let (mut out, mut rest, mut cuts) = (Vec::new(), &stream[..], cuts.into_iter().cycle());
            while !rest.is_empty() {
                let n = cuts.next().unwrap().min(rest.len());
                filter.push(&rest[..n], &mut out);
                rest = &rest[n..];
            }
            prop_assert_eq!(&out, &passing);
            prop_assert_eq!(filter.holds_ack(), messages.iter().any(|(kind, _)| *kind == 7));
        }
    }
}
