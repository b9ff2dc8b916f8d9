//! Every wait and size of handshakes and certificates.

use std::time::Duration;

/// A handshake and the hello behind it, in all; then the peer is turned away.
pub const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Connections of one listener that have not said yet whose they are; the oldest makes room.
pub const STRANGERS_MAX: usize = 16;
/// Bytes of a handshake that wait for the rest of their message.
pub const HANDSHAKE_BYTES_MAX: usize = 64 << 10;
/// A PEM file: a certificate, a key, or the list of what is revoked, some 10 000 of them.
pub const FILE_BYTES_MAX: u64 = 1 << 20;
/// Files are looked at again at the first handshake in each such time.
pub const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Validity of a certificate unless said otherwise, days.
pub const CERTIFICATE_DAYS: u32 = 30;
/// Longest validity of a certificate: a lost key is worth something for so long, days.
pub const CERTIFICATE_DAYS_MAX: u32 = 398;
/// Validity of an authority, days.
pub const AUTHORITY_DAYS: u32 = 3_650;
/// A certificate is valid from so long before it is made: hosts' clocks differ.
pub const BACKDATED: Duration = Duration::from_secs(300);
