//! The user's workload: a shell script from the overlay or the kernel's command line, its output in
//! a bounded log.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::pipe::PipeFlags;
use rustix::pipe::pipe_with;
use transhume_guest::settings::Settings;

const LOG: &str = "/var/log/workload.log";
const SCRIPT: &str = "/etc/transhume/run";
/// When the log reaches this size it is put aside as `workload.log.1`, in place of the one before.
const LOG_FILE_BYTES_MAX: u64 = 512 * 1024;

/// The log and how the workload ended.
pub struct Run {
    path: PathBuf,
    file: File,
    /// Offset of the first byte of `file` in the whole log.
    start: u64,
    length: u64,
    exit: Option<i32>,
}

impl Run {
    /// Starts the workload; `None` where there is none.
    pub fn start(settings: &Settings, cmdline: &str) -> io::Result<Option<Arc<Mutex<Run>>>> {
        if let Some(script) = script_of(cmdline)? {
            fs::create_dir_all("/etc/transhume")?;
            fs::write(SCRIPT, script)?;
        }
        if !Path::new(SCRIPT).exists() {
            return Ok(None);
        }
        fs::create_dir_all("/var/log")?;
        let run = Arc::new(Mutex::new(Run::open(Path::new(LOG))?));
        let (mut reader, writer) = pipe_with(PipeFlags::CLOEXEC).map(|(r, w)| (File::from(r), w))?;
        let peers = settings
            .peers
            .iter()
            .map(|ip| ip.to_string())
            .collect::<Vec<_>>()
            .join(",");
        let mut child = Command::new("/bin/sh")
            .arg(SCRIPT)
            .env("VM_NAME", &settings.name)
            .env("VM_INDEX", settings.index.to_string())
            .env("VM_IP", settings.ip.to_string())
            .env("VM_COUNT", settings.peers.len().to_string())
            .env("VM_PEERS", peers)
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .spawn()?;
        let log = Arc::clone(&run);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                log.lock().expect("no holder panics").append(&buffer[..length]);
            }
        });
        let ended = Arc::clone(&run);
        thread::spawn(move || {
            let exit = child.wait().map_or(-1, crate::exec::exit_code);
            ended.lock().expect("no holder panics").exit = Some(exit);
        });
        Ok(Some(run))
    }

    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(path)?;
        Ok(Run {
            path: path.to_owned(),
            file,
            start: 0,
            length: 0,
            exit: None,
        })
    }

    /// A log that cannot be written is no reason to stop the workload: the bytes are counted and
    /// gone.
    fn append(&mut self, bytes: &[u8]) {
        if self.length >= LOG_FILE_BYTES_MAX {
            let old = self.path.with_extension("log.1");
            if fs::rename(&self.path, old).is_ok()
                && let Ok(fresh) = Run::open(&self.path)
            {
                self.file = fresh.file;
                self.start += self.length;
                self.length = 0;
            }
        }
        if self.file.write_all(bytes).is_ok() {
            self.length += bytes.len() as u64;
        }
    }

    /// Bytes of the log from `offset` on: where they start, and the bytes.
    pub fn read(&mut self, offset: u64, bytes_max: usize) -> io::Result<(u64, Vec<u8>)> {
        let offset = offset.clamp(self.start, self.start + self.length);
        let end = SeekFrom::End(0);
        self.file.seek(SeekFrom::Start(offset - self.start))?;
        let mut bytes = Vec::new();
        Read::by_ref(&mut self.file)
            .take(bytes_max as u64)
            .read_to_end(&mut bytes)?;
        self.file.seek(end)?;
        Ok((offset, bytes))
    }

    pub fn exit(&self) -> Option<i32> {
        self.exit
    }
}

fn script_of(cmdline: &str) -> io::Result<Option<Vec<u8>>> {
    let Some(text) = cmdline
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix("transhume.run="))
    else {
        return Ok(None);
    };
    STANDARD.decode(text).map(Some).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_stays_bounded_and_its_offsets_go_on() {
        let path = std::env::temp_dir().join(format!("transhume-log-{}.log", std::process::id()));
        let mut run = Run::open(&path).unwrap();
        run.append(b"first\n");
        assert_eq!(run.read(2, 100).unwrap(), (2, b"rst\n".to_vec()));
        run.append(&vec![b'x'; LOG_FILE_BYTES_MAX as usize]);
        run.append(b"later\n"); // goes to a fresh file
        let start = LOG_FILE_BYTES_MAX + 6;
        assert_eq!(run.read(0, 100).unwrap(), (start, b"later\n".to_vec()));
        assert_eq!(run.read(start + 3, 2).unwrap(), (start + 3, b"er".to_vec()));
        assert_eq!(run.read(u64::MAX, 2).unwrap(), (start + 6, Vec::new()));
        fs::remove_file(&path).unwrap();
        fs::remove_file(path.with_extension("log.1")).unwrap();
    }

    #[test]
    fn a_script_on_the_command_line_is_base64() {
        assert_eq!(script_of("quiet").unwrap(), None);
        assert_eq!(
            script_of("a transhume.run=ZWNobyBoaQ== b").unwrap(),
            Some(b"echo hi".to_vec())
        );
        assert!(script_of("transhume.run=%%").is_err());
    }
}
