//! Streams laid out as QEMU 10.0.2 lays them out, and the two ends of a page stream joined by hand.
#![allow(dead_code)] // each test binary uses its part

use transhume_model::ClusterName;
use transhume_pages::stream::{BlockTable, Page};
use transhume_pages::{
    ContentKey, DecodeError, Decoder, Encoder, EncoderConfig, Knowledge, PageStore, Parser, Progress, Token,
    Writer,
};

/// A small generator with a seed; no randomness from outside.
pub struct Seeded(pub u64);

impl Seeded {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// A page of one of the kinds that guests hold.
pub fn page(kind: u64, seed: u64) -> Page {
    let mut random = Seeded(seed.wrapping_mul(2654435761) | 1);
    let mut page = [0; 4096];
    match kind % 5 {
        0 => page.fill(seed as u8),
        1 => page.chunks_exact_mut(4).for_each(|word| {
            word.copy_from_slice(&(0x7f3a_0000u32 + (random.next() as u32 & 0xfff)).to_le_bytes());
        }),
        2 => page
            .iter_mut()
            .for_each(|byte| *byte = b"the quick brown fox "[(random.next() % 20) as usize]),
        3 => page.iter_mut().for_each(|byte| *byte = random.next() as u8),
        _ => page[(seed % 4096) as usize] = 7,
    }
    page
}

/// One page record to be: block, page number, contents (None: zero record).
pub type Record = (usize, u64, Option<Page>);

pub const BLOCKS: [(&str, u64); 3] = [
    ("pc.ram", 64 << 12),
    ("0000:00:02.0/vga.vram", 16 << 12),
    ("pc.bios", 4 << 12),
];

/// A whole stream: each round is a part of the `ram` section.
pub fn stream(rounds: &[Vec<Record>]) -> Vec<u8> {
    let mut out = b"QEVM\0\0\0\x03\x07\0\0\0\x0bpc-q35-10.0".to_vec();
    out.extend(b"\x05\x12configuration/uuid\0\0\0\x01");
    out.extend([0x12; 16]);
    out.extend(b"\x05\x1aconfiguration/capabilities\0\0\0\x01\0\0\0\x02\x06xbzrle\x03foo");
    out.extend(b"\x01\0\0\0\x01\x03ram\0\0\0\0\0\0\0\x04");
    let total: u64 = BLOCKS.iter().map(|(_, len)| len).sum();
    out.extend((total | 0x04).to_be_bytes());
    for (name, len) in BLOCKS {
        out.push(name.len() as u8);
        out.extend(name.as_bytes());
        out.extend(len.to_be_bytes());
    }
    out.extend(0x10u64.to_be_bytes());
    out.extend(b"\x7e\0\0\0\x01");
    let mut last = None;
    for (at, round) in rounds.iter().enumerate() {
        out.push(if at + 1 == rounds.len() { 3 } else { 2 });
        out.extend(1u32.to_be_bytes());
        for (block, number, page) in round {
            let (name, len) = BLOCKS[block % BLOCKS.len()];
            let flags = if page.is_some() { 0x08 } else { 0x02 } | if last == Some(name) { 0x20 } else { 0 };
            out.extend((((number << 12) % len) | flags).to_be_bytes());
            if last != Some(name) {
                out.push(name.len() as u8);
                out.extend(name.as_bytes());
            }
            last = Some(name);
            out.extend(page.as_ref().map_or(&[0u8][..], |page| &page[..]));
        }
        out.extend(0x200u64.to_be_bytes());
        out.extend(0x10u64.to_be_bytes());
        out.extend(b"\x7e\0\0\0\x01");
    }
    out.extend(b"\x08\0\x0b\0\0");
    out.extend(b"\x04\0\0\0\x02\x05timer\0\0\0\0\0\0\0\x02");
    out.extend((0..30_000u32).flat_map(|word| word.to_be_bytes()));
    out.push(0);
    out
}

/// A stream of `rounds` rounds over a guest of mixed pages; later rounds change a few words.
pub fn mixed(rounds: u64, pages: u64, seed: u64) -> Vec<u8> {
    let mut random = Seeded(seed | 1);
    let rounds: Vec<Vec<Record>> = (0..rounds)
        .map(|round| {
            (0..pages)
                .map(|number| {
                    let kind = number % 6;
                    let mut page = page(kind, number / 12);
                    if round > 0 {
                        let at = random.next() as usize % 4000;
                        page[at..at + 9].fill(round as u8);
                    }
                    (
                        usize::from(number % 11 == 10),
                        number,
                        (kind != 5).then_some(page),
                    )
                })
                .collect()
        })
        .collect();
    stream(&rounds)
}

/// What parsing in these pieces and writing again gives, with the page and zero records seen.
pub fn rewrite(stream: &[u8], pieces: &[usize]) -> (Vec<u8>, Vec<String>, Parser) {
    let (mut out, mut seen) = (Vec::new(), Vec::new());
    let mut parser = Parser::default();
    let mut sink = |token: Token<'_>, blocks: &BlockTable| {
        assert!(
            Writer::write(token, blocks, &mut out),
            "a token names a block that the parser knows"
        );
        match token {
            Token::Bytes(_) => {}
            Token::Page { head, data } => seen.push(format!("{head:?} {}", blake3::hash(data))),
            Token::Zero { head, fill } => seen.push(format!("{head:?} fill {fill}")),
        }
    };
    let (mut rest, mut sizes) = (stream, pieces.iter().copied().cycle());
    while !rest.is_empty() {
        let size = sizes.next().unwrap_or(usize::MAX).clamp(1, rest.len());
        parser.push(&rest[..size], &mut sink);
        rest = &rest[size..];
    }
    parser.hand_over(&mut sink);
    (out, seen, parser)
}

