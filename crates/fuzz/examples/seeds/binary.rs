//! Of everything between agents and with QEMU that is not JSON.

use std::io::Result;
use std::path::Path;

use transhume_model::{Mac, Secret};
use transhume_netbuf::testing::hello;
use transhume_trust::{Authority, Handshake, Identity, Progress, Trust, TrustFiles};

use super::put;

pub fn write(folder: &Path) -> Result<()> {
    greetings(folder)?;
    tunnels(folder)?;
    frames(folder)?;
    nbd(folder)?;
    handshakes(folder)?;
    put(
        folder,
        "returnpath",
        "ack",
        b"\x02\xff\0\x02\0\x04\0\0\0\x09\0\x07\0\0\0\x02\0\x04\0\0\0\x0a",
    )?;
    put(
        folder,
        "returnpath",
        "released",
        b"\x05\x01\0\x07\0\x04abcd\0\x09\0\x08in parts\0\x07\0\0",
    )?;
    put(
        folder,
        "events",
        "move",
        b"\x07id: 1\ndata: {\"a\":1}\n\n:\n\nid: 2\r\ndata:{}\r\n\r\n",
    )?;
    put(
        folder,
        "sealed",
        "honest",
        b"\x01\x03\x05first\x06second\0\x05third\x02\0\0",
    )?;
    for (name, damage) in [("changed", 1), ("cut", 2), ("again", 3), ("gone", 4)] {
        let bytes = [
            &b"\x01\x03\x05first\x06second\0\x05third\x01"[..],
            &[damage, 7, 1],
        ]
        .concat();
        put(folder, "sealed", name, &bytes)?;
    }
    put(
        folder,
        "sealed",
        "raw",
        b"\0\x17\x03\x03\0\x1301234567890123456789\x17\x03\x03\0\x11",
    )
}

fn greetings(folder: &Path) -> Result<()> {
    let mac = Mac::new([0x52, 0x54, 0, 0, 0, 1]).expect("a unicast address");
    let said = hello("vm1", mac, 4, *b"known to two alo", 12);
    put(folder, "hello", "tunnel", &[&[0][..], &said].concat())?;
    put(folder, "hello", "epoch", &[1, 15, 9])?;
    put(folder, "hello", "secret", &[1, 20, 9])?;
    let page = [
        &b"\x02THPS\0\x03"[..],
        &7u64.to_be_bytes(),
        &[9; Secret::BYTES],
        b"\x03vm1",
    ]
    .concat();
    put(folder, "hello", "page", &page)?;
    let answer = |kind: u32, number: u64| [&kind.to_le_bytes()[..], &[0; 4], &number.to_le_bytes()].concat();
    let answers = [vec![3], answer(1, 7), answer(4, 99), answer(2, 3), answer(3, 0)].concat();
    put(folder, "hello", "answers", &answers)
}

fn record(kind: u32, number: u64, data: &[u8]) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(number.to_le_bytes());
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn tunnels(folder: &Path) -> Result<()> {
    let records = [
        record(1, 1, &[1; 26]),
        record(2, 2, &[2; 31]),
        record(5, 3, &[0, 0, 0x5e, 0, 1, 7]),
        record(3, 4, &[]),
        record(4, 5, &[]),
    ]
    .concat();
    put(folder, "tunnel", "records", &[&[200, 0][..], &records].concat())?;
    put(
        folder,
        "tunnel",
        "honest",
        &[30, 1, 0, 26, 9, 7, 1, 31, 9, 7, 2, 0, 9, 7, 3, 0, 9, 7],
    )?;
    put(
        folder,
        "tunnel",
        "forged",
        &[30, 1, 0, 26, 9, 7, 0, 9, 4, 7, 0, 26, 5, 1, 7],
    )?;
    let tail = (records.len() as u16).to_le_bytes();
    put(folder, "spool", "left", &[&[2, 12][..], &tail, &records].concat())?;
    put(
        folder,
        "spool",
        "short",
        &[&[2, 12, 40, 0][..], &records].concat(),
    )?;
    let mut head = b"\0\x0c\0\0THSPOOL2\x0c\0\0\0\0\0\0\0".to_vec();
    head.extend((4096 + records.len() as u64).to_le_bytes());
    head.extend(&records);
    put(folder, "spool", "head", &head)
}

fn frames(folder: &Path) -> Result<()> {
    let frame = |to: [u8; 6], kind: u16, payload: &[u8]| {
        [
            &[0][..],
            &to,
            &[0x52, 0x54, 0, 0, 0, 2],
            &kind.to_be_bytes(),
            payload,
        ]
        .concat()
    };
    let guest = [0x52, 0x54, 0, 0, 0, 1];
    let ip4 = b"\x45\0\0\x20\0\0\0\0\x40\x11\0\0\x0a\0\0\x01\x0a\0\0\x02\x10\0\x10\0\0\x0c\0\0word";
    let mut ip6 = b"\x60\0\0\0\0\x08\x11\x40".to_vec();
    ip6.extend([0xfd; 32]);
    ip6.extend([0; 8]);
    put(folder, "ether", "ip4", &frame(guest, 0x0800, ip4))?;
    put(folder, "ether", "ip6", &frame(guest, 0x86dd, &ip6))?;
    put(folder, "ether", "arp", &frame([0xff; 6], 0x0806, &[1; 28]))?;
    let dummy = [0x02, b'p', b'l', b'u', b'g', 0];
    put(folder, "ether", "dummy", &frame(dummy, 0x88b5, &[0; 46]))?;
    put(folder, "ether", "marker", &[2])?;
    put(folder, "ether", "marker-damaged", &[2, 43, 1, 50, 1])
}

fn nbd(folder: &Path) -> Result<()> {
    let greeting = b"NBDMAGICIHAVEOPT\0\x03";
    let reply = |kind: u32, data: &[u8]| {
        let magic = 0x0003_e889_0455_65a9u64.to_be_bytes();
        let words = [6, kind, data.len() as u32].map(u32::to_be_bytes);
        [&magic[..], words.as_flattened(), data].concat()
    };
    let info = reply(3, b"\0\0\0\0\0\0\x10\0\0\0\0\x01");
    let there = [&greeting[..], &info, &reply(1, &[])].concat();
    put(folder, "nbd", "there", &there)?;
    let missing = [&greeting[..], &reply((1 << 31) + 6, b"export not present")].concat();
    put(folder, "nbd", "missing", &missing)?;
    put(folder, "nbd", "stranger", b"HTTP/1.1 400 Bad Request\r\n\r\n")
}

/// Both ends' first flights, as they go out.
fn handshakes(folder: &Path) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let authority = Authority::create(&dir.path().join("ca"), "seeds").expect("an authority");
    let agent: Identity = "agent/h2".parse().expect("an identity");
    let issued = authority.issue(&agent, 30, dir.path()).expect("a certificate");
    let files = TrustFiles {
        authority: authority.certificate(),
        certificate: issued.certificate,
        key: issued.key,
        revoked: None,
    };
    let own = Trust::read(files).expect("its files").current();
    let mut client = Handshake::client(&own, Identity::Coordinator)?;
    let mut server = Handshake::server(&own, transhume_trust::Admits::Agents)?;
    while client.advance()? == Progress::Send {}
    let first = std::mem::take(client.to_send());
    put(folder, "handshake", "client", &[&[254][..], &first].concat())?;
    server.received().extend(&first);
    while server.advance()? == Progress::Send {}
    let answered = std::mem::take(server.to_send());
    put(folder, "handshake", "server", &[&[255][..], &answered].concat())
}
