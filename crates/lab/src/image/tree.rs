//! The files of an initramfs before they become an archive. Paths are relative and clean.
//!
//! The base is laid out like today's distributions (`/bin`, `/lib`, `/lib64`, … are links into
//! `/usr`). What an overlay puts below such a link lands in the link's directory, so programs find
//! their libraries whichever way they are named.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::LabError;

/// More bytes than this in an overlay are refused: every guest holds them in memory.
pub const OVERLAY_BYTES_MAX: u64 = 512 << 20;
const LINKS_FOLLOWED_MAX: usize = 16;

/// One thing in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    Directory { mode: u32 },
    File { mode: u32, bytes: Vec<u8> },
    Link { to: String },
    Device { mode: u32, major: u32, minor: u32 },
}

/// All of it, by path; a parent sorts before its children.
#[derive(Debug, Default)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
}

impl Tree {
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Node)> {
        self.nodes.iter()
    }

    pub fn file(&mut self, path: &str, mode: u32, bytes: Vec<u8>) -> Result<(), LabError> {
        self.put(path, Node::File { mode, bytes })
    }

    pub fn link(&mut self, path: &str, to: &str) -> Result<(), LabError> {
        self.put(path, Node::Link { to: to.to_owned() })
    }

    /// Adds a node, its parents first. Files replace files; a directory where a link to one is adds
    /// nothing.
    pub fn put(&mut self, path: &str, node: Node) -> Result<(), LabError> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = self.directory(parent)?;
        let path = if parent.is_empty() {
            name.to_owned()
        } else {
            format!("{parent}/{name}")
        };
        match (self.nodes.get(&path), &node) {
            (Some(Node::Directory { .. }), Node::Directory { .. }) => {}
            (Some(Node::Link { .. }), Node::Directory { .. }) => {
                self.directory(&path)?;
                return Ok(());
            }
            (Some(Node::Directory { .. }), Node::File { .. } | Node::Link { .. } | Node::Device { .. })
            | (Some(Node::File { .. } | Node::Device { .. }), Node::Directory { .. }) => {
                return Err(LabError::OverlayConflict { path });
            }
            (None, _)
            | (
                Some(Node::File { .. } | Node::Link { .. } | Node::Device { .. }),
                Node::File { .. } | Node::Link { .. } | Node::Device { .. },
            ) => {}
        }
        self.nodes.insert(path, node);
        Ok(())
    }

    /// The clean path of a directory, links followed, made where missing.
    fn directory(&mut self, path: &str) -> Result<String, LabError> {
        let mut todo: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
        let mut clean = String::new();
        let mut followed = 0;
        while let Some(part) = todo.pop() {
            if part.is_empty() || part == "." {
                continue;
            }
            if part == ".." {
                clean.truncate(clean.rfind('/').unwrap_or(0));
                continue;
            }
            let next = if clean.is_empty() {
                part
            } else {
                format!("{clean}/{part}")
            };
            match self.nodes.get(&next) {
                Some(Node::Link { to }) => {
                    followed += 1;
                    if followed > LINKS_FOLLOWED_MAX {
                        return Err(LabError::OverlayConflict { path: next });
                    }
                    if to.starts_with('/') {
                        clean.clear();
                    }
                    todo.extend(to.split('/').rev().map(str::to_owned));
                }
                Some(Node::File { .. } | Node::Device { .. }) => {
                    return Err(LabError::OverlayConflict { path: next });
                }
                Some(Node::Directory { .. }) => clean = next,
                None => {
                    self.nodes.insert(next.clone(), Node::Directory { mode: 0o755 });
                    clean = next;
                }
            }
        }
        Ok(clean)
    }

    /// Lays a directory of the user over the tree; returns its size.
    pub fn overlay(&mut self, root: &Path) -> Result<u64, LabError> {
        let mut total = 0;
        let mut todo = vec![(root.to_owned(), String::new())];
        while let Some((directory, prefix)) = todo.pop() {
            let failed = |source| LabError::Overlay {
                path: directory.clone(),
                source,
            };
            for entry in fs::read_dir(&directory).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let name = entry.file_name().into_string().map_err(|_| {
                    failed(std::io::Error::new(
                        std::io::ErrorKind::InvalidData,
                        "a name that is not UTF-8",
                    ))
                })?;
                let path = if prefix.is_empty() {
                    name
                } else {
                    format!("{prefix}/{name}")
                };
                let meta = entry.metadata().map_err(failed)?;
                let mode = meta.permissions().mode() & 0o7777;
                if meta.is_dir() {
                    self.put(&path, Node::Directory { mode })?;
                    todo.push((entry.path(), path));
                } else if meta.is_symlink() {
                    let to = fs::read_link(entry.path()).map_err(failed)?;
                    self.link(&path, &to.to_string_lossy())?;
                } else if meta.is_file() {
                    total += meta.len();
                    if total > OVERLAY_BYTES_MAX {
                        return Err(LabError::OverlayTooLarge {
                            path: root.to_owned(),
                        });
                    }
                    self.file(&path, mode, fs::read(entry.path()).map_err(failed)?)?;
                } else {
                    tracing::warn!(path = %entry.path().display(), "neither file, directory nor link: left out");
                }
            }
        }
        Ok(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_below_a_link_lands_in_its_directory() {
        let mut tree = Tree::default();
        tree.put("usr/lib64", Node::Directory { mode: 0o755 }).unwrap();
        tree.link("lib64", "usr/lib64").unwrap();
        tree.put("lib64", Node::Directory { mode: 0o755 }).unwrap();
        tree.file("lib64/ld.so", 0o755, vec![1]).unwrap();
        let paths: Vec<_> = tree.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["lib64", "usr", "usr/lib64", "usr/lib64/ld.so"]);
    }

    #[test]
    fn endless_links_and_files_used_as_directories_are_refused() {
        let mut tree = Tree::default();
        tree.link("a", "b").unwrap();
        tree.link("b", "a").unwrap();
        tree.file("f", 0o644, vec![]).unwrap();
        for path in ["a/x", "f/x"] {
            assert!(
                matches!(
                    tree.file(path, 0o644, vec![]),
                    Err(LabError::OverlayConflict { .. })
                ),
                "{path}"
            );
        }
    }

    #[test]
    fn parents_come_before_their_children() {
        let mut tree = Tree::default();
        tree.file("a/b/c", 0o644, vec![]).unwrap();
        tree.file("a-x", 0o644, vec![]).unwrap();
        let paths: Vec<_> = tree.iter().map(|(path, _)| path.as_str()).collect();
        for (place, path) in paths.iter().enumerate() {
            if let Some((parent, _)) = path.rsplit_once('/') {
                assert!(
                    paths[..place].contains(&parent),
                    "{parent} must come before {path}"
                );
            }
        }
    }
}
