//! The text of an amount: a number of YAML's core schema, then perhaps a unit.

use super::amount::{UNIT, UNITS_MAX};

/// What the published schema says of amounts with a unit.
pub(super) const PATTERN: &str =
    "^[0-9]*\\.?[0-9]+([eE][+-]?[0-9]+)? ?(m|k|B|[KMGTP]iB?|[kKMGTP]B|[kMGT]?bit(/s)?|[kMGT]?bps)?$";
/// Digits of a number that are kept: more than any amount has.
const DIGITS_MAX: usize = 30;
/// Largest power of ten either way.
const EXPONENT_MAX: i32 = 60;
const MIB: u128 = 1 << 20;
/// Twice as many parts of a unit as the largest amount has: what has more, roughly counted, is
/// surely too large.
const PARTS_SURELY_TOO_MANY: f64 = 2.0 * UNITS_MAX as f64 * UNIT as f64;

/// What a unit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// No unit.
    Plain,
    /// Bytes; the amount is in MiB.
    Bytes,
    /// Bits per second; the amount is in Mbit/s.
    BitRate,
    /// Anything countable.
    Count,
}

/// Reads an amount in parts of a unit, or says why it is none; `None` where it is no whole number
/// of them.
pub(super) fn read(text: &str) -> Result<(Option<u128>, Kind), String> {
    let text = text.trim();
    if let Some(word) = special(text) {
        return Err(word);
    }
    let end = number_end(text);
    let (number, unit) = (&text[..end], text[end..].trim_start());
    let (kind, times, per) = match unit {
        "" => (Kind::Plain, 1, 1),
        unit => factor(unit).ok_or_else(|| unknown(text, number, unit))?,
    };
    let decimal = Decimal::read(number).ok_or_else(|| not_a_number(text))?;
    if decimal.is_negative && decimal.digits > 0 {
        return Err(format!("{text} is negative: amounts are 0 or more"));
    }
    let (above, below) = decimal
        .ratio(times * UNIT, per)
        .filter(|(above, below)| above / below <= u128::from(UNITS_MAX) * UNIT)
        .ok_or_else(|| format!("{text} is too large: the most is {UNITS_MAX}"))?;
    Ok(((above % below == 0).then_some(above / below), kind))
}

fn special(text: &str) -> Option<String> {
    match text {
        ".nan" | ".NaN" | ".NAN" | "NaN" => Some("NaN is not an amount".to_owned()),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "inf" => {
            Some(format!("{text} is too large: the most is {UNITS_MAX}"))
        }
        "-.inf" | "-.Inf" | "-.INF" | "-inf" => Some(format!("{text} is negative: amounts are 0 or more")),
        _ => None,
    }
}

fn not_a_number(text: &str) -> String {
    format!("a number from 0 to {UNITS_MAX}, or one with a unit like 512MiB, is expected, not `{text}`")
}

fn unknown(text: &str, number: &str, unit: &str) -> String {
    match unit {
        _ if number.is_empty() => not_a_number(text),
        "K" | "M" | "G" | "T" | "P" => format!(
            "`{text}` may mean {number}{unit}B or {number}{unit}iB: write one of them, or a number without a unit"
        ),
        _ => format!(
            "`{unit}` is no unit: bytes are KiB, MiB, GiB, TiB, kB, MB, GB, TB; rates kbit/s, Mbit/s, Gbit/s; `m` is a thousandth"
        ),
    }
}

/// Where the number ends and a unit begins.
fn number_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    let sign = usize::from(matches!(bytes.first(), Some(b'+' | b'-')));
    if bytes[sign..].starts_with(b"0x") || bytes[sign..].starts_with(b"0o") {
        return text.len();
    }
    let digits = |from: usize| from + bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let mut end = digits(sign);
    if bytes.get(end) == Some(&b'.') {
        end = digits(end + 1);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits(end + 1 + sign);
        if exponent > end + 1 + sign {
            end = exponent;
        }
    }
    end
}

