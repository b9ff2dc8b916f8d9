//! TLS 1.3 records (RFC 8446 §5), sealed and opened where their bytes lie.
//!
//! ```text
//!  │ head 5 │ up to 16 KiB of bytes │ type 1 │ tag 16 │ head 5 │ ...
//! ```
//!
//! rustls makes the handshake and hands over the keys, also each later pair of them. Its own record
//! layer copies every byte twice on each side; that is what this file is for. Deliberately absent:
//! padding, tickets, and key updates on the peer's demand: agents speak to agents.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard};

use ring::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use rustls::ConnectionTrafficSecrets;
use rustls::kernel::KernelConnection;

use crate::kernel::{KernelKeys, KernelOpener, KernelSealer};

/// Bytes of one record.
pub const RECORD_BYTES_MAX: usize = 1 << 14;
/// In front of a record's bytes: type, version, length.
pub const HEAD_BYTES: usize = 5;
/// Behind them: their type and the tag.
pub const TAIL_BYTES: usize = 1 + TAG_BYTES;
const TAG_BYTES: usize = 16;
/// A whole record of the largest size.
pub const WHOLE_BYTES_MAX: usize = HEAD_BYTES + RECORD_BYTES_MAX + TAIL_BYTES;
/// The most that a peer may send as one (§5.2).
const SEALED_BYTES_MAX: usize = RECORD_BYTES_MAX + 256;
/// Records under one key, as AES-GCM bears them (§5.5): 2^24.5 full ones; half of that.
pub(crate) const RECORDS_PER_KEY_MAX: u64 = 1 << 23;

/// Types of records' contents (§5.1), and of what is in them.
pub(crate) const ALERT: u8 = 21;
pub(crate) const HANDSHAKE: u8 = 22;
const APPLICATION: u8 = 23;
pub(crate) const CLOSE_NOTIFY: [u8; 2] = [1, 0];
/// KeyUpdate (§4.6.3), no answer asked for.
pub(crate) const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

/// Why a record is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not encrypted.
    #[error("a TLS record of type {0} came where encrypted ones are due")]
    Outer(u8),
    /// No record has that length.
    #[error("a TLS record announces {0} bytes")]
    Length(usize),
    /// Changed, cut, out of its order, or of other keys.
    #[error("a TLS record is damaged")]
    Damaged,
    /// The handshake is over.
    #[error("a TLS message of type {0} has no place here")]
    Message(u8),
    /// RFC 8446 §6.2.
    #[error("the peer ended the connection with TLS alert {0}")]
    Alert(u8),
    /// More of them than anybody needs.
    #[error("TLS records without bytes follow one another without end")]
    Empty,
    /// The keys are worn and cannot be renewed.
    #[error("there is no next TLS key")]
    NoNextKey,
}

pub(crate) fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock panics")
}

/// Where the next keys come from.
pub(crate) trait NextKeys: Send {
    /// For what is sent.
    fn sending(&mut self) -> Option<ConnectionTrafficSecrets>;
    /// For what comes.
    fn receiving(&mut self) -> Option<ConnectionTrafficSecrets>;
}

impl<D: Send> NextKeys for KernelConnection<D> {
    fn sending(&mut self) -> Option<ConnectionTrafficSecrets> {
        Some(self.update_tx_secret().ok()?.1)
    }

    fn receiving(&mut self) -> Option<ConnectionTrafficSecrets> {
        Some(self.update_rx_secret().ok()?.1)
    }
}

/// Both directions' next keys.
pub(crate) type SharedKeys = Arc<Mutex<dyn NextKeys>>;

/// One direction's key, and the number of the next record under it.
struct Key {
    key: LessSafeKey,
    secrets: ConnectionTrafficSecrets,
    iv: [u8; 12],
    number: u64,
}

