//! YAML or JSON text to [`PlanInput`], with the line of every mistake.
//!
//! ```text
//! text ── events ──▶ Node tree (each node knows its line) ── serde ──▶ PlanInput ── check ──▶ PlanInput
//! ```
//!
//! JSON is read as the subset of YAML that it is. Size and nesting are limited before anything is
//! built. Scalars are those of YAML's core schema. An alias is what its anchor stands at, copied
//! (`anchors`). Deliberately absent: other tags, merge keys, several documents.

use std::collections::HashSet;
use std::rc::Rc;

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::anchors::Anchors;
use super::decode::{Decode, Fault};
use super::{InputError, NESTING_MAX, Place, PlanInput, TEXT_BYTES_MAX, check};

/// One value of the text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    /// Line of its key where it has one: in block style a value begins below it.
    pub line: usize,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Scalar {
        text: Box<str>,
        quoted: bool,
    },
    List(Vec<Node>),
    /// Keys are few and repeat: each is kept once.
    Map(Vec<(Rc<str>, Node)>),
}

/// Reads a document of any type, with the line of what is wrong with it. `file` is only for
/// messages.
pub fn read_document<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, InputError> {
    let located = |fault: Fault| InputError {
        place: Place {
            file: Some(file.to_owned()),
            line: fault.line,
            path: fault.path,
        },
        what: fault.what,
        hint: fault.hint,
    };
    let root = parse(text).map_err(located)?;
    T::deserialize(Decode { node: &root }).map_err(located)
}

/// Reads and checks an inventory. `file` is only for messages.
pub fn read(file: &str, text: &str) -> Result<PlanInput, InputError> {
    let place = |line, path: &str| Place {
        file: Some(file.to_owned()),
        line,
        path: path.to_owned(),
    };
    let located = |fault: Fault| InputError {
        place: place(fault.line, &fault.path),
        what: fault.what,
        hint: fault.hint,
    };
    let root = parse(text).map_err(located)?;
    let input = PlanInput::deserialize(Decode { node: &root }).map_err(located)?;
    check(&input).map_err(|error| InputError {
        place: place(root.line_of(&error.place.path), &error.place.path),
        ..error
    })?;
    Ok(input)
}

impl Node {
    /// A list or map to which nothing is added any more.
    fn closed(mut self) -> Self {
        match &mut self.value {
            Value::List(items) => items.shrink_to_fit(),
            Value::Map(fields) => fields.shrink_to_fit(),
            Value::Scalar { .. } => {}
        }
        self
    }

    /// The line of a path like `hosts[3].capacity`; of its nearest parent where the path goes
    /// beyond the text. Keys may hold points and brackets themselves.
    fn line_of(&self, path: &str) -> Option<usize> {
        let (mut node, mut rest) = (self, path);
        loop {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            let next = match &node.value {
                Value::Map(fields) => {
                    let begins = fields.iter().filter(|(key, _)| is_step(rest, key));
                    let longest = begins.max_by_key(|(key, _)| key.len());
                    longest.map(|(key, next)| (next, &rest[key.len()..]))
                }
                Value::List(items) => rest.strip_prefix('[').and_then(|inner| {
                    let (index, after) = inner.split_once(']')?;
                    Some((items.get(index.parse::<usize>().ok()?)?, after))
                }),
                Value::Scalar { .. } => None,
            };
            match next {
                Some((next, after)) => (node, rest) = (next, after),
                None => return Some(node.line),
            }
        }
    }
}

/// Whether a path begins with this key.
fn is_step(path: &str, key: &str) -> bool {
    let after = path.strip_prefix(key);
    after.is_some_and(|after| after.is_empty() || after.starts_with(['.', '[']))
}

pub(super) fn fault(line: usize, what: impl Into<String>) -> Fault {
    Fault {
        line: (line > 0).then_some(line),
        what: what.into(),
        ..Fault::default()
    }
}

/// A map or list being built, with the key that waits for its value.
struct Open {
    node: Node,
    key: Option<(Rc<str>, usize)>,
    /// Its anchor's number; zero for none.
    anchor: usize,
}