/// What a unit is in MiB, in Mbit/s or in pieces, as a fraction.
fn factor(unit: &str) -> Option<(Kind, u128, u128)> {
    let thousand = |power: u32| 1000u128.pow(power);
    Some(match unit {
        "m" => (Kind::Count, 1, 1000),
        "k" => (Kind::Count, 1000, 1),
        "B" => (Kind::Bytes, 1, MIB),
        "KiB" | "Ki" => (Kind::Bytes, 1, 1 << 10),
        "MiB" | "Mi" => (Kind::Bytes, 1, 1),
        "GiB" | "Gi" => (Kind::Bytes, 1 << 10, 1),
        "TiB" | "Ti" => (Kind::Bytes, 1 << 20, 1),
        "PiB" | "Pi" => (Kind::Bytes, 1 << 30, 1),
        "kB" | "KB" => (Kind::Bytes, thousand(1), MIB),
        "MB" => (Kind::Bytes, thousand(2), MIB),
        "GB" => (Kind::Bytes, thousand(3), MIB),
        "TB" => (Kind::Bytes, thousand(4), MIB),
        "PB" => (Kind::Bytes, thousand(5), MIB),
        "bit" | "bit/s" | "bps" => (Kind::BitRate, 1, thousand(2)),
        "kbit" | "kbit/s" | "kbps" => (Kind::BitRate, 1, thousand(1)),
        "Mbit" | "Mbit/s" | "Mbps" => (Kind::BitRate, 1, 1),
        "Gbit" | "Gbit/s" | "Gbps" => (Kind::BitRate, thousand(1), 1),
        "Tbit" | "Tbit/s" | "Tbps" => (Kind::BitRate, thousand(2), 1),
        _ => return None,
    })
}

/// `digits` times ten to the `exponent`.
struct Decimal {
    is_negative: bool,
    digits: u128,
    exponent: i32,
}

