//! What anchors stand at, for the aliases that name them. A text of a few lines can stand for more
//! than any memory holds, so that what is copied has a limit.

use std::collections::HashMap;

use super::NESTING_MAX;
use super::decode::Fault;
use super::text::{Node, Value, fault};

/// Values that are copied, all aliases of a text together: as many as the text of an inventory of
/// 50 000 VMs has.
const COPIED_MAX: usize = 1_000_000;

/// By the number that the parser gives an anchor; zero is none.
#[derive(Default)]
pub(super) struct Anchors {
    kept: HashMap<usize, Kept>,
    copied: usize,
}

struct Kept {
    node: Node,
    nodes: usize,
    /// Lists and maps within one another.
    depth: usize,
}

/// How many values it is, itself among them, and how deep they are.
fn extent(node: &Node) -> (usize, usize) {
    let inner: Box<dyn Iterator<Item = &Node>> = match &node.value {
        Value::Scalar { .. } => return (1, 0),
        Value::List(items) => Box::new(items.iter()),
        Value::Map(fields) => Box::new(fields.iter().map(|(_, value)| value)),
    };
    inner
        .map(extent)
        .fold((1, 1), |(nodes, depth), (n, d)| (nodes + n, depth.max(d + 1)))
}

impl Anchors {
    /// A value that may have an anchor is complete.
    pub(super) fn keep(&mut self, anchor: usize, node: &Node) -> Result<(), Fault> {
        if anchor == 0 {
            return Ok(());
        }
        let (nodes, depth) = extent(node);
        self.count(nodes, node.line)?;
        let node = node.clone();
        self.kept.insert(anchor, Kept { node, nodes, depth });
        Ok(())
    }

    /// What an alias stands for, at this line and within so many lists and maps.
    pub(super) fn copy(&mut self, anchor: usize, line: usize, within: usize) -> Result<Node, Fault> {
        let Some(Kept { nodes, depth, .. }) = self.kept.get(&anchor) else {
            return Err(fault(line, "this alias stands within what it stands for"));
        };
        if within + depth > NESTING_MAX {
            return Err(fault(line, format!("nested deeper than {NESTING_MAX}")));
        }
        self.count(*nodes, line)?;
        Ok(Node {
            line,
            value: self.kept[&anchor].node.value.clone(),
        })
    }

    fn count(&mut self, nodes: usize, line: usize) -> Result<(), Fault> {
        self.copied += nodes;
        match self.copied <= COPIED_MAX {
            true => Ok(()),
            false => Err(fault(
                line,
                format!("aliases stand for more than the {COPIED_MAX} values accepted"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{NESTING_MAX, read};

    const SIZED: &str = "\
hosts:
  - name: h1
    capacity: &size {vcpus: 8, memory: 1024}
  - {name: h2, capacity: *size}
cluster:
  name: c
  vms:
    - {name: vm-1, host: &home h1, demand: {vcpus: 1, memory: 64}}
    - {name: vm-2, host: *home, demand: {vcpus: 1, memory: 64}}
";

    #[test]
    fn an_alias_is_what_its_anchor_stands_at() {
        let input = read("f", SIZED).unwrap();
        assert_eq!(input.hosts[1].capacity, input.hosts[0].capacity);
        assert_eq!(input.cluster.vms[1].host.as_str(), "h1");
        let wrong = SIZED.replace("memory: 1024", "memory: much");
        assert_eq!(read("f", &wrong).unwrap_err().place.line, Some(3));
    }

    #[test]
    fn a_few_lines_do_not_stand_for_more_than_memory_holds() {
        let mut text = "l0: &l0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n".to_owned();
        for level in 1..12 {
            let below = format!("*l{}", level - 1);
            text += &format!("l{level}: &l{level} [{}]\n", vec![below; 10].join(", "));
        }
        let why = read("f", &text).unwrap_err();
        assert!(why.what.contains("1000000 values"), "{why}");
    }

    #[test]
    fn aliases_do_not_nest_deeper_than_text_may_and_not_in_themselves() {
        let mut text = "l0: &l0 [1]\n".to_owned();
        for level in 1..=NESTING_MAX {
            text += &format!("l{level}: &l{level} [*l{}]\n", level - 1);
        }
        let why = read("f", &text).unwrap_err();
        assert!(why.what.contains("nested deeper"), "{why}");
        let why = read("f", "a: &a [*a]").unwrap_err();
        assert!(why.what.contains("stands within"), "{why}");
        assert!(read("f", "a: *nobody").is_err());
    }
}
