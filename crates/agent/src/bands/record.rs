//! What an interface had before we divided it, kept until it is put back.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use transhume_bands::Previous;

const FILE: &str = "bands.json";
const VERSION: u32 = 1;

/// The divided interface. Absent from disk where none is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Divided {
    version: u32,
    /// Its name.
    pub(super) interface: String,
    /// Its index: an interface of that name which came later has another, and never had this queue.
    pub(super) index: u32,
    /// `None`: the kernel's own.
    pub(super) previous: Option<Previous>,
}

impl Divided {
    pub(super) fn new(interface: &str, index: u32, previous: Option<Previous>) -> Self {
        Self {
            version: VERSION,
            interface: interface.to_owned(),
            index,
            previous,
        }
    }

    /// Reads what an agent wrote.
    pub(crate) fn read(bytes: &[u8]) -> io::Result<Self> {
        let divided: Self = serde_json::from_slice(bytes)?;
        match divided.version {
            VERSION => Ok(divided),
            other => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it has version {other}, and this agent knows {VERSION}"),
            )),
        }
    }
}

/// Where it is kept.
#[derive(Debug, Clone)]
pub(super) struct Record(PathBuf);

impl Record {
    pub(super) fn below(state_dir: &Path) -> Self {
        Self(state_dir.join(FILE))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn read(&self) -> io::Result<Option<Divided>> {
        let bytes = match std::fs::read(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        Divided::read(&bytes).map(Some)
    }

    /// Durable when it returns: it is written before the first change.
    pub(super) fn write(&self, divided: &Divided) -> io::Result<()> {
        let new = self.0.with_extension("json.new");
        let mut file = std::fs::File::create(&new)?;
        serde_json::to_writer(&mut file, divided)?;
        file.sync_all()?;
        std::fs::rename(&new, &self.0)?;
        self.sync_dir()
    }

    pub(super) fn remove(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| self.sync_dir()),
        }
    }

    fn sync_dir(&self) -> io::Result<()> {
        let dir = self.0.parent().unwrap_or(Path::new("/"));
        std::fs::File::open(dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_back_and_an_unknown_version_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let record = Record::below(dir.path());
        assert_eq!(record.read().unwrap(), None);
        let previous = Previous {
            kind: "tbf".to_owned(),
            major: 5,
            options: vec![1, 2, 3],
            has_parts: false,
        };
        let divided = Divided::new("eth0", 7, Some(previous));
        record.write(&divided).unwrap();
        assert_eq!(record.read().unwrap(), Some(divided));
        let newer = std::fs::read_to_string(record.path()).unwrap();
        std::fs::write(record.path(), newer.replace("\"version\":1", "\"version\":2")).unwrap();
        assert!(record.read().unwrap_err().to_string().contains("version 2"));
        record.remove().unwrap();
        record.remove().unwrap();
        assert_eq!(record.read().unwrap(), None);
    }
}
