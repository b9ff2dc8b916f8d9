//! Which codec a page gets: what the link can carry against what the CPU can do now (§1.3.1, refs 5 and 25).
//!
//! A pipeline is as slow as its slowest part, so the cost of a class is max(CPU time, wire time), and among equals the
//! one with less CPU. CPU times are a table of relative costs times one factor, which follows the measured time of the
//! encoder's calls; sizes are learned per class and per similarity of the page (the share of its words that are zero or
//! look like recent words). Pure: rates and times are fed in. Deliberately absent: measuring them.

use crate::class::{Classes, PageClass};
use crate::limits::PAGE_BYTES;
use crate::stream::Page;

/// Quarters of similarity.
const BUCKETS: usize = 4;
const SAMPLE_WORDS: usize = 64;
/// Weight of a new measurement: 1/16.
const LEARN_SHIFT: u32 = 4;
/// Bytes per second above which hashing for dedup would be the bottleneck (a third of BLAKE3's speed on one core).
const HASH_RATE_MAX: u64 = 900_000_000;

/// A codec must save a sixteenth to be worth its trouble.
const RAW_BYTES_WEIGHED: u64 = PAGE_BYTES as u64 * 15 / 16;
/// How fast a bad opinion of a codec fades while pages go raw, so that it is tried again: 1/4096 per page.
const FADE_SHIFT: u32 = 12;

/// The codecs that the chooser weighs against each other.
const WEIGHED: [PageClass; 4] = [PageClass::Raw, PageClass::Lz4, PageClass::Wkdm, PageClass::Zstd];

/// Nanoseconds to encode a page on the machine of the bench; the factor adapts them.
fn table_nanos(class: PageClass) -> u64 {
    match class {
        PageClass::Zero => 20,
        PageClass::Fill | PageClass::Raw => 250,
        PageClass::Known => 1_900,
        PageClass::Delta => 600,
        PageClass::Wkdm => 2_200,
        PageClass::Lz4 => 2_700,
        PageClass::Zstd => 4_000,
    }
}

/// How alike a page's words are: a quarter from 0 (unlike) to 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Similarity(u8);

/// Looks at 64 words in runs of 16, spread over the page.
pub fn similarity(page: &Page) -> Similarity {
    let mut alike = 0;
    for run in page.chunks_exact(PAGE_BYTES / 4) {
        let words: [u32; 16] = std::array::from_fn(|at| {
            let byte = 4 * at + 480;
            u32::from_le_bytes([run[byte], run[byte + 1], run[byte + 2], run[byte + 3]])
        });
        for (at, word) in words.iter().enumerate() {
            let recent = &words[at.saturating_sub(4)..at];
            alike += usize::from(*word == 0 || recent.iter().any(|seen| seen >> 10 == word >> 10));
        }
    }
    Similarity((alike * BUCKETS / (SAMPLE_WORDS + 1)) as u8)
}

/// Decides for one stream.
#[derive(Clone, Debug)]
pub struct Chooser {
    classes: Classes,
    /// Bytes per second; None: not limited.
    link_bytes_per_second: Option<u64>,
    /// Measured over table time, in 1/1024.
    factor: u64,
    /// Expected bytes of a page per class and similarity, in 1/16 byte.
    expected: [[u64; BUCKETS]; PageClass::ALL.len()],
}

impl Chooser {
    /// Chooses among these classes; the link's rate is unknown, which counts as unlimited.
    pub fn new(classes: Classes) -> Self {
        let mut expected = [[16 * PAGE_BYTES as u64; BUCKETS]; PageClass::ALL.len()];
        expected[PageClass::Wkdm as usize] = [4400, 3300, 2300, 1400].map(|bytes| bytes * 16);
        expected[PageClass::Lz4 as usize] = [2900, 2300, 1700, 900].map(|bytes| bytes * 16);
        expected[PageClass::Zstd as usize] = [2300, 1800, 1300, 650].map(|bytes| bytes * 16);
        Chooser {
            classes,
            link_bytes_per_second: None,
            factor: 1024,
            expected,
        }
    }

    /// The link's rate, as measured or as set by the governor; None: not limited.
    pub fn link_rate(&mut self, bytes_per_second: Option<u64>) {
        self.link_bytes_per_second = bytes_per_second;
    }

    /// The allowed classes.
    pub fn classes(&self) -> Classes {
        self.classes
    }

    /// Whether hashing every page keeps up with the link.
    pub fn dedup_pays(&self) -> bool {
        self.classes.allow(PageClass::Known) && self.slower_than(HASH_RATE_MAX)
    }

    /// Whether keeping versions keeps up with the link.
    pub fn delta_pays(&self) -> bool {
        self.classes.allow(PageClass::Delta) && self.slower_than(2 * HASH_RATE_MAX)
    }

