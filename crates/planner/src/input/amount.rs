//! Exact amounts: whole thousandths of a unit, or whole bytes where the unit is a MiB.
//!
//! An amount is read from its text, never from a floating number: what cannot be held exactly is
//! refused, however large it is. A byte is no whole number of thousandths of a MiB, so both are
//! whole numbers of a smaller part.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeSeed, Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::units::{self, Kind};
use super::{Amounts, MEMORY};

/// Parts in a thousandth of a unit.
pub(crate) const THOUSANDTH: u128 = 1 << 17;
/// Parts in one unit.
pub(crate) const UNIT: u128 = 1000 * THOUSANDTH;
/// Parts in a byte of a MiB.
const BYTE: u128 = UNIT >> 20;
/// Largest amount, in units.
pub(super) const UNITS_MAX: u64 = 1_000_000_000_000;
/// Name by which a deserializer that has the text of a number knows that it is wanted.
pub(super) const EXACT: &str = "transhume-exact-amount";

/// An amount of a resource, exact: whole thousandths of its unit, or whole bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Amount(u64, u32);

impl Amount {
    /// Whole units.
    pub fn units(units: u64) -> Self {
        Self(units.min(UNITS_MAX) * 1000, 0)
    }

    /// So many bytes of what is counted in MiB.
    pub fn bytes(bytes: u64) -> Self {
        Self::of_parts(u128::from(bytes) * BYTE).unwrap_or(Self::units(UNITS_MAX))
    }

    /// So many parts of a unit; `None` beyond the largest amount.
    pub(super) fn of_parts(parts: u128) -> Option<Self> {
        let rest = u32::try_from(parts % THOUSANDTH).ok()?;
        let thousandths = u64::try_from(parts / THOUSANDTH).ok()?;
        (parts <= u128::from(UNITS_MAX) * UNIT).then_some(Self(thousandths, rest))
    }

    /// In parts of a unit, 131 072 000 of which are one: both a thousandth of a unit and a byte of
    /// a MiB are a whole number of them.
    pub fn parts(self) -> u128 {
        u128::from(self.0) * THOUSANDTH + u128::from(self.1)
    }

    /// As a floating number of units.
    pub fn as_f64(self) -> f64 {
        as_f64(self.parts())
    }
}

/// Parts as a floating number of units.
pub(crate) fn as_f64(parts: u128) -> f64 {
    match parts % THOUSANDTH {
        0 => (parts / THOUSANDTH) as f64 / 1000.0,
        _ => parts as f64 / UNIT as f64,
    }
}

/// Parts as a decimal number of units, with all its digits.
pub(crate) fn decimal(parts: u128) -> String {
    /// A part has no more digits after the point.
    const DIGITS: usize = 20;
    let (units, rest) = (parts / UNIT, parts % UNIT);
    let digits = format!("{:0DIGITS$}", rest * 10u128.pow(DIGITS as u32) / UNIT);
    match digits.trim_end_matches('0') {
        "" => units.to_string(),
        digits => format!("{units}.{digits}"),
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&decimal(self.parts()))
    }
}

/// A number, or bytes as text where a number would not be exact.
impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (self.1, self.0 % 1000) {
            (0, 0) => serializer.serialize_u64(self.0 / 1000),
            (0, _) => serializer.serialize_f64(self.as_f64()),
            (_, _) => serializer.serialize_str(&format!("{}B", self.parts() / BYTE)),
        }
    }
}

/// What an amount is of: that decides what units fit.
#[derive(Clone, Copy, PartialEq)]
enum Of<'a> {
    Resource(&'a str),
    Rate,
    Ratio,
}

impl Of<'_> {
    /// Whether it may be counted in bytes.
    fn may_be_bytes(self) -> bool {
        match self {
            Of::Resource(name) => !matches!(name, "vcpus" | "nic"),
            Of::Rate | Of::Ratio => false,
        }
    }
}

/// Reads one amount.
#[derive(Clone, Copy)]
struct AmountOf<'a>(Of<'a>);

impl AmountOf<'_> {
    fn read<E: Error>(self, text: &str) -> Result<Amount, E> {
        let AmountOf(of) = self;
        let (parts, kind) = units::read(text).map_err(E::custom)?;
        let is_whole =
            parts.is_some_and(|parts| parts % THOUSANDTH == 0 || (of.may_be_bytes() && parts % BYTE == 0));
        let fits = match (of, kind) {
            (_, Kind::Plain) => true,
            (Of::Resource(MEMORY), kind) => kind == Kind::Bytes,
            (Of::Resource("vcpus"), kind) => kind == Kind::Count,
            (Of::Rate | Of::Resource("nic"), kind) => kind == Kind::BitRate,
            (Of::Resource(_), _) => true,
            (Of::Ratio, _) => false,
        };
        match (fits, parts.and_then(Amount::of_parts)) {
            (true, Some(amount)) if is_whole => Ok(amount),
            (true, _) => Err(E::custom(not_exact(text, kind, of))),
            (false, _) => Err(E::custom(format!(
                "`{text}` is no amount of {}: {}",
                match of {
                    Of::Resource(name) => name,
                    Of::Rate => "Mbit/s",
                    Of::Ratio => "overcommit",
                },
                match of {
                    Of::Resource(MEMORY) => "write MiB, GiB, MB or GB, or a number of MiB",
                    Of::Resource("vcpus") => "write a number, or thousandths with `m`",
                    Of::Resource(_) | Of::Rate => "write Mbit/s or Gbit/s, or a number of Mbit/s",
                    Of::Ratio => "write a number, like 1.5",
                }
            ))),
        }
    }
}

