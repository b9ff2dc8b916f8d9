//! A fixed number of seeded mutations of a target's seeds: the same inputs on every machine, for
//! tests that need no compiler with coverage.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::Target;

/// Changes of one input.
const CHANGES_MAX: u64 = 5;
/// Changed inputs that are changed further, beside the seeds.
const KEPT_MAX: usize = 64;
/// One in so many is kept.
const KEPT_ONE_IN: u64 = 16;
/// Longest piece that is inserted, repeated or taken out.
const PIECE_BYTES_MAX: u64 = 64;
/// Longest word of the seeds that is put elsewhere.
const WORD_BYTES_MAX: usize = 40;

/// Numbers at which parsers go wrong.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// Tries the seeds, then `executions` inputs made of them; the first that fails.
pub fn drive(target: &Target, seeds: &[Vec<u8>], seed: u64, executions: u32) -> Result<(), Vec<u8>> {
    let check = |input: &[u8]| catch_unwind(AssertUnwindSafe(|| (target.check)(input))).is_ok();
    if let Some(failed) = seeds.iter().find(|input| !check(input)) {
        return Err(failed.clone());
    }
    let mut maker = Maker::new(seeds, seed, target.bytes_max);
    for _ in 0..executions {
        let input = maker.next();
        if !check(&input) {
            return Err(input);
        }
    }
    Ok(())
}

struct Maker {
    /// Seeds first, then changed ones.
    pool: Vec<Vec<u8>>,
    seeds: usize,
    words: Vec<Vec<u8>>,
    bytes_max: usize,
    state: u64,
}

impl Maker {
    fn new(seeds: &[Vec<u8>], seed: u64, bytes_max: usize) -> Self {
        let mut pool = seeds.to_vec();
        if pool.is_empty() {
            pool.push(Vec::new());
        }
        Self {
            words: words(seeds),
            seeds: pool.len(),
            pool,
            bytes_max,
            state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
        }
    }

    /// xorshift64.
    fn random(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    fn below(&mut self, end: usize) -> usize {
        (self.random() >> 8) as usize % end.max(1)
    }

    fn next(&mut self) -> Vec<u8> {
        let from = self.below(self.pool.len());
        let mut input = self.pool[from].clone();
        for _ in 0..1 + self.random() % CHANGES_MAX {
            self.change(&mut input);
        }
        input.truncate(self.bytes_max);
        if self.random().is_multiple_of(KEPT_ONE_IN) {
            if self.pool.len() < self.seeds + KEPT_MAX {
                self.pool.push(input.clone());
            } else {
                let at = self.seeds + self.below(KEPT_MAX);
                self.pool[at].clone_from(&input);
            }
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len());
        let length = 1 + (self.random() % PIECE_BYTES_MAX) as usize;
        let end = (at + length).min(input.len());
        match self.random() % 10 {
            0 | 1 if !input.is_empty() => input[at] ^= 1 << (self.random() % 8),
            2 if !input.is_empty() => input[at] = self.random() as u8,
            3 => drop(input.drain(at..end)),
            4 => {
                let piece = input[at..end].to_vec();
                let to = self.below(input.len() + 1);
                input.splice(to..to, piece);
            }
            5 => self.edge(input, at),
            6 => input.truncate(at),
            7 => {
                let other = self.below(self.pool.len());
                let from = self.below(self.pool[other].len());
                input.truncate(at);
                input.extend_from_slice(&self.pool[other][from..]);
            }
            8 if !self.words.is_empty() => {
                let word = self.below(self.words.len());
                let over = if self.random().is_multiple_of(2) { at } else { end };
                input.splice(at..over, self.words[word].iter().copied());
            }
            _ => {
                let piece: Vec<u8> = (0..length % 9).map(|_| self.random() as u8).collect();
                input.splice(at..at, piece);
            }
        }
    }

    /// A number at which parsers go wrong, as bytes of one of two orders or as text.
    fn edge(&mut self, input: &mut Vec<u8>, at: usize) {
        let number = EDGES[self.below(EDGES.len())];
        let width = [1, 2, 4, 8][self.below(4)];
        let bytes = match self.random() % 3 {
            0 => number.to_le_bytes()[..width].to_vec(),
            1 => number.to_be_bytes()[8 - width..].to_vec(),
            _ => {
                let digits = input[at..]
                    .iter()
                    .take_while(|byte| byte.is_ascii_digit())
                    .count();
                input.splice(at..at + digits, number.to_string().into_bytes());
                return;
            }
        };
        let end = (at + width).min(input.len());
        input.splice(at..end, bytes);
    }
}

/// What stands between signs in the seeds: keys, names, numbers.
fn words(seeds: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let is_inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let all = seeds
        .iter()
        .flat_map(|seed| seed.split(move |byte| !is_inner(byte)));
    let fit = all.filter(|word| (2..=WORD_BYTES_MAX).contains(&word.len()));
    let distinct: BTreeSet<Vec<u8>> = fit.map(<[u8]>::to_vec).collect();
    distinct.into_iter().collect()
}