    fn slower_than(&self, bytes_per_second: u64) -> bool {
        let able = bytes_per_second.saturating_mul(1024) / self.factor.max(1);
        self.link_bytes_per_second.is_some_and(|link| link < able)
    }

    /// The codec for a page of this similarity.
    pub fn choose(&self, similarity: Similarity) -> PageClass {
        let cost = |class: PageClass| {
            let cpu = table_nanos(class) * self.factor / 1024;
            let bytes = match class {
                PageClass::Raw => RAW_BYTES_WEIGHED,
                codec => self.expected_bytes(codec, similarity),
            };
            (cpu.max(self.wire_nanos(bytes)), cpu)
        };
        WEIGHED
            .into_iter()
            .filter(|class| self.classes.allow(*class))
            .min_by_key(|class| cost(*class))
            .unwrap_or(PageClass::Raw)
    }

    /// Bytes that this class is expected to make of a page.
    pub fn expected_bytes(&self, class: PageClass, similarity: Similarity) -> u64 {
        self.expected[class as usize][usize::from(similarity.0) % BUCKETS] / 16
    }

    fn wire_nanos(&self, bytes: u64) -> u64 {
        self.link_bytes_per_second
            .map_or(0, |rate| bytes * 1_000_000_000 / rate.max(1))
    }

    /// A page of this similarity became so many bytes.
    pub fn learn_bytes(&mut self, class: PageClass, similarity: Similarity, bytes: usize) {
        let expected = &mut self.expected[class as usize][usize::from(similarity.0) % BUCKETS];
        *expected = *expected - (*expected >> LEARN_SHIFT) + ((16 * bytes as u64) >> LEARN_SHIFT);
    }

    /// A page of this similarity went raw by choice: the codecs' bad record fades a little.
    pub fn fade(&mut self, similarity: Similarity) {
        for class in [PageClass::Lz4, PageClass::Wkdm, PageClass::Zstd] {
            let expected = &mut self.expected[class as usize][usize::from(similarity.0) % BUCKETS];
            *expected -= *expected >> FADE_SHIFT;
        }
    }

    /// Encoding these pages took so long. Corrects the factor, within a hundredfold either way.
    pub fn learn_nanos(&mut self, pages: &[(PageClass, u64)], nanos: u64) {
        let table: u64 = pages
            .iter()
            .map(|(class, pages)| table_nanos(*class).saturating_mul(*pages))
            .sum();
        if table == 0 {
            return;
        }
        let seen = (nanos.saturating_mul(1024) / table).clamp(10, 102_400);
        self.factor = (self.factor - (self.factor >> LEARN_SHIFT) + (seen >> LEARN_SHIFT)).max(10);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALIKE: Similarity = Similarity(1);

    #[test]
    fn an_unlimited_link_is_never_slowed_by_a_codec() {
        let chooser = Chooser::new(Classes::default());
        assert_eq!(chooser.choose(ALIKE), PageClass::Raw);
        assert!(!chooser.dedup_pays());
    }

    #[test]
    fn a_slow_link_gets_the_smallest_pages() {
        let mut chooser = Chooser::new(Classes::default());
        chooser.link_rate(Some(25_000_000));
        assert_eq!(chooser.choose(ALIKE), PageClass::Zstd);
        assert!(chooser.dedup_pays() && chooser.delta_pays());
    }

    #[test]
    fn a_busy_cpu_moves_the_choice_to_a_cheaper_codec() {
        let mut chooser = Chooser::new(Classes::default());
        chooser.link_rate(Some(500_000_000));
        let idle = chooser.choose(ALIKE);
        for _ in 0..200 {
            chooser.learn_nanos(&[(idle, 64)], 64 * 60_000);
        }
        assert_eq!(idle, PageClass::Zstd);
        assert_eq!(chooser.choose(ALIKE), PageClass::Raw);
    }

    #[test]
    fn random_memory_is_learned_to_be_raw() {
        let mut chooser = Chooser::new(Classes::default());
        chooser.link_rate(Some(25_000_000));
        for _ in 0..400 {
            let class = chooser.choose(Similarity(0));
            chooser.learn_bytes(class, Similarity(0), PAGE_BYTES + 1);
        }
        assert_eq!(chooser.choose(Similarity(0)), PageClass::Raw);
    }

    #[test]
    fn a_class_that_is_off_is_not_chosen() {
        let mut chooser = Chooser::new(Classes::default().without(PageClass::Zstd));
        chooser.link_rate(Some(25_000_000));
        assert_eq!(chooser.choose(ALIKE), PageClass::Lz4);
    }
}
