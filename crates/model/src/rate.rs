//! Speeds of links as people write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

const UNITS: [(&str, u64); 4] = [
    ("gbit", 1_000_000_000),
    ("mbit", 1_000_000),
    ("kbit", 1_000),
    ("bit", 1),
];

/// Bits per second, never 0; written `200mbit`, `1gbit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "200mbit")]
pub struct BitRate(u64);

/// What a band has of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BandRates {
    /// Always.
    pub guaranteed: BitRate,
    /// At most.
    pub ceiling: BitRate,
}

/// Why a text is no rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no rate: write a whole number and kbit, mbit or gbit, like 200mbit")]
pub struct RateError {
    text: String,
}

impl BitRate {
    /// `None` for 0.
    pub fn from_bits_per_s(bits_per_s: u64) -> Option<Self> {
        (bits_per_s > 0).then_some(Self(bits_per_s))
    }

    /// Bits per second.
    pub fn bits_per_s(self) -> u64 {
        self.0
    }

    /// Bytes per second.
    pub fn bytes_per_s(self) -> u64 {
        self.0 / 8
    }

    /// So many hundredths of it, at least 1 bit per second.
    pub fn percent(self, percent: u8) -> Self {
        let bits = u128::from(self.0) * u128::from(percent) / 100;
        Self(u64::try_from(bits).unwrap_or(u64::MAX).max(1))
    }
}

impl FromStr for BitRate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let parsed = UNITS.iter().find_map(|(unit, factor)| {
            let number = text.strip_suffix(unit)?;
            // `parse` would take a sign.
            let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| number.parse::<u64>().ok()?.checked_mul(*factor))?
        });
        parsed.and_then(Self::from_bits_per_s).ok_or_else(|| RateError {
            text: text.to_owned(),
        })
    }
}

impl fmt::Display for BitRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = UNITS.iter().find(|(_, factor)| self.0.is_multiple_of(*factor));
        let (unit, factor) = fits.unwrap_or(&("bit", 1));
        f.pad(&format!("{}{unit}", self.0 / factor))
    }
}

impl TryFrom<String> for BitRate {
    type Error = RateError;

    fn try_from(text: String) -> Result<Self, RateError> {
        text.parse()
    }
}

impl From<BitRate> for String {
    fn from(rate: BitRate) -> String {
        rate.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_written() {
        for (text, bits) in [
            ("200mbit", 200_000_000),
            ("1gbit", 1_000_000_000),
            ("64kbit", 64_000),
            ("1001bit", 1_001),
        ] {
            let rate: BitRate = text.parse().unwrap();
            assert_eq!((rate.bits_per_s(), rate.to_string().as_str()), (bits, text));
        }
        for bad in [
            "",
            "1",
            "gbit",
            "0mbit",
            "-1gbit",
            "+1gbit",
            "99999999999gbit",
            "1 gbit",
            "1Gbit",
        ] {
            assert!(bad.parse::<BitRate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn parts_are_rounded_down_and_never_nothing() {
        let link = BitRate::from_bits_per_s(1_000_000_001).unwrap();
        assert_eq!(link.percent(97).bits_per_s(), 970_000_000);
        assert_eq!(BitRate::from_bits_per_s(1).unwrap().percent(1).bits_per_s(), 1);
        assert_eq!(
            BitRate::from_bits_per_s(u64::MAX)
                .unwrap()
                .percent(100)
                .bits_per_s(),
            u64::MAX
        );
    }
}
