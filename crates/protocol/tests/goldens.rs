//! Script goldens: `testdata/*.txt` are played, and must come out as they are written.
//! `UPDATE_GOLDENS=1` rewrites them; read the difference before you commit it.
#![allow(clippy::disallowed_methods, reason = "reads and rewrites goldens")]

mod support;

use std::fs;
use std::path::PathBuf;

#[test]
fn every_script_plays_as_written() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata");
    let entries = fs::read_dir(folder).expect("testdata is there");
    let mut scripts: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    scripts.retain(|path| path.extension().is_some_and(|ext| ext == "txt"));
    scripts.sort();
    assert!(scripts.len() >= 10, "scripts are missing in {folder}");
    for path in scripts {
        let script = fs::read_to_string(&path).expect("a script can be read");
        let played = support::script::play(&script);
        if std::env::var_os("UPDATE_GOLDENS").is_some() {
            fs::write(&path, &played).expect("a script can be written");
        } else {
            assert!(
                played == script,
                "{} differs; it plays as:\n{played}",
                path.display()
            );
        }
    }
}