pub fn key(cluster: &str) -> ContentKey {
    ContentKey::of(
        &cluster.parse::<ClusterName>().expect("a cluster's name"),
        b"secret",
    )
}

pub fn config() -> EncoderConfig {
    EncoderConfig::new(key("herd"))
}

/// Pushes a whole piece; plain bytes come out in their place.
pub fn push<'w>(
    decoder: &mut Decoder,
    mut piece: &'w [u8],
    store: &mut PageStore,
    out: &mut Vec<u8>,
    back: &mut Vec<u8>,
) -> Result<Progress<'w>, DecodeError> {
    loop {
        match decoder.push(&mut piece, store, out, back)? {
            Progress::Plain(bytes) => out.extend_from_slice(bytes),
            Progress::More => {}
            ended_or_hungry => return Ok(ended_or_hungry),
        }
    }
}

/// Both ends of one stream.
pub struct Pair {
    pub encoder: Encoder,
    pub decoder: Decoder,
    pub out: Vec<u8>,
    pub ended: bool,
    /// Waits for other streams instead of asking.
    pub may_wait: bool,
}

impl Pair {
    pub fn new(config: EncoderConfig, link: Option<u64>) -> Self {
        let decoder = Decoder::new(config.key.clone()).expect("a decoder");
        let mut encoder = Encoder::new(config).expect("an encoder");
        encoder.link_rate(link);
        Pair {
            encoder,
            decoder,
            out: Vec::new(),
            ended: false,
            may_wait: false,
        }
    }

    /// Carries frames over, and answers back, until both are quiet.
    pub fn carry(
        &mut self,
        mut wire: Vec<u8>,
        know: &mut Knowledge,
        store: &mut PageStore,
    ) -> Result<(), DecodeError> {
        loop {
            let mut back = Vec::new();
            let mut progress = Progress::Hungry;
            for piece in wire.chunks(1500).chain(std::iter::once(&[][..])) {
                progress = push(&mut self.decoder, piece, store, &mut self.out, &mut back)?;
            }
            while self.stops_waiting() {
                progress = push(&mut self.decoder, &[], store, &mut self.out, &mut back)?;
            }
            self.ended |= matches!(progress, Progress::Ended(_));
            wire.clear();
            self.encoder
                .answer(&back, know, &mut wire, &mut Vec::new())
                .expect("honest answers");
            if wire.is_empty() {
                return Ok(());
            }
        }
    }

    /// Whether it just has.
    fn stops_waiting(&mut self) -> bool {
        let stops = !self.may_wait && self.decoder.waits_for_siblings().is_some();
        if stops {
            self.decoder.stop_waiting_for_siblings();
        }
        stops
    }

    /// Moves a whole stream; gives the bytes on the wire.
    pub fn run(
        &mut self,
        stream: &[u8],
        know: &mut Knowledge,
        store: &mut PageStore,
    ) -> Result<u64, DecodeError> {
        for piece in stream.chunks(20_011) {
            assert!(self.encoder.ready(), "everything was acknowledged");
            let mut wire = Vec::new();
            self.encoder.push(piece, know, &mut wire).expect("encodes");
            self.encoder.flush(&mut wire).expect("encodes");
            self.carry(wire, know, store)?;
        }
        let mut wire = Vec::new();
        self.encoder.finish(&mut wire).expect("encodes");
        self.carry(wire, know, store)?;
        Ok(self.encoder.account().wire_bytes)
    }
}
