//! Which codec a page gets: what the link can carry against what the CPU can do now (§1.3.1, refs
//! 5 and 25).
//!
//! A pipeline is as slow as its slowest part, so the cost of a class is max(CPU time, wire time),
//! and among equals the one with less CPU. While the link is crowded, with enough to do for longer
//! than the next pages take to look at, it is the wire time alone. CPU times are a table of
//! relative costs times one factor, which follows the measured time of the encoder's calls. Sizes
//! are a table too, by class and by the page's profile (how many different bytes it has, whether
//! its words look like recent words), times one factor per profile, which every codec that is used
//! corrects: so an estimate of one codec never grows old while another is in use. Pure: rates and
//! times are fed in. Deliberately absent: measuring them.

use crate::class::{Classes, PageClass};
use crate::limits::{GROUP_PAGES_MAX, PAGE_BYTES};
use crate::stream::Page;

/// Kinds of page profile.
const PROFILES: usize = 8;
/// Of the 64 words of a sample, from so many on they are alike.
const ALIKE_MIN: usize = 17;
/// Different bytes of a sample's 256 from which a page is of the next kind; random bytes have
/// about 162.
const DIFFERENT_MIN: [u32; 3] = [20, 60, 120];
/// Weight of a new measurement of one page, or of a time: 1/16.
const LEARN_SHIFT: u32 = 4;
/// Pages of a group that would move an estimate all the way: a full group has a quarter of the
/// weight.
const LEARN_GROUP_PAGES: u64 = 4 * GROUP_PAGES_MAX as u64;
/// Factors are kept in millionths, about: fine enough for the slowest decay.
const ONE: u64 = 1 << 20;
/// Least and most that a size may be of the typical one: an estimate that vanished could not grow
/// again.
const SIZE_MIN: u64 = ONE / 16;
const SIZE_MAX: u64 = 16 * ONE;
/// Bytes per second above which hashing for dedup would be the bottleneck (a third of BLAKE3's
/// speed on one core).
const HASH_RATE_MAX: u64 = 900_000_000;

/// A codec must save a sixteenth to be worth its trouble.
const RAW_BYTES_WEIGHED: u64 = PAGE_BYTES as u64 * 15 / 16;
/// How fast a bad estimate of the codecs decays while pages go raw, so that they are tried again:
/// 1/1024 per page.
const DECAY_SHIFT: u32 = 10;

/// A link is clearly slower than the codecs when it needs so many times their time for a page.
const CODECS_PAY_FACTOR: u64 = 2;

/// The codecs that the chooser weighs against each other.
const WEIGHED: [PageClass; 5] = [
    PageClass::Raw,
    PageClass::Lz4,
    PageClass::Wkdm,
    PageClass::Lzo,
    PageClass::Zstd,
];

/// Nanoseconds to encode a page on the machine of the bench (docs/performance.md), the copies on
/// its way in; the factor adapts them.
fn table_nanos(class: PageClass) -> u64 {
    match class {
        PageClass::Zero => 60,
        PageClass::Fill => 300,
        PageClass::Raw => 600,
        PageClass::Known => 1_900,
        PageClass::Delta => 1_000,
        PageClass::Wkdm => 3_200,
        PageClass::Lz4 => 3_900,
        PageClass::Lzo => 3_700,
        PageClass::Zstd => 6_100,
    }
}

/// Bytes that a page becomes, by profile: means over the 15 306 pages of a booted guest; of zstd,
/// what a page adds to its group.
fn typical_bytes(class: PageClass) -> [u64; PROFILES] {
    match class {
        PageClass::Wkdm => [2240, 3810, 4050, 4090, 950, 1410, 2630, 4090],
        // What LZO makes of a page is within some percent of that (docs/performance.md).
        PageClass::Lz4 | PageClass::Lzo => [1510, 2580, 3410, 4090, 650, 1530, 3540, 4090],
        PageClass::Zstd => [400, 800, 2180, 3690, 100, 520, 640, 3690],
        _ => [PAGE_BYTES as u64; PROFILES],
    }
}

/// What a page looks like to a codec: how many different bytes it has, and, from 4 on, whether its
/// words look like their neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageProfile(u8);

impl PageProfile {
    fn index(self) -> usize {
        usize::from(self.0) % PROFILES
    }
}