fn parse(text: &str) -> Result<Node, Fault> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(fault(
            0,
            format!("{} bytes are more than the {TEXT_BYTES_MAX} accepted", text.len()),
        ));
    }
    // Editors on Windows put a byte order mark first.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    match text.starts_with('{').then(|| parse_in_braces(text)) {
        Some(Some(root)) => Ok(root),
        Some(None) | None => parse_yaml(text),
    }
}

/// A map in braces, as JSON writes it. All of it may be a key in YAML, so the parser would hold
/// what it has read until the last brace, twenty times as much as the text. The value of a key can
/// be none. `None` where it is not read that way; that it is wrong, and why, is said elsewhere.
fn parse_in_braces(text: &str) -> Option<Node> {
    match parse_yaml(&format!("root: {text}")).ok()?.value {
        Value::Map(mut fields) if fields.len() == 1 => fields.pop().map(|(_, root)| root),
        Value::Map(_) | Value::List(_) | Value::Scalar { .. } => None,
    }
}

fn parse_yaml(text: &str) -> Result<Node, Fault> {
    let mut parser = Parser::new_from_str(text);
    let mut open: Vec<Open> = Vec::new();
    let mut keys: HashSet<Rc<str>> = HashSet::new();
    let mut root = None;
    let mut anchors = Anchors::default();
    while let Some(event) = parser.next_event() {
        let (event, span) =
            event.map_err(|e| fault(e.marker().line(), format!("not YAML or JSON: {}", e.info())))?;
        let line = span.start.line();
        let done = match event {
            Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => None,
            Event::StreamEnd => break,
            Event::Alias(anchor) => Some(anchors.copy(anchor, line, open.len())?),
            Event::Scalar(text, style, anchor, tag) => {
                let node = Node {
                    line,
                    value: Value::Scalar {
                        quoted: is_text(style, tag.as_deref()).map_err(|what| fault(line, what))?,
                        text: text.into(),
                    },
                };
                anchors.keep(anchor, &node)?;
                Some(node)
            }
            Event::SequenceStart(anchor, _) => {
                descend(&mut open, line, anchor, Value::List(Vec::new()))?;
                None
            }
            Event::MappingStart(anchor, _) => {
                descend(&mut open, line, anchor, Value::Map(Vec::new()))?;
                None
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open { node, anchor, .. }) => {
                    let node = node.closed();
                    anchors.keep(anchor, &node)?;
                    Some(node)
                }
                None => None,
            },
        };
        if let Some(node) = done {
            attach(&mut open, &mut root, &mut keys, node)?;
        }
    }
    root.ok_or_else(|| fault(1, "the text is empty: `hosts` and `cluster` are needed"))
}

/// Whether a scalar is text whatever it looks like: quoted, or tagged as a string.
fn is_text(style: ScalarStyle, tag: Option<&Tag>) -> Result<bool, String> {
    match tag {
        None => Ok(style != ScalarStyle::Plain),
        Some(tag) if tag.is_yaml_core_schema() => match tag.suffix.as_str() {
            "str" => Ok(true),
            "null" | "bool" | "int" | "float" => Ok(false),
            other => Err(format!("the tag `!!{other}` is not accepted here")),
        },
        Some(tag) if tag.suffix.is_empty() => Ok(true),
        Some(tag) => Err(format!(
            "the tag `{}{}` is not accepted here",
            tag.handle, tag.suffix
        )),
    }
}

fn descend(open: &mut Vec<Open>, line: usize, anchor: usize, value: Value) -> Result<(), Fault> {
    if open.len() >= NESTING_MAX {
        return Err(fault(line, format!("nested deeper than {NESTING_MAX}")));
    }
    open.push(Open {
        node: Node { line, value },
        key: None,
        anchor,
    });
    Ok(())
}

