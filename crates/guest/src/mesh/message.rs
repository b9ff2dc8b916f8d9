//! The datagram between two guests: 24 bytes, so that it passes the smallest IPv4 packet (68 bytes,
//! RFC 791). Pure.

const MAGIC: [u8; 4] = *b"THm1";

/// Length on the wire.
pub const MESSAGE_BYTES: usize = 24;

/// What a datagram says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Are you there?
    Hello,
    /// I am here; your numbered messages will be counted.
    HelloAck,
    /// Message number n.
    Data,
    /// I stop sending; n was the last.
    Stop,
}

/// One datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    pub kind: Kind,
    /// The sender's place in the cluster.
    pub from: u16,
    /// One run of the sender; numbers start anew with each.
    pub run: u64,
    /// Message number, from 1.
    pub number: u64,
}

impl Message {
    pub fn encode(&self) -> [u8; MESSAGE_BYTES] {
        let mut bytes = [0; MESSAGE_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = match self.kind {
            Kind::Hello => 1,
            Kind::HelloAck => 2,
            Kind::Data => 3,
            Kind::Stop => 4,
        };
        bytes[6..8].copy_from_slice(&self.from.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.run.to_be_bytes());
        bytes[16..].copy_from_slice(&self.number.to_be_bytes());
        bytes
    }

    /// `None` for anything that is not exactly one of our datagrams.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; MESSAGE_BYTES] = bytes.try_into().ok()?;
        if bytes[..4] != MAGIC {
            return None;
        }
        let kind = match bytes[4] {
            1 => Kind::Hello,
            2 => Kind::HelloAck,
            3 => Kind::Data,
            4 => Kind::Stop,
            _ => return None,
        };
        Some(Message {
            kind,
            from: u16::from_be_bytes(bytes[6..8].try_into().ok()?),
            run: u64::from_be_bytes(bytes[8..16].try_into().ok()?),
            number: u64::from_be_bytes(bytes[16..].try_into().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_fits_the_smallest_packet() {
        let (ip_header, udp_header, smallest_mtu) = (20, 8, 68);
        assert!(ip_header + udp_header + MESSAGE_BYTES <= smallest_mtu);
        for kind in [Kind::Hello, Kind::HelloAck, Kind::Data, Kind::Stop] {
            let message = Message {
                kind,
                from: 513,
                run: u64::MAX - 1,
                number: 1 << 40,
            };
            assert_eq!(Message::decode(&message.encode()), Some(message));
        }
    }

    #[test]
    fn other_datagrams_are_refused() {
        let good = Message {
            kind: Kind::Data,
            from: 1,
            run: 2,
            number: 3,
        }
        .encode();
        assert_eq!(Message::decode(&good[..23]), None);
        assert_eq!(Message::decode(&[&good[..], &[0]].concat()), None);
        let mut wrong_kind = good;
        wrong_kind[4] = 9;
        assert_eq!(Message::decode(&wrong_kind), None);
    }
}