/// Looks at 64 words in runs of 16, spread over the page.
pub fn page_profile(page: &Page) -> PageProfile {
    let (mut alike, mut bytes) = (0, [0u64; 4]);
    for run in page.chunks_exact(PAGE_BYTES / 4) {
        let sample = &run[480..544];
        for byte in sample {
            bytes[usize::from(byte >> 6)] |= 1 << (byte & 63);
        }
        let words: [u32; 16] = std::array::from_fn(|at| {
            let byte = 4 * at;
            u32::from_le_bytes([sample[byte], sample[byte + 1], sample[byte + 2], sample[byte + 3]])
        });
        for (at, word) in words.iter().enumerate() {
            let recent = &words[at.saturating_sub(4)..at];
            alike += usize::from(*word == 0 || recent.iter().any(|seen| seen >> 10 == word >> 10));
        }
    }
    let different: u32 = bytes.iter().map(|seen| seen.count_ones()).sum();
    let kind = DIFFERENT_MIN.iter().filter(|min| different >= **min).count();
    PageProfile((kind + if alike >= ALIKE_MIN { PROFILES / 2 } else { 0 }) as u8)
}

/// Decides for one stream.
#[derive(Clone, Debug)]
pub struct Chooser {
    classes: Classes,
    /// Bytes per second; None: not limited.
    link_bytes_per_second: Option<u64>,
    /// The link has enough to do for a while.
    crowded: bool,
    /// Measured over table time.
    factor: u64,
    /// Bytes seen over typical bytes, per profile.
    sizes: [u64; PROFILES],
}

impl Chooser {
    /// Chooses among these classes; the link's rate is unknown, which counts as unlimited.
    pub fn new(classes: Classes) -> Self {
        Chooser {
            classes,
            link_bytes_per_second: None,
            crowded: false,
            factor: ONE,
            sizes: [ONE; PROFILES],
        }
    }

    /// The link's rate, as measured or as set by the governor; None: not limited.
    pub fn link_rate(&mut self, bytes_per_second: Option<u64>) {
        self.link_bytes_per_second = bytes_per_second;
    }

    /// Whether the link has enough to do for a while: then a page's processor time costs nothing.
    pub fn crowded(&mut self, crowded: bool) {
        self.crowded = crowded;
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
        let able = bytes_per_second.saturating_mul(ONE) / self.factor.max(1);
        self.link_bytes_per_second.is_some_and(|link| link < able)
    }

    /// Whether the link takes a plain page in less time than any codec needs to look at it: then no
    /// page need be looked at.
    pub fn raw_always_pays(&self) -> bool {
        self.wire_nanos(RAW_BYTES_WEIGHED) <= self.cheapest_nanos()
    }

    /// Whether looking at pages pays again: the link is clearly slower than the codecs.
    pub fn codecs_pay(&self) -> bool {
        self.wire_nanos(RAW_BYTES_WEIGHED) > CODECS_PAY_FACTOR * self.cheapest_nanos()
    }

    fn cheapest_nanos(&self) -> u64 {
        let allowed = |class: &PageClass| *class != PageClass::Raw && self.classes.allow(*class);
        let codecs = WEIGHED.into_iter().filter(allowed);
        match codecs.map(table_nanos).min() {
            Some(cheapest) => cheapest * self.factor / ONE,
            // There is nothing to weigh against.
            None => u64::MAX / CODECS_PAY_FACTOR,
        }
    }

    /// Bytes went by without a codec: what was measured of the machine grows old, and the table
    /// counts for more.
    pub fn rested(&mut self) {
        learn(&mut self.factor, ONE, LEARN_SHIFT);
    }

    /// The codec for a page of this profile.
    pub fn choose(&self, profile: PageProfile) -> PageClass {
        let cost = |class: PageClass| {
            let cpu = table_nanos(class) * self.factor / ONE;
            let bytes = match class {
                PageClass::Raw => RAW_BYTES_WEIGHED,
                codec => self.expected_bytes(codec, profile),
            };
            let wire = self.wire_nanos(bytes);
            (if self.crowded { wire } else { cpu.max(wire) }, cpu)
        };
        WEIGHED
            .into_iter()
            .filter(|class| self.classes.allow(*class))
            .min_by_key(|class| cost(*class))
            .unwrap_or(PageClass::Raw)
    }

    /// Bytes that this class is expected to make of a page; more than a page where it makes it
    /// longer.
    pub fn expected_bytes(&self, class: PageClass, profile: PageProfile) -> u64 {
        let at = profile.index();
        typical_bytes(class)[at] * self.sizes[at] / ONE
    }