fn attach(
    open: &mut [Open],
    root: &mut Option<Node>,
    keys: &mut HashSet<Rc<str>>,
    node: Node,
) -> Result<(), Fault> {
    let Some(parent) = open.last_mut() else {
        if root.is_some() {
            return Err(fault(node.line, "a second document: one is expected"));
        }
        *root = Some(node);
        return Ok(());
    };
    match (&mut parent.node.value, parent.key.take()) {
        (Value::List(items), _) => items.push(node),
        (Value::Map(fields), Some((key, line))) => fields.push((key, Node { line, ..node })),
        (Value::Map(fields), None) => match node.value {
            Value::Scalar { text, .. } => {
                // Maps of the inventory's own keys are short; a map of names is checked by its
                // length first.
                if fields.len() < DUPLICATES_CHECKED_MAX && fields.iter().any(|(key, _)| **key == *text) {
                    return Err(fault(node.line, format!("`{text}` is given twice")));
                }
                let key = match keys.get(&*text) {
                    Some(known) => known.clone(),
                    None => {
                        let key: Rc<str> = text.into();
                        keys.insert(key.clone());
                        key
                    }
                };
                parent.key = Some((key, node.line));
            }
            Value::List(_) | Value::Map(_) => return Err(fault(node.line, "a key must be a word")),
        },
        (Value::Scalar { .. }, _) => unreachable!("only lists and maps are opened"),
    }
    Ok(())
}

/// Keys of one map that are compared with each other; no map of the inventory has more.
const DUPLICATES_CHECKED_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
hosts:
  - name: h1
    capacity: {vcpus: 8, memory: 1024}
  - name: h2
    capacity: {vcpus: 8, memory: 1024}
    overcommit: {vcpus: 2.5}
cluster:
  name: c
  vms:
    - name: vm-1
      host: h1
      demand: {vcpus: 1, memory: 64}
";

    fn refused(from: &str, to: &str) -> InputError {
        assert!(GOOD.contains(from), "{from:?} must be in the good text");
        read("inv.yaml", &GOOD.replacen(from, to, 1)).unwrap_err()
    }

    #[test]
    fn yaml_and_json_give_the_same_input() {
        let input = read("inv.yaml", GOOD).unwrap();
        let json = serde_json::to_string_pretty(&input).unwrap();
        assert_eq!(read("inv.json", &json).unwrap(), input);
        assert_eq!(
            read("inv.json", &json.replace("  ", "\t")).unwrap(),
            input,
            "tabs are allowed in JSON"
        );
        assert_eq!(serde_json::from_str::<PlanInput>(&json).unwrap(), input);
    }

    #[test]
    fn a_mistake_names_file_line_and_the_nearest_name() {
        let error = refused("memory: 64", "memroy: 64");
        assert_eq!(
            error.to_string(),
            "inv.yaml:12: cluster.vms[0].demand.memroy: no host has a resource named `memroy`"
        );
        assert_eq!(error.hint.unwrap(), "did you mean `memory`?");
        let error = refused("capacity:", "capasity:");
        assert_eq!(error.place.line, Some(3));
        assert_eq!(error.hint.unwrap(), "did you mean `capacity`?");
        let error = refused("host: h1", "host: h3");
        assert_eq!(
            (error.place.line, error.hint.as_deref()),
            (Some(11), Some("did you mean `h1`?"))
        );
    }

    #[test]
    fn amounts_that_cannot_be_are_refused_where_they_stand() {
        for (amount, why) in [
            ("-1", "negative"),
            (".nan", "NaN"),
            ("1e30", "too large"),
            ("eight", "a number"),
            (".inf", "too large"),
        ] {
            let error = refused("memory: 64", &format!("memory: {amount}"));
            assert!(error.what.contains(why), "{amount}: {error}");
            assert_eq!(error.place.line, Some(12), "{amount}");
            assert_eq!(error.place.path, "cluster.vms[0].demand.memory");
        }
    }

    #[test]
    fn braces_are_read_as_yaml_reads_them() {
        let in_braces = |text: &str| (parse(text), parse_yaml(text));
        for text in [
            "{a: 1, b: [1, {c: 2}]}",
            "{\n\"a\": {\n\"b\": 1},\n\t\"c\":\n2\n}\n",
            "{\na: 1,\nb: 2}",
            "{a: 1}\n# a comment\n",
            "{}",
        ] {
            let (ours, yaml) = in_braces(text);
            assert_eq!(ours, yaml, "{text}");
            assert!(ours.is_ok(), "{text}");
        }
        for text in [
            "{a: 1",
            "{a: 1}}",
            "{a: 1}\nb: 2",
            "{a: 1}: 2",
            "{a: 1}\n---\nb",
            "{a: 1} b",
        ] {
            let (ours, yaml) = in_braces(text);
            assert_eq!(ours, yaml, "{text}");
            assert!(ours.is_err(), "{text}");
        }
    }

    const BLOCK: &str = "\
hosts:
  - name: h1
    capacity:
      vcpus: 8
      memory: 1024
