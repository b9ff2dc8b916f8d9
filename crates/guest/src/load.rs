//! `/init load KIND MIB MIB_PER_S`: a program that rewrites its memory at a set rate, for
//! measurements of the page path.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

const PAGE_BYTES: usize = 4096;
const PAGES_PER_MIB: u64 = 256;
const TICK: Duration = Duration::from_millis(10);
const MIB_MAX: u64 = 4096;

/// What is written into a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Words that differ in their low bits.
    Compressible,
    /// Words of a random sequence.
    Random,
}

/// Runs until the guest ends.
pub fn run(arguments: &[String]) -> io::Result<()> {
    let usage = || io::Error::other("load KIND MIB MIB_PER_S: compressible or random, and two numbers");
    let [kind, mib, rate] = arguments else {
        return Err(usage());
    };
    let kind = match kind.as_str() {
        "compressible" => Kind::Compressible,
        "random" => Kind::Random,
        _ => return Err(usage()),
    };
    let mib: u64 = mib.parse().map_err(|_| usage())?;
    let rate: u64 = rate.parse().map_err(|_| usage())?;
    if mib == 0 || mib > MIB_MAX {
        return Err(usage());
    }
    let mut memory = vec![0; mib as usize * PAGES_PER_MIB as usize * PAGE_BYTES];
    let mut state = Instant::now().elapsed().as_nanos() as u64 ^ u64::from(std::process::id()) ^ boot_id();
    let begun = Instant::now();
    let mut written = 0;
    for page in memory.chunks_exact_mut(PAGE_BYTES) {
        fill(kind, page, &mut state);
    }
    loop {
        // Behind after a blackout: what was missed is not made up for.
        let due = begun.elapsed().as_millis() as u64 * rate * PAGES_PER_MIB / 1000;
        let most = TICK.as_millis() as u64 * rate * PAGES_PER_MIB / 1000 + 1;
        for _ in 0..(due.saturating_sub(written)).min(most) {
            let at = (written as usize * PAGE_BYTES) % memory.len();
            fill(kind, &mut memory[at..at + PAGE_BYTES], &mut state);
            written += 1;
        }
        written = written.max(due.saturating_sub(most));
        thread::sleep(TICK);
    }
}

/// Differs between guests, so that random memory is no other guest's.
fn boot_id() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.bytes().fold(1, |hash: u64, byte| {
        hash.wrapping_mul(0x100_0000_01b3) ^ u64::from(byte)
    })
}

fn fill(kind: Kind, page: &mut [u8], state: &mut u64) {
    for word in page.chunks_exact_mut(8) {
        // xorshift64* (Vigna 2016).
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        let random = state.wrapping_mul(0x2545_f491_4f6c_dd1d);
        let value = match kind {
            Kind::Random => random,
            Kind::Compressible => 0x0000_7f5a_1000_0000 | (random & 0xff) << 4,
        };
        word.copy_from_slice(&value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_what_they_say() {
        let mut state = 1;
        let (mut random, mut compressible) = (vec![0; PAGE_BYTES], vec![0; PAGE_BYTES]);
        fill(Kind::Random, &mut random, &mut state);
        fill(Kind::Compressible, &mut compressible, &mut state);
        let distinct = |page: &[u8]| page.iter().collect::<std::collections::HashSet<_>>().len();
        assert!(distinct(&random) > 240, "{}", distinct(&random));
        assert!(
            compressible
                .chunks(8)
                .all(|word| word[2..] == [0, 0x10, 0x5a, 0x7f, 0, 0])
        );
    }

    #[test]
    fn wrong_arguments_are_refused() {
        for words in [vec!["random"], vec!["other", "1", "1"], vec!["random", "0", "1"]] {
            let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
            assert!(run(&words).is_err());
        }
    }
}