impl Decimal {
    fn read(text: &str) -> Option<Self> {
        let (is_negative, text) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let of_radix = |digits: &str, radix: u32| {
            let plain = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
            let digits = plain
                .then(|| u128::from_str_radix(digits, radix).ok())
                .flatten()?;
            Some(Self {
                is_negative,
                digits,
                exponent: 0,
            })
        };
        if let Some(digits) = text.strip_prefix("0x") {
            return of_radix(digits, 16);
        }
        if let Some(digits) = text.strip_prefix("0o") {
            return of_radix(digits, 8);
        }
        let (mantissa, exponent) = match text.find(['e', 'E']) {
            Some(at) => (&text[..at], text[at + 1..].parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let is_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() && mantissa.len() < 2 || !is_digits(whole) || !is_digits(fraction) {
            return None;
        }
        let (whole, mut fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        let mut all = format!("{whole}{fraction}");
        if all.len() > DIGITS_MAX {
            // Beyond any amount, or with more digits after the point than any amount has.
            let kept = DIGITS_MAX.checked_sub(whole.len() + 1);
            let Some(kept) = kept else {
                return Some(Self {
                    is_negative,
                    digits: 1,
                    exponent: EXPONENT_MAX + 1,
                });
            };
            all = format!("{whole}{}1", &fraction[..kept]);
            fraction = &fraction[..kept + 1];
        }
        let digits = if all.is_empty() { 0 } else { all.parse().ok()? };
        Some(Self {
            is_negative,
            digits,
            exponent: exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?,
        })
    }

    /// The number times a fraction, as a fraction; `None` where it is beyond any amount. What is
    /// within, and has more digits than an amount can have, is given as a half.
    fn ratio(&self, times: u128, per: u128) -> Option<(u128, u128)> {
        if self.digits == 0 {
            return Some((0, 1));
        }
        if self.exponent > EXPONENT_MAX {
            return None;
        }
        let digits = self.digits as f64 * 10f64.powi(self.exponent.max(-EXPONENT_MAX * 2));
        if digits * times as f64 / per as f64 > PARTS_SURELY_TOO_MANY {
            return None;
        }
        let exact = || {
            let mut above = self.digits.checked_mul(times / common(times, per))?;
            let mut below = per / common(times, per);
            for _ in 0..self.exponent.unsigned_abs() {
                match self.exponent > 0 {
                    true => above = above.checked_mul(10)?,
                    false => {
                        let shared = common(above, 10);
                        above /= shared;
                        below = below.checked_mul(10 / shared)?;
                    }
                }
            }
            Some((above, below))
        };
        Some(exact().unwrap_or((1, 2)))
    }
}

/// The greatest common divisor.
fn common(a: u128, b: u128) -> u128 {
    match b {
        0 => a,
        b => common(b, a % b),
    }
}

#[cfg(test)]
mod tests {
    use super::super::amount::THOUSANDTH;
    use super::*;

    /// In thousandths of a unit; none where it is no whole number of them.
    fn thousandths(text: &str) -> Result<Option<u128>, String> {
        let (parts, _) = read(text)?;
        Ok(parts.filter(|p| p % THOUSANDTH == 0).map(|p| p / THOUSANDTH))
    }

    #[test]
    fn numbers_of_the_core_schema_are_read_exactly() {
        for (text, is) in [
            ("0", 0),
            ("-0", 0),
            ("+12", 12_000),
            ("0x10", 16_000),
            ("0o17", 15_000),
            (".5", 500),
            ("1.", 1_000),
            ("1.500", 1_500),
            ("1e3", 1_000_000),
            ("15e-1", 1_500),
            ("999999999999.999", 999_999_999_999_999),
        ] {
            assert_eq!(thousandths(text), Ok(Some(is)), "{text}");
        }
        for text in ["", ".", "e3", "0x", "0xg", "1.2.3", "--1", "1_000", "eight"] {
            assert!(thousandths(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn small_and_large_are_refused_alike() {
        let long = format!("1.{}1", "0".repeat(40));
        for text in [
            long.as_str(),
            "0.0001",
            "100.0004",
            "500.0004",
            "999999999999.0001",
            "1e-4",
            "1e-70",
        ] {
            assert_eq!(thousandths(text), Ok(None), "{text}");
        }
        let long = format!("1{}", "0".repeat(40));
        for text in [
            "1000000000000.001",
            "1e13",
            "1e300",
            "99999999999999999999999999",
            &long,
        ] {
            assert!(thousandths(text).unwrap_err().contains("too large"), "{text}");
        }
    }

    #[test]
    fn units_are_exact() {
        for (text, is) in [
            ("512MiB", 512_000),
            ("2 GiB", 2_048_000),
            ("2Gi", 2_048_000),
            ("1500m", 1_500),
            ("10Gbit/s", 10_000_000),
            ("0.0009765625GiB", 1_000),
        ] {
            assert_eq!(thousandths(text), Ok(Some(is)), "{text}");
        }
        // 125 parts to a byte.
        for (text, bytes) in [
            ("1B", 1),
            ("4GB", 4_000_000_000),
            ("4 GB", 4_000_000_000),
            ("476.837158203125MiB", 500_000_000),
            ("0.000000931322574615478515625GiB", 1000),
            ("1000.000000001PB", 1_000_000_000_001_000_000),
        ] {
            assert_eq!(read(text), Ok((Some(bytes * 125), Kind::Bytes)), "{text}");
        }
        for text in ["0.5m", "0.00001B", "0.333333333333333333333333333TB"] {
            assert_eq!(thousandths(text), Ok(None), "{text}");
        }
        assert!(thousandths("4G").unwrap_err().contains("4GB or 4GiB"));
        assert!(thousandths("4XB").unwrap_err().contains("`XB` is no unit"));
    }
}