impl Key {
    fn new(secrets: ConnectionTrafficSecrets, number: u64) -> Option<Self> {
        let (algorithm, key, iv): (&'static Algorithm, _, _) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return None,
        };
        Some(Key {
            key: LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).ok()?),
            iv: iv.as_ref().try_into().ok()?,
            number,
            secrets,
        })
    }

    /// §5.3: the number, on the right of the initialization vector. No number comes twice.
    fn nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(self.number.to_be_bytes()) {
            *byte ^= number;
        }
        self.number += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

fn head(sealed_bytes: usize) -> [u8; HEAD_BYTES] {
    let [high, low] = (sealed_bytes as u16).to_be_bytes();
    [APPLICATION, 3, 3, high, low]
}

/// Seals what goes out.
pub struct Sealer {
    key: Key,
    next: SharedKeys,
    records_per_key_max: u64,
}

impl Sealer {
    /// From the handshake; None for a cipher that is not of TLS 1.3.
    pub(crate) fn new(secrets: ConnectionTrafficSecrets, number: u64, next: SharedKeys) -> Option<Self> {
        Some(Sealer {
            key: Key::new(secrets, number)?,
            next,
            records_per_key_max: RECORDS_PER_KEY_MAX,
        })
    }

    /// Gives the key to the kernel, which seals what is written to the socket from now on: this
    /// must seal nothing more. After an error nothing has changed.
    pub fn hand_over(&self, socket: BorrowedFd<'_>) -> io::Result<KernelSealer> {
        KernelKeys::new(&self.key.secrets, self.key.number)?.seals(socket)?;
        let (next, records_max) = (self.next.clone(), self.records_per_key_max);
        Ok(KernelSealer::new(next, self.key.number, records_max))
    }

    /// Whether the key has sealed as many records as it may.
    pub fn is_worn(&self) -> bool {
        self.key.number >= self.records_per_key_max
    }

    /// Takes the next key; what tells the peer of it.
    pub fn renew(&mut self) -> Result<Vec<u8>, RecordError> {
        let told = self.message(HANDSHAKE, &KEY_UPDATE)?;
        let secrets = locked(&self.next).sending().ok_or(RecordError::NoNextKey)?;
        self.key = Key::new(secrets, 0).ok_or(RecordError::NoNextKey)?;
        Ok(told)
    }

    /// What tells the peer that nothing follows.
    pub fn close(&mut self) -> Result<Vec<u8>, RecordError> {
        self.message(ALERT, &CLOSE_NOTIFY)
    }

    fn message(&mut self, kind: u8, bytes: &[u8]) -> Result<Vec<u8>, RecordError> {
        let mut record = [&[0; HEAD_BYTES][..], bytes, &[0; TAIL_BYTES]].concat();
        self.seal(kind, &mut record)?;
        Ok(record)
    }

    /// Seals a record whose bytes stand between its head and its tail.
    pub fn application(&mut self, record: &mut [u8]) -> Result<(), RecordError> {
        self.seal(APPLICATION, record)
    }

    fn seal(&mut self, kind: u8, record: &mut [u8]) -> Result<(), RecordError> {
        let (outer, sealed) = record.split_at_mut(HEAD_BYTES);
        outer.copy_from_slice(&head(sealed.len()));
        let (bytes, tag) = sealed.split_at_mut(sealed.len() - TAG_BYTES);
        if let Some(last) = bytes.last_mut() {
            *last = kind;
        }
        let nonce = self.key.nonce();
        let made = self
            .key
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(&*outer), bytes)
            .map_err(|_| RecordError::Damaged)?;
        tag.copy_from_slice(made.as_ref());
        Ok(())
    }
}

/// What a record was.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// The place of its bytes.
    Bytes(std::ops::Range<usize>),
    /// One for this layer.
    Own,
    /// The peer sends nothing more.
    Closed,
}

/// Opens what comes in.
pub struct Opener {
    key: Key,
    next: SharedKeys,
}

impl Opener {
    /// From the handshake; None for a cipher that is not of TLS 1.3.
    pub(crate) fn new(secrets: ConnectionTrafficSecrets, number: u64, next: SharedKeys) -> Option<Self> {
        Some(Opener {
            key: Key::new(secrets, number)?,
            next,
        })
    }