fn not_exact(text: &str, kind: Kind, of: Of<'_>) -> String {
    match (kind, of) {
        (Kind::Bytes, _) => format!("{text} is no whole number of bytes: write them, like 4000000000B"),
        (Kind::Plain, Of::Resource(MEMORY)) => format!(
            "{text} has more than three digits after the point, and is no whole number of bytes either: \
             write those, like 4000000000B"
        ),
        (Kind::Plain | Kind::BitRate | Kind::Count, _) => {
            format!("{text} has more than three digits after the point")
        }
    }
}

impl<'de> Visitor<'de> for AmountOf<'_> {
    type Value = Amount;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a number from 0 to {UNITS_MAX}, or one with a unit like 512MiB,"
        )
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, number: D) -> Result<Amount, D::Error> {
        number.deserialize_any(self)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Amount, E> {
        self.read(text)
    }

    fn visit_u64<E: Error>(self, units: u64) -> Result<Amount, E> {
        self.read(&units.to_string())
    }

    fn visit_i64<E: Error>(self, units: i64) -> Result<Amount, E> {
        self.read(&units.to_string())
    }

    /// The shortest text that means this number is what was written.
    fn visit_f64<E: Error>(self, units: f64) -> Result<Amount, E> {
        self.read(&units.to_string())
    }
}

impl<'de> DeserializeSeed<'de> for AmountOf<'_> {
    type Value = Amount;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Amount, D::Error> {
        deserializer.deserialize_newtype_struct(EXACT, self)
    }
}

/// An amount without a resource is a rate in Mbit/s.
impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        AmountOf(Of::Rate).deserialize(deserializer)
    }
}

struct AmountsVisitor;

impl<'de> Visitor<'de> for AmountsVisitor {
    type Value = Amounts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("amounts by the name of the resource")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Amounts, A::Error> {
        let mut amounts = BTreeMap::new();
        while let Some(resource) = map.next_key::<String>()? {
            let amount = map.next_value_seed(AmountOf(Of::Resource(&resource)))?;
            amounts.insert(resource, amount);
        }
        Ok(amounts)
    }

    /// `demand:` with nothing after it.
    fn visit_unit<E: Error>(self) -> Result<Amounts, E> {
        Ok(Amounts::new())
    }
}

/// Amounts of resources: of which one decides what units fit.
pub(super) fn amounts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Amounts, D::Error> {
    deserializer.deserialize_any(AmountsVisitor)
}

/// An overcommit ratio, from 0.001 to 1000, exact to a thousandth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ratio(u64);

impl Ratio {
    /// A ratio in thousandths; `None` outside 0.001 to 1000.
    pub fn thousandths(thousandths: u64) -> Option<Self> {
        (1..=1_000_000)
            .contains(&thousandths)
            .then_some(Self(thousandths))
    }

    /// The promised amount in parts of a unit, rounded down to a thousandth, or to a byte where the
    /// amount is in bytes.
    pub fn of(self, amount: Amount) -> u128 {
        let step = if amount.1 == 0 { THOUSANDTH } else { BYTE };
        amount.parts() * u128::from(self.0) / 1000 / step * step
    }
}

impl Serialize for Ratio {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Amount(self.0, 0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Ratio {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let amount = AmountOf(Of::Ratio).deserialize(deserializer)?;
        Ratio::thousandths(amount.0).ok_or_else(|| {
            D::Error::custom(format!(
                "an overcommit ratio of {amount} is outside 0.001 to 1000"
            ))
        })
    }
}

impl JsonSchema for Amount {
    fn schema_name() -> Cow<'static, str> {
        "Amount".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A number, exact to a thousandth: memory in MiB (exact to a byte too), rates in Mbit/s. Or with a unit: B, KiB, MiB, GiB, TiB, kB, MB, GB, TB for bytes, counted in MiB and exact to a byte; kbit/s, Mbit/s, Gbit/s; `m` for thousandths of a count.",
            "anyOf": [
                { "type": "number", "minimum": 0, "maximum": UNITS_MAX },
                { "type": "string", "pattern": units::PATTERN },
            ],
        })
    }
}

