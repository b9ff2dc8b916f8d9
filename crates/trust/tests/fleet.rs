//! Who gets through to whom, over bytes in memory.
#![allow(missing_docs)]

use std::path::Path;
use std::sync::Arc;

use transhume_trust::{
    Admits, Authority, AuthorityError, Credentials, HEAD_BYTES, Handshake, Identity, Keys, Opened, Progress,
    TAIL_BYTES, Trust, TrustError, TrustFiles, explain,
};

const DAYS: u32 = 30;

fn authority(dir: &Path) -> Authority {
    Authority::create(dir, "test").unwrap()
}

fn identity(text: &str) -> Identity {
    text.parse().unwrap()
}

fn files(authority: &Authority, of: &str, out: &Path) -> TrustFiles {
    let issued = authority.issue(&identity(of), DAYS, out).unwrap();
    TrustFiles {
        authority: authority.certificate(),
        certificate: issued.certificate,
        key: issued.key,
        revoked: Some(authority.revoked()),
    }
}

fn credentials(authority: &Authority, of: &str, out: &Path) -> Arc<Credentials> {
    Trust::read(files(authority, of, out)).unwrap().current()
}

/// One end goes on; whether it is done.
fn step(own: &mut Handshake, other: &mut Handshake) -> Result<bool, String> {
    let progress = own.advance().map_err(|error| explain(&error))?;
    other.received().append(own.to_send());
    Ok(progress == Progress::Done)
}

/// Both ends' keys, or why one of them refuses.
fn shake(
    client: &Credentials,
    expects: &str,
    server: &Credentials,
    admits: Admits,
) -> Result<(Keys, Keys), String> {
    let mut client = Handshake::client(client, identity(expects)).unwrap();
    let mut server = Handshake::server(server, admits).unwrap();
    let (mut client_done, mut server_done) = (false, false);
    while !(client_done && server_done) {
        client_done = client_done || step(&mut client, &mut server)?;
        server_done = server_done || step(&mut server, &mut client)?;
    }
    Ok((client.finish().unwrap(), server.finish().unwrap()))
}

#[test]
fn both_ends_know_each_other_and_what_is_sealed_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let ours = authority(&dir.path().join("ca"));
    let coordinator = credentials(&ours, "coordinator", dir.path());
    let agent = credentials(&ours, "agent/h1", dir.path());
    let admits = Admits::Exactly(Identity::Coordinator);
    let (mut client, mut server) = shake(&coordinator, "agent/h1", &agent, admits).unwrap();
    assert_eq!(client.peer, identity("agent/h1"));
    assert_eq!(server.peer, Identity::Coordinator);
    for (from, to) in [
        (&mut client.sealer, &mut server.opener),
        (&mut server.sealer, &mut client.opener),
    ] {
        let mut record = [&[0; HEAD_BYTES][..], b"word", &[0; TAIL_BYTES]].concat();
        from.application(&mut record).unwrap();
        let opened = to.open(&mut record).unwrap();
        assert_eq!(opened, Opened::Bytes(HEAD_BYTES..HEAD_BYTES + 4));
    }
}

#[test]
fn whoever_is_not_meant_is_refused_and_told_why() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (
        authority(&dir.path().join("ca")),
        authority(&dir.path().join("other")),
    );
    let coordinator = credentials(&ours, "coordinator", dir.path());
    let agent = credentials(&ours, "agent/h1", dir.path());
    let other = credentials(&ours, "agent/h2", dir.path());
    let user = credentials(&ours, "user/alice", dir.path());
    let only = || Admits::Exactly(Identity::Coordinator);
    let why = |client: &Credentials, expects, server: &Credentials, admits| {
        shake(client, expects, server, admits).err().unwrap()
    };
    for stranger in [&other, &user] {
        let told = why(stranger, "agent/h1", &agent, only());
        assert!(told.contains("transhume://coordinator is wanted here"), "{told}");
    }
    let told = why(&coordinator, "agent/h1", &other, only());
    assert!(told.contains("it is transhume://agent/h2"), "{told}");
    let told = why(&user, "agent/h1", &agent, Admits::Agents);
    assert!(told.contains("an agent is wanted"), "{told}");
    // A user's certificate is none of a server's.
    assert!(shake(&coordinator, "user/alice", &user, only()).is_err());
    let foreign = credentials(&theirs, "coordinator", &dir.path().join("other"));
    for (client, server) in [(&foreign, &agent), (&coordinator, &foreign)] {
        let told = why(client, "agent/h1", server, only());
        assert!(told.contains("another authority"), "{told}");
    }
}

#[test]
fn bytes_that_are_no_handshake_are_refused_without_a_limit_being_passed() {
    let dir = tempfile::tempdir().unwrap();
    let ours = authority(&dir.path().join("ca"));
    let agent = credentials(&ours, "agent/h1", dir.path());
    for bytes in [&b"THPS\0\x02 plain"[..], b"GET / HTTP/1.1\r\n\r\n", &[0xff; 4096]] {
        let mut server = Handshake::server(&agent, Admits::Agents).unwrap();
        server.received().extend_from_slice(bytes);
        assert!(server.advance().is_err(), "{bytes:?}");
    }
    // A record of 16 KiB that never ends.
    let mut server = Handshake::server(&agent, Admits::Agents).unwrap();
    server.received().extend([22, 3, 1, 0x3f, 0xff, 1]);
    assert_eq!(server.advance().unwrap(), Progress::Receive);
}