    /// Gives the key to the kernel, which opens what is read from the socket from now on: this must
    /// have opened all that was read before, and open nothing more. After an error nothing has
    /// changed.
    pub fn hand_over(&self, socket: BorrowedFd<'_>) -> io::Result<KernelOpener> {
        KernelKeys::new(&self.key.secrets, self.key.number)?.opens(socket)?;
        Ok(KernelOpener::new(self.next.clone()))
    }

    /// Bytes of the record that begins here; None while its head is not there.
    pub fn length(&self, bytes: &[u8]) -> Result<Option<usize>, RecordError> {
        let Some(&[outer, _, _, high, low]) = bytes.first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        if outer != APPLICATION {
            return Err(RecordError::Outer(outer));
        }
        match usize::from(u16::from_be_bytes([high, low])) {
            sealed if (TAIL_BYTES..=SEALED_BYTES_MAX).contains(&sealed) => Ok(Some(HEAD_BYTES + sealed)),
            sealed => Err(RecordError::Length(sealed)),
        }
    }

    /// Opens a whole record where it lies.
    pub fn open(&mut self, record: &mut [u8]) -> Result<Opened, RecordError> {
        let (outer, sealed) = record.split_at_mut(HEAD_BYTES);
        let nonce = self.key.nonce();
        let inner = self
            .key
            .key
            .open_in_place(nonce, Aad::from(&*outer), sealed)
            .map_err(|_| RecordError::Damaged)?;
        // Behind the type there may be zeros (§5.4).
        let Some(last) = inner.iter().rposition(|byte| *byte != 0) else {
            return Err(RecordError::Damaged);
        };
        match (inner[last], &inner[..last]) {
            (APPLICATION, _) => Ok(Opened::Bytes(HEAD_BYTES..HEAD_BYTES + last)),
            (HANDSHAKE, message) if message == KEY_UPDATE => {
                let secrets = locked(&self.next).receiving().ok_or(RecordError::NoNextKey)?;
                self.key = Key::new(secrets, 0).ok_or(RecordError::NoNextKey)?;
                Ok(Opened::Own)
            }
            (ALERT, alert) if alert == CLOSE_NOTIFY => Ok(Opened::Closed),
            (ALERT, &[_, what]) => Err(RecordError::Alert(what)),
            (kind, _) => Err(RecordError::Message(kind)),
        }
    }
}

/// Sealers and openers without a handshake.
#[cfg(any(test, feature = "testing"))]
pub(crate) mod testing {
    use std::sync::atomic::{AtomicU8, Ordering};

    use rustls::crypto::cipher::{AeadKey, Iv};

    use super::*;

    pub(super) fn secrets(number: u8) -> ConnectionTrafficSecrets {
        ConnectionTrafficSecrets::Aes256Gcm {
            key: AeadKey::from([number; 32]),
            iv: Iv::from([number; 12]),
        }
    }

    /// Both ends' keys, one after the other.
    #[derive(Default)]
    struct Numbered(AtomicU8, AtomicU8);

    impl NextKeys for Numbered {
        fn sending(&mut self) -> Option<ConnectionTrafficSecrets> {
            Some(secrets(1 + self.0.fetch_add(1, Ordering::Relaxed)))
        }

        fn receiving(&mut self) -> Option<ConnectionTrafficSecrets> {
            Some(secrets(1 + self.1.fetch_add(1, Ordering::Relaxed)))
        }
    }

    /// One end's sealer and the other's opener.
    pub fn pair() -> (Sealer, Opener) {
        let keys: SharedKeys = Arc::new(Mutex::new(Numbered::default()));
        let sealer = Sealer::new(secrets(0), 0, keys.clone()).unwrap();
        (sealer, Opener::new(secrets(0), 0, keys).unwrap())
    }

    /// The same, with keys that are soon worn.
    pub fn pair_worn_after(records: u64) -> (Sealer, Opener) {
        let (mut sealer, opener) = pair();
        sealer.records_per_key_max = records;
        (sealer, opener)
    }

