//! serde over the node tree: every error gets the line and the path of the value it is about.

use std::fmt;
use std::rc::Rc;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};

use super::amount::EXACT;
use super::near::nearest;
use super::text::{Node, Value};

/// A mistake and where it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Fault {
    pub line: Option<usize>,
    pub path: String,
    pub what: String,
    pub hint: Option<String>,
}

impl Fault {
    fn within(mut self, step: &str, line: usize) -> Self {
        let joint = if self.path.is_empty() || self.path.starts_with('[') {
            ""
        } else {
            "."
        };
        self.path = format!("{step}{joint}{}", self.path);
        self.line.get_or_insert(line);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(what: T) -> Self {
        Self {
            what: what.to_string(),
            ..Self::default()
        }
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let hint = (expected.to_string() == "a boolean").then(|| boolean_hint(&found));
        Self {
            hint,
            ..Self::custom(format!("{expected} is expected, not {found}"))
        }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let near = nearest(field, expected.iter().copied());
        Self {
            what: format!("there is no field `{field}` here"),
            hint: Some(match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the fields are {}", expected.join(", ")),
            }),
            ..Self::default()
        }
    }

    fn missing_field(field: &'static str) -> Self {
        Self::custom(format!("`{field}` is missing"))
    }
}

/// A node as serde sees it.
#[derive(Clone, Copy)]
pub(super) struct Decode<'a> {
    pub node: &'a Node,
}

/// Nothing, by YAML's core schema.
fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// A boolean, by YAML's core schema.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// What to write in place of another language's boolean; YAML 1.1 had `yes` and `on`.
fn boolean_hint(found: &de::Unexpected<'_>) -> String {
    let text = match found {
        de::Unexpected::Str(text) => text.to_ascii_lowercase(),
        _ => String::new(),
    };
    let meant = match text.as_str() {
        "yes" | "y" | "on" | "true" => "true",
        "no" | "n" | "off" | "false" => "false",
        _ => "true or false",
    };
    format!("write {meant}, without quotes: YAML 1.2 has no other words for it")
}

impl Decode<'_> {
    /// A mistake of this value.
    fn here(&self, mut fault: Fault) -> Fault {
        fault.line.get_or_insert(self.node.line);
        fault
    }

    /// A plain scalar by the rules of YAML's core schema; quoted text is always text.
    fn scalar<'de, V: Visitor<'de>>(text: &str, quoted: bool, visitor: V) -> Result<V::Value, Fault> {
        if quoted {
            return visitor.visit_str(text);
        }
        if is_null(text) {
            return visitor.visit_unit();
        }
        if let Some(value) = boolean(text) {
            return visitor.visit_bool(value);
        }
        match text {
            ".nan" | ".NaN" | ".NAN" => return visitor.visit_f64(f64::NAN),
            ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => {
                return visitor.visit_f64(f64::INFINITY);
            }
            "-.inf" | "-.Inf" | "-.INF" => return visitor.visit_f64(f64::NEG_INFINITY),
            _ => {}
        }
        let of_radix = |prefix: &str, radix: u32| {
            let digits = text.strip_prefix(prefix)?;
            let plain = digits.chars().all(|c| c.is_digit(radix));
            plain.then(|| u64::from_str_radix(digits, radix).ok()).flatten()
        };
        if let Some(number) = of_radix("0x", 16).or_else(|| of_radix("0o", 8)) {
            return visitor.visit_u64(number);
        }
        if let Ok(number) = text.parse::<u64>() {
            return visitor.visit_u64(number);
        }
        if let Ok(number) = text.parse::<i64>() {
            return visitor.visit_i64(number);
        }
        let numeric = text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
        match text.parse::<f64>() {
            Ok(number) if numeric => visitor.visit_f64(number),
            Ok(_) | Err(_) => visitor.visit_str(text),
        }
    }
}

impl<'de> Deserializer<'de> for Decode<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let line = self.node.line;
        let done = match &self.node.value {
            Value::Scalar { text, quoted } => Self::scalar(text, *quoted, visitor),
            Value::List(items) => visitor.visit_seq(List { items, next: 0 }),
            Value::Map(fields) => visitor.visit_map(Map { fields, next: 0 }),
        };
        done.map_err(|mut fault: Fault| {
            fault.line.get_or_insert(line);
            fault
        })
    }

    /// Text fields take numbers as they are written: `labels: {gen: 1.10}`. Booleans mean one
    /// text, however they are written, and nothing is the empty one.
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Scalar { text, quoted } => {
                let text = match (quoted, boolean(text)) {
                    (false, Some(true)) => "true",
                    (false, Some(false)) => "false",
                    (false, None) if is_null(text) => "",
                    (_, _) => text,
                };
                visitor.visit_str(text).map_err(|fault: Fault| self.here(fault))
            }
            Value::List(_) | Value::Map(_) => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Scalar { text, quoted: false } if is_null(text) => visitor.visit_none(),
            Value::Scalar { .. } | Value::List(_) | Value::Map(_) => visitor.visit_some(self),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let Value::Scalar { text, .. } = &self.node.value else {
            return Err(de::Error::custom(format!(
                "one of {} is expected",
                variants.join(", ")
            )));
        };
        let word: StrDeserializer<'_, Fault> = (**text).into_deserializer();
        visitor.visit_enum(word).map_err(|_| Fault {
            line: Some(self.node.line),
            what: format!("`{text}` is not one of {}", variants.join(", ")),
            hint: nearest(text, variants.iter().copied()).map(|near| format!("did you mean `{near}`?")),
            ..Fault::default()
        })
    }

    /// Amounts are read from their text: a floating number would round them.
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Scalar { text, .. } if name == EXACT => {
                visitor.visit_str(text).map_err(|fault: Fault| self.here(fault))
            }
            Value::Scalar { .. } | Value::List(_) | Value::Map(_) => self.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Map(_) => self.deserialize_any(visitor),
            Value::Scalar { .. } | Value::List(_) => Err(Fault {
                line: Some(self.node.line),
                what: format!("fields are expected here: {}", fields.join(", ")),
                ..Fault::default()
            }),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct
        seq tuple tuple_struct map identifier ignored_any
    }
}

struct List<'a> {
    items: &'a [Node],
    next: usize,
}

impl<'de> SeqAccess<'de> for List<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(node) = self.items.get(self.next) else {
            return Ok(None);
        };
        let step = format!("[{}]", self.next);
        self.next += 1;
        seed.deserialize(Decode { node })
            .map(Some)
            .map_err(|fault| fault.within(&step, node.line))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len() - self.next)
    }
}

struct Map<'a> {
    fields: &'a [(Rc<str>, Node)],
    next: usize,
}

impl<'de> MapAccess<'de> for Map<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some((key, node)) = self.fields.get(self.next) else {
            return Ok(None);
        };
        let word: StrDeserializer<'_, Fault> = (**key).into_deserializer();
        seed.deserialize(word).map(Some).map_err(|mut fault| {
            fault.line.get_or_insert(node.line);
            fault
        })
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Fault> {
        let (key, node) = &self.fields[self.next];
        self.next += 1;
        seed.deserialize(Decode { node })
            .map_err(|fault| fault.within(key, node.line))
    }
}
