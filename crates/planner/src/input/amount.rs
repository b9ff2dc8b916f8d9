//! Exact decimal amounts: thousandths of a unit in 64 bits.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Thousandths in one unit.
pub(crate) const SCALE: u64 = 1000;
/// Largest amount, in units.
const UNITS_MAX: u64 = 1_000_000_000_000;
/// Most of one resource that all VMs together may ask for, in units: the solvers add demands up in
/// 64 bits, of thousandths.
pub(crate) const SUM_UNITS_MAX: u64 = 9_000_000_000_000_000;

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

struct AmountVisitor;

impl Visitor<'_> for AmountVisitor {
    type Value = Amount;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a number from 0 to {UNITS_MAX}")
    }

    fn visit_u64<E: Error>(self, units: u64) -> Result<Amount, E> {
        match units {
            0..=UNITS_MAX => Ok(Amount(units * SCALE)),
            _ => Err(E::custom(format!(
                "{units} is too large: the most is {UNITS_MAX}"
            ))),
        }
    }

    fn visit_i64<E: Error>(self, units: i64) -> Result<Amount, E> {
        match u64::try_from(units) {
            Ok(units) => self.visit_u64(units),
            Err(_) => Err(E::custom(format!("{units} is negative: amounts are 0 or more"))),
        }
    }

    fn visit_f64<E: Error>(self, units: f64) -> Result<Amount, E> {
        if units.is_nan() {
            return Err(E::custom("NaN is not an amount"));
        }
        if units < 0.0 {
            return Err(E::custom(format!("{units} is negative: amounts are 0 or more")));
        }
        if units > UNITS_MAX as f64 {
            return Err(E::custom(format!(
                "{units} is too large: the most is {UNITS_MAX}"
            )));
        }
        let scaled = units * SCALE as f64;
        let whole = scaled.round();
        if (scaled - whole).abs() > 1e-6 * scaled.max(1.0) {
            return Err(E::custom(format!(
                "{units} has more than three digits after the point"
            )));
        }
        Ok(Amount(whole as u64))
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AmountVisitor)
    }
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
        let amount = Amount::deserialize(deserializer)?;
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
        json_schema!({ "type": "number", "minimum": 0, "maximum": UNITS_MAX })
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
    }

    #[test]
    fn the_largest_promise_does_not_overflow() {
        let largest = Ratio::thousandths(1_000_000).unwrap();
        assert_eq!(largest.of(Amount::units(UNITS_MAX)), 1_000_000_000_000_000_000);
    }
}