#[test]
fn a_revoked_certificate_is_refused_once_the_list_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let ours = authority(&dir.path().join("ca"));
    let coordinator = credentials(&ours, "coordinator", dir.path());
    let agent = Trust::read(files(&ours, "agent/h1", dir.path())).unwrap();
    let only = || Admits::Exactly(Identity::Coordinator);
    assert!(shake(&coordinator, "agent/h1", &agent.current(), only()).is_ok());
    let revoked = ours.revoke("coordinator").unwrap();
    assert_eq!(revoked.len(), 1);
    assert!(matches!(
        ours.revoke("agent/h9"),
        Err(AuthorityError::NotIssued { .. })
    ));
    // Interrupted before the list was written: what is asked for again is done.
    let list = std::fs::read(ours.revoked()).unwrap();
    std::fs::remove_file(ours.revoked()).unwrap();
    assert_eq!(ours.revoke("coordinator").unwrap().len(), 1);
    assert!(ours.revoked().exists() && !list.is_empty());
    let newer = credentials(&ours, "coordinator", dir.path());
    std::thread::sleep(transhume_trust::limits::LOOK_AGAIN);
    let told = shake(&coordinator, "agent/h1", &agent.current(), only())
        .err()
        .unwrap();
    assert!(told.contains("revoked"), "{told}");
    assert!(shake(&newer, "agent/h1", &agent.current(), only()).is_ok());
    assert_eq!(ours.issued().unwrap().len(), 3);
}

#[test]
fn renewed_files_hold_without_a_restart_and_damaged_ones_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Authority::create(&dir.path().join("ca"), "test").unwrap();
    let own = files(&ours, "agent/h1", dir.path());
    let trust = Trust::read(own.clone()).unwrap();
    let first = trust.current().validity();
    // Another process may have it open meanwhile: the authority is opened anew.
    let ours = Authority::open(&dir.path().join("ca")).unwrap();
    ours.renew(&own.certificate, 2 * DAYS).unwrap();
    std::thread::sleep(transhume_trust::limits::LOOK_AGAIN);
    let second = trust.current().validity();
    assert!(second.until > first.until, "{first:?} {second:?}");
    std::fs::write(&own.certificate, "nothing").unwrap();
    std::thread::sleep(transhume_trust::limits::LOOK_AGAIN);
    assert_eq!(trust.current().validity(), second);
    assert_eq!(trust.current().identity(), &identity("agent/h1"));
    // A key that others may read is refused, and taken once that is mended: nothing else changes.
    use std::os::unix::fs::PermissionsExt;
    let permit = |mode| std::fs::set_permissions(&own.key, std::fs::Permissions::from_mode(mode)).unwrap();
    let renewed = ours.issue(&identity("agent/h1"), 3 * DAYS, dir.path()).unwrap();
    permit(0o644);
    std::thread::sleep(transhume_trust::limits::LOOK_AGAIN);
    assert_eq!(trust.current().validity(), second);
    permit(0o600);
    std::thread::sleep(transhume_trust::limits::LOOK_AGAIN);
    assert_eq!(trust.current().validity(), renewed.issued.validity);
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let ours = authority(&dir.path().join("ca"));
    let good = files(&ours, "agent/h1", dir.path());
    let nothing = dir.path().join("nothing.pem");
    std::fs::write(&nothing, "nothing").unwrap();
    let told = |files: TrustFiles| Trust::read(files).unwrap_err();
    let error = told(TrustFiles {
        authority: nothing.clone(),
        ..good.clone()
    });
    assert!(error.to_string().contains("nothing.pem"), "{error}");
    let missing = TrustFiles {
        key: dir.path().join("gone"),
        ..good.clone()
    };
    assert!(matches!(told(missing), TrustError::Read { .. }));
    // The authority's own certificate names nobody.
    let nobody = TrustFiles {
        certificate: ours.certificate(),
        ..good.clone()
    };
    assert!(matches!(told(nobody), TrustError::Nobody { .. }));
    let other = files(&ours, "agent/h2", dir.path());
    let mixed = TrustFiles {
        key: other.key,
        ..good.clone()
    };
    assert!(matches!(told(mixed), TrustError::Unusable { .. }));
    // A list of another fleet's authority would revoke nobody.
    let theirs = Authority::create(&dir.path().join("their-ca"), "theirs").unwrap();
    let mistaken = TrustFiles {
        revoked: Some(theirs.revoked()),
        ..good.clone()
    };
    assert!(matches!(told(mistaken), TrustError::OtherList { .. }));
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&good.key, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(told(good), TrustError::KeyReadable { .. }));
}

#[test]
fn an_authority_is_never_made_over_another_and_its_key_is_its_owners() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca");
    assert!(matches!(
        Authority::open(&path),
        Err(AuthorityError::Missing { .. })
    ));
    let first = authority(&path);
    assert!(matches!(
        Authority::create(&path, "test"),
        Err(AuthorityError::Exists { .. })
    ));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&path.join("ca.key"))), (0o700, 0o600));
    let out = dir.path().join("new/alice");
    assert!(matches!(
        first.issue(&identity("user/alice"), 1000, &out),
        Err(AuthorityError::Days { .. })
    ));
    assert!(!out.exists());
    let issued = first.issue(&identity("user/alice"), 1, &out).unwrap();
    assert_eq!((mode(&out), mode(&issued.key)), (0o700, 0o600));
}