impl JsonSchema for Ratio {
    fn schema_name() -> Cow<'static, str> {
        "Ratio".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "minimum": 0.001, "maximum": 1000 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(json: &str) -> Result<Amount, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    #[test]
    fn amounts_are_exact_decimals() {
        assert_eq!(amount("1.1").unwrap().to_string(), "1.1");
        assert_eq!(amount("12").unwrap(), Amount::units(12));
        assert_eq!(serde_json::to_string(&Amount(1100, 0)).unwrap(), "1.1");
        assert_eq!(amount("1000000000000").unwrap(), Amount::units(1_000_000_000_000));
        assert_eq!(amount("500000000.1").unwrap().as_f64(), 500_000_000.1);
    }

    #[test]
    fn bytes_are_exact_and_read_as_they_are_written() {
        for (text, shown, written) in [
            ("4GB", "3814.697265625", r#""4000000000B""#),
            ("3814.697265625", "3814.697265625", r#""4000000000B""#),
            ("1B", "0.00000095367431640625", r#""1B""#),
            (
                "1125899906842625B",
                "1073741824.00000095367431640625",
                r#""1125899906842625B""#,
            ),
            ("1.5Gi", "1536", "1536"),
            ("16.3GiB", "16691.2", "16691.2"),
            ("65536B", "0.0625", r#""65536B""#),
            ("0.5GB", "476.837158203125", r#""500000000B""#),
        ] {
            let of = AmountOf(Of::Resource(MEMORY));
            let amount: Amount = of.read::<serde_json::Error>(text).unwrap();
            assert_eq!(amount.to_string(), shown, "{text}");
            let json = serde_json::to_string(&amount).unwrap();
            assert_eq!(json, written, "{text}");
            let again: Amount = of.read::<serde_json::Error>(json.trim_matches('"')).unwrap();
            assert_eq!(again, amount, "{text}");
        }
        for text in ["0.5B", "0.0004kB", "476.8371582", "1073741824.000001"] {
            let said = AmountOf(Of::Resource(MEMORY)).read::<serde_json::Error>(text);
            let said = said.unwrap_err().to_string();
            assert!(said.contains("no whole number of bytes"), "{text}: {said}");
        }
    }

    #[test]
    fn impossible_amounts_say_why() {
        assert!(amount("-1").unwrap_err().contains("negative"));
        assert!(amount("-0.5").unwrap_err().contains("negative"));
        assert!(amount("1e40").unwrap_err().contains("too large"));
        assert!(amount("18446744073709551615").unwrap_err().contains("too large"));
        assert!(amount("0.0001").unwrap_err().contains("three digits"));
        assert!(amount("500.0004").unwrap_err().contains("three digits"));
        assert!(amount("999999999.0001").unwrap_err().contains("three digits"));
    }

    #[test]
    fn a_unit_has_to_fit_its_resource() {
        #[derive(Deserialize)]
        struct Needs(#[serde(deserialize_with = "amounts")] Amounts);
        let needs = |json: &str| serde_json::from_str::<Needs>(json).map(|needs| needs.0);
        let all = needs(r#"{"memory": "4GB", "vcpus": "1500m", "nic": "10Gbit/s", "gpu": 1}"#).unwrap();
        let told: Vec<String> = all
            .iter()
            .map(|(name, amount)| format!("{name} {amount}"))
            .collect();
        assert_eq!(told, ["gpu 1", "memory 3814.697265625", "nic 10000", "vcpus 1.5"]);
        let ratio = serde_json::from_str::<Ratio>("\"2Gbit/s\"")
            .unwrap_err()
            .to_string();
        assert!(ratio.contains("no amount of overcommit"), "{ratio}");
        for (wrong, why) in [
            (r#"{"memory": "1500m"}"#, "no amount of memory"),
            (r#"{"vcpus": "2GiB"}"#, "no amount of vcpus"),
            (r#"{"nic": "1GB"}"#, "no amount of nic"),
            (r#"{"memory": "2G"}"#, "GiB"),
        ] {
            let said = needs(wrong).unwrap_err().to_string();
            assert!(said.contains(why), "{wrong}: {said}");
        }
    }

    #[test]
    fn the_largest_promise_does_not_overflow() {
        let largest = Ratio::thousandths(1_000_000).unwrap();
        assert_eq!(largest.of(Amount::units(UNITS_MAX)), 10u128.pow(15) * UNIT);
    }

    #[test]
    fn a_promise_is_exact_to_a_byte_where_the_capacity_is() {
        let promised = |text: &str, ratio| {
            let amount = AmountOf(Of::Resource(MEMORY)).read::<serde_json::Error>(text);
            decimal(Ratio::thousandths(ratio).unwrap().of(amount.unwrap()))
        };
        assert_eq!(promised("4GB", 1500), "5722.0458984375");
        assert_eq!(promised("3B", 1500), "0.000003814697265625", "4 bytes");
        assert_eq!(promised("0.001", 1500), "0.001");
    }
}