    fn wire_nanos(&self, bytes: u64) -> u64 {
        self.link_bytes_per_second
            .map_or(0, |rate| bytes * 1_000_000_000 / rate.max(1))
    }

    /// A page of this profile became so many bytes.
    pub fn learn_bytes(&mut self, class: PageClass, profile: PageProfile, bytes: usize) {
        let seen = bytes as u64 * ONE / typical_bytes(class)[profile.index()];
        learn(
            &mut self.sizes[profile.index()],
            seen.clamp(SIZE_MIN, SIZE_MAX),
            LEARN_SHIFT,
        );
    }

    /// Pages of these profiles became so many bytes together: each as much more or less as all of
    /// them.
    pub fn learn_group(&mut self, class: PageClass, profiles: &[PageProfile], bytes: u64) {
        let expected = profiles.iter().map(|page| self.expected_bytes(class, *page));
        let all: u64 = expected.sum();
        let mut pages = [0; PROFILES];
        profiles.iter().for_each(|page| pages[page.index()] += 1);
        for (size, pages) in self.sizes.iter_mut().zip(pages) {
            let seen = (*size * bytes / all.max(1)).clamp(SIZE_MIN, SIZE_MAX);
            *size = (*size * (LEARN_GROUP_PAGES - pages) + seen * pages) / LEARN_GROUP_PAGES;
        }
    }

    /// A page of this profile went raw by choice: the high estimate decays a little.
    pub fn decay(&mut self, profile: PageProfile) {
        let size = &mut self.sizes[profile.index()];
        *size -= size.saturating_sub(ONE) >> DECAY_SHIFT;
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
        let seen = (nanos.saturating_mul(ONE) / table).clamp(ONE / 100, 100 * ONE);
        learn(&mut self.factor, seen, LEARN_SHIFT);
    }
}

