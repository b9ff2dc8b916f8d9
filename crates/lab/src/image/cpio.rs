//! The `newc` archive that the kernel unpacks as its initramfs. Pure.

use super::tree::{Node, Tree};

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFCHR: u32 = 0o020_000;

/// The archive's bytes. Parents come before what they hold, as the kernel needs it: the tree is
/// sorted by path.
pub fn archive(tree: &Tree) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, (path, node)) in tree.iter().enumerate() {
        let inode = number as u32 + 1;
        match node {
            Node::Directory { mode } => entry(&mut out, path, inode, S_IFDIR | mode, (0, 0), &[]),
            Node::File { mode, bytes } => entry(&mut out, path, inode, S_IFREG | mode, (0, 0), bytes),
            Node::Link { to } => entry(&mut out, path, inode, S_IFLNK | 0o777, (0, 0), to.as_bytes()),
            Node::Device { mode, major, minor } => {
                entry(&mut out, path, inode, S_IFCHR | mode, (*major, *minor), &[]);
            }
        }
    }
    entry(&mut out, TRAILER, 0, 0, (0, 0), &[]);
    out
}

fn entry(out: &mut Vec<u8>, name: &str, inode: u32, mode: u32, device: (u32, u32), bytes: &[u8]) {
    let links = 1;
    let fields = [
        inode,
        mode,
        0,
        0,
        links,
        0,
        bytes.len() as u32,
        0,
        0,
        device.0,
        device.1,
        name.len() as u32 + 1,
        0,
    ];
    out.extend_from_slice(MAGIC.as_bytes());
    for field in fields {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(bytes);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn an_independent_reader_unpacks_the_same_tree() {
        let mut tree = Tree::default();
        tree.file("usr/bin/hello", 0o755, b"#!/bin/sh\necho hi\n".to_vec())
            .unwrap();
        tree.link("bin", "usr/bin").unwrap();
        tree.file("etc/odd-length", 0o600, b"12345".to_vec()).unwrap();
        let mut child = Command::new("busybox")
            .args(["cpio", "-t", "-v"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("busybox is there");
        child.stdin.take().unwrap().write_all(&archive(&tree)).unwrap();
        let listed = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        for part in [
            "-rwxr-xr-x",
            "usr/bin/hello",
            "bin -> usr/bin",
            "-rw-------",
            "etc/odd-length",
        ] {
            assert!(listed.contains(part), "{part} is missing in\n{listed}");
        }
    }
}
