//! Exact decimal amounts: thousandths of a unit in 64 bits.
//!
//! An amount is read from its text, never from a floating number: what cannot be held exactly is
//! refused, however large it is. Amounts in bytes are the exception, as few of them are a whole
//! number of thousandths of a MiB: a demand is rounded up and a capacity down, and the reader says
//! so ([`read_with_notes`](super::read_with_notes)).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeSeed, Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::units::{self, Kind, Rounding};
use super::{Amounts, MEMORY};

/// Thousandths in one unit.
pub(crate) const SCALE: u64 = 1000;
/// Largest amount, in units.
pub(super) const UNITS_MAX: u64 = 1_000_000_000_000;
/// Most of one resource that all VMs together may ask for, in units: the solvers add demands up in
/// 64 bits, of thousandths.
pub(crate) const SUM_UNITS_MAX: u64 = 9_000_000_000_000_000;
/// Name by which a deserializer that has the text of a number knows that it is wanted.
pub(super) const EXACT: &str = "transhume-exact-amount";

/// An amount of a resource, exact to a thousandth of its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Amount(pub(crate) u64);

impl Amount {
    /// Whole units.
    pub fn units(units: u64) -> Self {
        Self(units.min(UNITS_MAX) * SCALE)
    }

    /// Thousandths of a unit.
    pub fn thousandths(self) -> u64 {
        self.0
    }

    /// As a floating number of units.
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / SCALE as f64
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (units, rest) = (self.0 / SCALE, self.0 % SCALE);
        if rest == 0 {
            write!(f, "{units}")
        } else {
            let digits = format!("{rest:03}");
            write!(f, "{units}.{}", digits.trim_end_matches('0'))
        }
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 % SCALE {
            0 => serializer.serialize_u64(self.0 / SCALE),
            _ => serializer.serialize_f64(self.as_f64()),
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

/// Reads one amount.
#[derive(Clone, Copy)]
struct AmountOf<'a> {
    of: Of<'a>,
    rounding: Rounding,
}

impl AmountOf<'_> {
    fn read<E: Error>(self, text: &str) -> Result<Amount, E> {
        let read = units::read(text, self.rounding).map_err(|why| {
            let with_unit = format!("{text}MiB");
            let rounded = self.of == Of::Resource(MEMORY) && units::read(&with_unit, self.rounding).is_ok();
            E::custom(match rounded {
                true => format!("{why}: `{with_unit}` is rounded to the safe side"),
                false => why,
            })
        })?;
        let fits = match (self.of, read.kind) {
            (_, Kind::Plain) => true,
            (Of::Resource(MEMORY), kind) => kind == Kind::Bytes,
            (Of::Resource("vcpus"), kind) => kind == Kind::Count,
            (Of::Rate | Of::Resource("nic"), kind) => kind == Kind::BitRate,
            (Of::Resource(_), _) => true,
            (Of::Ratio, _) => false,
        };
        match fits {
            true => Ok(Amount(read.thousandths)),
            false => Err(E::custom(format!(
                "`{text}` is no amount of {}: {}",
                match self.of {
                    Of::Resource(name) => name,
                    Of::Rate => "Mbit/s",
                    Of::Ratio => "overcommit",
                },
                match self.of {
                    Of::Resource(MEMORY) => "write MiB, GiB, MB or GB, or a number of MiB",
                    Of::Resource("vcpus") => "write a number, or thousandths with `m`",
                    Of::Resource(_) | Of::Rate => "write Mbit/s or Gbit/s, or a number of Mbit/s",
                    Of::Ratio => "write a number, like 1.5",
                }
            ))),
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
        let of_rate = AmountOf {
            of: Of::Rate,
            rounding: Rounding::None,
        };
        of_rate.deserialize(deserializer)
    }
}

struct AmountsVisitor(Rounding);

impl<'de> Visitor<'de> for AmountsVisitor {
    type Value = Amounts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("amounts by the name of the resource")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Amounts, A::Error> {
        let mut amounts = BTreeMap::new();
        while let Some(resource) = map.next_key::<String>()? {
            let of_resource = AmountOf {
                of: Of::Resource(&resource),
                rounding: self.0,
            };
            let amount = map.next_value_seed(of_resource)?;
            amounts.insert(resource, amount);
        }
        Ok(amounts)
    }

    /// `demand:` with nothing after it.
    fn visit_unit<E: Error>(self) -> Result<Amounts, E> {
        Ok(Amounts::new())
    }
}

/// What there is: bytes are rounded down.
pub(super) fn offered<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Amounts, D::Error> {
    deserializer.deserialize_any(AmountsVisitor(Rounding::Down))
}

/// What is needed or taken: bytes are rounded up.
pub(super) fn needed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Amounts, D::Error> {
    deserializer.deserialize_any(AmountsVisitor(Rounding::Up))
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

    /// The promised amount, rounded down to a thousandth.
    pub fn of(self, amount: Amount) -> u64 {
        let product = u128::from(amount.0) * u128::from(self.0) / u128::from(SCALE);
        u64::try_from(product).expect("1e12 units in thousandths, a thousand times over, is below 2^64")
    }
}

impl Serialize for Ratio {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Amount(self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Ratio {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let of_ratio = AmountOf {
            of: Of::Ratio,
            rounding: Rounding::None,
        };
        let amount = of_ratio.deserialize(deserializer)?;
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
            "description": "A number, exact to a thousandth: memory in MiB, rates in Mbit/s. Or with a unit: KiB, MiB, GiB, TiB, kB, MB, GB, TB for bytes (counted in MiB: what is needed is rounded up to a thousandth, what there is down); kbit/s, Mbit/s, Gbit/s; `m` for thousandths of a count.",
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
        assert_eq!(serde_json::to_string(&Amount(1100)).unwrap(), "1.1");
        assert_eq!(amount("1000000000000").unwrap().0, 1_000_000_000_000_000);
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
        struct Needs(#[serde(deserialize_with = "needed")] Amounts);
        let needs = |json: &str| serde_json::from_str::<Needs>(json).map(|needs| needs.0);
        let all = needs(r#"{"memory": "4GB", "vcpus": "1500m", "nic": "10Gbit/s", "gpu": 1}"#).unwrap();
        let told: Vec<String> = all
            .iter()
            .map(|(name, amount)| format!("{name} {amount}"))
            .collect();
        assert_eq!(told, ["gpu 1", "memory 3814.698", "nic 10000", "vcpus 1.5"]);
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
        assert_eq!(largest.of(Amount::units(UNITS_MAX)), 1_000_000_000_000_000_000);
    }
}
