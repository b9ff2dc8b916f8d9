//! A stranger's bytes where a handshake is due, in pieces, to either end: it never gets through
//! without a certificate of the fleet, and no more of it is kept than a handshake's limit and one
//! piece. First byte: which end, piece size.

use std::sync::{Arc, LazyLock};

use transhume_trust::limits::HANDSHAKE_BYTES_MAX;
use transhume_trust::{Admits, Authority, Credentials, Handshake, Identity, Progress, Trust, TrustFiles};

use crate::Choices;

static AGENT: LazyLock<Arc<Credentials>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = Authority::create(&dir.path().join("ca"), "fuzz").expect("an authority");
    let identity = "agent/h1".parse().expect("an identity");
    let issued = authority.issue(&identity, 30, dir.path()).expect("a certificate");
    let files = TrustFiles {
        authority: authority.certificate(),
        certificate: issued.certificate,
        key: issued.key,
        revoked: None,
    };
    Trust::read(files).expect("its files").current()
});

pub(super) fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let how = choices.byte();
    let piece = 1 + usize::from(how / 2) * 16;
    let end = match how % 2 {
        0 => Handshake::server(&AGENT, Admits::Agents),
        _ => Handshake::client(&AGENT, Identity::Coordinator),
    };
    let mut end = end.expect("its certificate is good");
    for piece in choices.0.chunks(piece) {
        match advance(&mut end) {
            Progress::Receive => end.received().extend_from_slice(piece),
            Progress::Done => panic!("a stranger got through"),
            Progress::Send => return,
        }
        assert!(end.received().len() <= HANDSHAKE_BYTES_MAX + piece.len());
    }
    assert_ne!(advance(&mut end), Progress::Done, "a stranger got through");
}

/// `Send` where it is refused.
fn advance(end: &mut Handshake) -> Progress {
    loop {
        match end.advance() {
            Ok(Progress::Send) => end.to_send().clear(),
            Ok(progress) => return progress,
            Err(_) => return Progress::Send,
        }
    }
}