/// Moves a factor towards what was seen, by 1/2^shift of the way.
fn learn(factor: &mut u64, seen: u64, shift: u32) {
    *factor = *factor - (*factor >> shift) + (seen >> shift);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Unlike words, 20 to 59 different bytes.
    const TEXT: PageProfile = PageProfile(1);

    #[test]
    fn an_unlimited_link_is_never_slowed_by_a_codec() {
        let chooser = Chooser::new(Classes::default());
        assert!(chooser.raw_always_pays());
        assert_eq!(chooser.choose(TEXT), PageClass::Raw);
        assert!(!chooser.dedup_pays());
    }

    #[test]
    fn where_no_codec_is_allowed_none_is_waited_for() {
        let mut chooser = Chooser::new(Classes::none());
        chooser.link_rate(Some(1_000_000));
        assert!(chooser.raw_always_pays() && !chooser.codecs_pay());
    }

    #[test]
    fn lzo_is_chosen_only_where_it_is_asked_for() {
        let lzo = Classes::none().with(PageClass::Lzo);
        for (classes, chosen) in [(lzo, PageClass::Lzo), (Classes::default(), PageClass::Zstd)] {
            let mut chooser = Chooser::new(classes);
            chooser.link_rate(Some(25_000_000));
            assert_eq!(chooser.choose(TEXT), chosen);
        }
    }

    #[test]
    fn a_slow_link_gets_the_smallest_pages() {
        let mut chooser = Chooser::new(Classes::default());
        chooser.link_rate(Some(25_000_000));
        assert_eq!(chooser.choose(TEXT), PageClass::Zstd);
        assert!(chooser.dedup_pays() && chooser.delta_pays() && !chooser.raw_always_pays());
    }

    #[test]
    fn a_crowded_link_gets_the_smallest_pages_whatever_they_cost() {
        let mut chooser = Chooser::new(Classes::default());
        chooser.link_rate(Some(900_000_000));
        assert_eq!(chooser.choose(TEXT), PageClass::Lz4);
        chooser.crowded(true);
        assert_eq!(chooser.choose(TEXT), PageClass::Zstd);
        chooser.crowded(false);
        assert_eq!(chooser.choose(TEXT), PageClass::Lz4);
    }

    #[test]
    fn a_busy_cpu_moves_the_choice_to_a_cheaper_codec() {
        let mut chooser = Chooser::new(Classes::default());
        chooser.link_rate(Some(250_000_000));
        let idle = chooser.choose(TEXT);
        for _ in 0..200 {
            chooser.learn_nanos(&[(idle, 64)], 64 * 60_000);
        }
        assert_eq!(idle, PageClass::Zstd);
        assert_eq!(chooser.choose(TEXT), PageClass::Raw);
    }

    #[test]
    fn random_memory_is_learned_to_be_raw() {
        let mut chooser = Chooser::new(Classes::default());
        chooser.link_rate(Some(25_000_000));
        let random = PageProfile(3);
        assert_eq!(chooser.choose(random), PageClass::Zstd, "it might not be");
        for _ in 0..4 {
            chooser.learn_group(PageClass::Zstd, &[random; 64], 64 * 4097);
        }
        assert_eq!(chooser.choose(random), PageClass::Raw);
        for _ in 0..2000 {
            chooser.decay(random);
        }
        assert_eq!(
            chooser.choose(random),
            PageClass::Zstd,
            "it may be other memory now"
        );
    }

    #[test]
    fn profiles_tell_random_bytes_from_text_and_from_pointers() {
        let mut state = 1u64;
        let random: Page = std::array::from_fn(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        });
        let text: Page = std::array::from_fn(|at| b"to be or not to be, that is the question"[at * 7 % 40]);
        let pointers: Page = std::array::from_fn(|at| match at % 8 {
            0 => (at / 8 % 4) as u8,
            4 => 3,
            _ => 0,
        });
        assert_eq!(page_profile(&random), PageProfile(3));
        assert!(
            matches!(page_profile(&text), PageProfile(0 | 1)),
            "{:?}",
            page_profile(&text)
        );
        assert_eq!(page_profile(&pointers), PageProfile(4));
    }

    /// Found on a booted guest: after some pages that nothing compresses, WKdm looked better than
    /// zstd, and zstd was never tried again.
    #[test]
    fn what_is_learned_of_one_codec_is_learned_of_all() {
        let mut chooser = Chooser::new(Classes::default());
        chooser.link_rate(Some(25_000_000));
        let (random, sparse) = (PageProfile(3), PageProfile(4));
        let mut group = vec![random; 60];
        group.extend([sparse; 4]);
        for _ in 0..20 {
            chooser.learn_group(PageClass::Zstd, &group, 60 * 4096 + 4 * 400);
            for _ in 0..60 {
                chooser.learn_bytes(PageClass::Wkdm, sparse, 1100);
            }
        }
        assert_eq!(chooser.choose(random), PageClass::Raw);
        assert_eq!(chooser.choose(sparse), PageClass::Zstd);
    }

    /// Without a least size it came down to nothing, and leapt from there past everything.
    #[test]
    fn an_estimate_recovers_from_pages_that_became_almost_nothing() {
        let sparse = PageProfile(4);
        let group = [sparse; 64];
        for groups in 1..200 {
            let mut chooser = Chooser::new(Classes::default());
            let typical = chooser.expected_bytes(PageClass::Zstd, sparse);
            for _ in 0..groups {
                chooser.learn_group(PageClass::Zstd, &group, 30);
            }
            for _ in 0..40 {
                chooser.learn_group(PageClass::Zstd, &group, 64 * typical);
                let expected = chooser.expected_bytes(PageClass::Zstd, sparse);
                assert!(expected <= 2 * typical, "{expected} after {groups} groups");
            }
            assert!(chooser.expected_bytes(PageClass::Zstd, sparse) >= typical * 9 / 10);
        }
    }

    /// As long as expectations ended at a page's length, each such group made it a little worse.
    #[test]
    fn however_long_nothing_helped_codecs_are_tried_again() {
        let mut chooser = Chooser::new(Classes::default());
        chooser.link_rate(Some(25_000_000));
        let random = PageProfile(3);
        for _ in 0..100_000 {
            chooser.learn_group(PageClass::Zstd, &[random; 64], 64 * 4097);
        }
        for _ in 0..3000 {
            chooser.decay(random);
        }
        assert_eq!(chooser.choose(random), PageClass::Zstd);
    }

    #[test]
    fn a_class_that_is_off_is_not_chosen() {
        let mut chooser = Chooser::new(Classes::default().without(PageClass::Zstd));
        chooser.link_rate(Some(25_000_000));
        assert_eq!(chooser.choose(TEXT), PageClass::Lz4);
    }
}