    /// A whole record.
    pub fn record(sealer: &mut Sealer, bytes: &[u8]) -> Vec<u8> {
        let mut record = [&[0; HEAD_BYTES][..], bytes, &[0; TAIL_BYTES]].concat();
        sealer.application(&mut record).unwrap();
        record
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{pair, pair_worn_after, record};
    use super::*;

    #[test]
    fn what_is_sealed_is_opened_where_it_lies_in_its_order_and_once() {
        let (mut sealer, mut opener) = pair();
        for bytes in [&b"some"[..], b"", &[7; RECORD_BYTES_MAX]] {
            let mut record = record(&mut sealer, bytes);
            assert_eq!(opener.length(&record[..HEAD_BYTES]), Ok(Some(record.len())));
            assert_eq!(
                opener.open(&mut record),
                Ok(Opened::Bytes(HEAD_BYTES..HEAD_BYTES + bytes.len()))
            );
            assert_eq!(&record[HEAD_BYTES..HEAD_BYTES + bytes.len()], bytes);
        }
        let mut first = record(&mut sealer, b"first");
        let mut second = record(&mut sealer, b"second");
        assert_eq!(
            opener.open(&mut second),
            Err(RecordError::Damaged),
            "out of its order"
        );
        assert_eq!(
            opener.open(&mut first),
            Err(RecordError::Damaged),
            "the connection is broken"
        );
    }

    #[test]
    fn any_changed_byte_is_refused() {
        let whole = record(&mut pair().0, b"some");
        for at in 0..whole.len() {
            let (_, mut opener) = pair();
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            let told = opener.length(&damaged);
            assert!(
                told != Ok(Some(whole.len())) || opener.open(&mut damaged) == Err(RecordError::Damaged),
                "byte {at}"
            );
        }
    }

    #[test]
    fn keys_wear_out_and_both_ends_take_the_next() {
        let (mut sealer, mut opener) = pair_worn_after(2);
        for number in 0..9 {
            if sealer.is_worn() {
                assert_eq!(opener.open(&mut sealer.renew().unwrap()), Ok(Opened::Own));
            }
            let mut record = record(&mut sealer, &[number]);
            assert_eq!(
                opener.open(&mut record),
                Ok(Opened::Bytes(HEAD_BYTES..HEAD_BYTES + 1))
            );
            assert_eq!(record[HEAD_BYTES], number);
        }
        assert_eq!(opener.open(&mut sealer.close().unwrap()), Ok(Opened::Closed));
    }

    #[test]
    fn what_has_no_place_is_named() {
        let (_, opener) = pair();
        for (head, refused) in [
            ([21, 3, 3, 0, 19], RecordError::Outer(21)),
            ([23, 3, 3, 0, 16], RecordError::Length(16)),
            ([23, 3, 3, 0xff, 0xff], RecordError::Length(0xffff)),
        ] {
            assert_eq!(opener.length(&head), Err(refused));
        }
        assert_eq!(opener.length(&[23, 3, 3, 0]), Ok(None));
        for (kind, message, refused) in [
            (ALERT, &[2, 40][..], RecordError::Alert(40)),
            (HANDSHAKE, &[24, 0, 0, 1, 1], RecordError::Message(HANDSHAKE)),
            (HANDSHAKE, &[4, 0, 0, 0], RecordError::Message(HANDSHAKE)),
            (0, &[], RecordError::Damaged),
        ] {
            let (mut sealer, mut opener) = pair();
            let mut record = sealer.message(kind, message).unwrap();
            assert_eq!(opener.open(&mut record), Err(refused));
        }
    }

    #[test]
    fn padding_is_taken_off() {
        let (mut sealer, mut opener) = pair();
        let mut record = sealer.message(0, &[9, APPLICATION, 0, 0]).unwrap();
        assert_eq!(
            opener.open(&mut record),
            Ok(Opened::Bytes(HEAD_BYTES..HEAD_BYTES + 1))
        );
    }
}