cluster:
  name: c
  vms:
    - name: vm-1
      host: h1
      demand:
        vcpus: 1
        memory: 64
";

    #[test]
    fn in_block_style_the_line_is_that_of_the_key() {
        for (from, to, line, path, what) in [
            ("demand:", "demnad:", 11, "cluster.vms[0]", "demnad"),
            (
                "memory: 64",
                "memroy: 64",
                13,
                "cluster.vms[0].demand.memroy",
                "memroy",
            ),
            (
                "memory: 64",
                "memory: -1",
                13,
                "cluster.vms[0].demand.memory",
                "negative",
            ),
            (
                "memory: 64",
                "memory:\n          -1",
                13,
                "cluster.vms[0].demand.memory",
                "negative",
            ),
            ("  vms:", "  vmss:", 8, "cluster", "vmss"),
            ("cluster:", "clutser:", 6, "", "clutser"),
            ("  name: c\n", "", 6, "cluster", "`name` is missing"),
            (
                "capacity:",
                "used:\n      nic: 1\n    capacity:",
                4,
                "hosts[0].used.nic",
                "nic",
            ),
        ] {
            assert!(BLOCK.contains(from), "{from:?}");
            let error = read("inv.yaml", &BLOCK.replacen(from, to, 1)).unwrap_err();
            assert!(error.what.contains(what), "{to}: {error}");
            assert_eq!(
                (error.place.line, error.place.path.as_str()),
                (Some(line), path),
                "{to}: {error}"
            );
        }
    }

    #[test]
    fn a_byte_order_mark_is_not_part_of_the_text() {
        assert_eq!(
            read("f", &format!("\u{feff}{GOOD}")).unwrap(),
            read("f", GOOD).unwrap()
        );
        let error = read("f", &format!("\u{feff}{}", GOOD.replacen("hosts:", "host:", 1))).unwrap_err();
        assert_eq!(error.hint.unwrap(), "did you mean `hosts`?");
    }

    #[test]
    fn structure_that_cannot_be_is_refused() {
        assert!(
            refused("name: h2", "name: h2\n    name: h2")
                .what
                .contains("twice")
        );
        assert!(refused("name: h1", "name: H 1").what.contains("not a host name"));
        assert!(refused("name: h1", "name: !odd h1").what.contains("tag"));
        assert!(
            refused("capacity: {vcpus: 8, memory: 1024}", "maintenance: true")
                .what
                .contains("`capacity` is missing")
        );
        assert!(read("f", "").unwrap_err().what.contains("empty"));
        assert!(read("f", "- 1").unwrap_err().what.contains("fields"));
        assert!(read("f", "{").unwrap_err().what.contains("not YAML or JSON"));
    }

    #[test]
    fn ten_megabytes_of_nesting_are_refused_at_once() {
        for opening in ["[", "{a: ", "- ", "? "] {
            let text = opening.repeat(10_000_000 / opening.len());
            let error = read("deep", &text).unwrap_err();
            assert!(
                error.what.contains("nested") || error.what.contains("not YAML"),
                "{opening:?}: {error}"
            );
        }
    }
}
