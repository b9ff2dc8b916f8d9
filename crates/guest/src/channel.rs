//! The guest's side of the console channel on /dev/ttyS1.
//!
//! Each request is carried out once per id. The replies of the latest requests are kept; a repeated
//! id gets them again from the start, because the VM may have moved to another QEMU in the middle
//! of a reply.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::termios::{ControlModes, OptionalActions, tcgetattr, tcsetattr};
use transhume_guest::wire::{REQUEST_BYTES_MAX, Reply, Request};

/// Requests whose replies are kept.
const REPLIES_KEPT_MAX: usize = 16;

/// Carries out one request; every line of the answer but the last is a chunk.
pub type Handler = dyn Fn(&Request) -> Vec<Reply> + Send + Sync;

/// Serves requests for ever.
pub fn serve(path: &str, handler: Arc<Handler>) -> io::Result<()> {
    let mut port = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags((OFlags::NOCTTY | OFlags::NONBLOCK).bits() as i32)
        .open(path)?;
    fcntl_setfl(&port, fcntl_getfl(&port)? - OFlags::NONBLOCK)?;
    let mut termios = tcgetattr(&port)?;
    termios.make_raw();
    termios.control_modes |= ControlModes::CLOCAL | ControlModes::CREAD;
    tcsetattr(&port, OptionalActions::Now, &termios)?;
    let channel = Arc::new(Channel {
        port: Mutex::new(port.try_clone()?),
        replies: Mutex::default(),
        handler,
    });
    let mut lines = Lines::default();
    let mut buffer = [0; 4096];
    loop {
        let length = port.read(&mut buffer)?;
        for line in lines.push(&buffer[..length]) {
            // A line that is no request is the rest of a cut one: the host repeats what it misses.
            if let Ok(request) = serde_json::from_slice::<Request>(&line) {
                channel.accept(request);
            }
        }
    }
}

struct Channel {
    port: Mutex<File>,
    replies: Mutex<VecDeque<Kept>>,
    handler: Arc<Handler>,
}

struct Kept {
    id: String,
    /// `None` while it is being carried out.
    lines: Option<Arc<Vec<u8>>>,
}

impl Channel {
    fn accept(self: &Arc<Self>, request: Request) {
        let mut replies = self.replies.lock().expect("no holder panics");
        if let Some(kept) = replies.iter().find(|kept| kept.id == request.id) {
            let lines = kept.lines.clone();
            drop(replies);
            if let Some(lines) = lines {
                self.write(&lines);
            }
            return;
        }
        if replies.len() == REPLIES_KEPT_MAX {
            replies.pop_front();
        }
        replies.push_back(Kept {
            id: request.id.clone(),
            lines: None,
        });
        drop(replies);
        let channel = Arc::clone(self);
        thread::spawn(move || channel.carry_out(&request));
    }

    fn carry_out(&self, request: &Request) {
        let mut lines = Vec::new();
        for reply in (self.handler)(request) {
            // The leading line end closes whatever a cut line left on the host's side.
            lines.push(b'\n');
            lines.extend(serde_json::to_vec(&reply).expect("a reply has only text and numbers"));
        }
        lines.push(b'\n');
        let lines = Arc::new(lines);
        let mut replies = self.replies.lock().expect("no holder panics");
        if let Some(kept) = replies.iter_mut().find(|kept| kept.id == request.id) {
            kept.lines = Some(Arc::clone(&lines));
        }
        drop(replies);
        self.write(&lines);
    }

    /// Without a reader QEMU drops the bytes; the host then asks again.
    fn write(&self, lines: &[u8]) {
        let _dropped = self.port.lock().expect("no holder panics").write_all(lines);
    }
}

/// Cuts bytes into lines; a line longer than the limit is skipped up to its end.
#[derive(Default)]
struct Lines {
    line: Vec<u8>,
    skipping: bool,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut complete = Vec::new();
        for &byte in bytes {
            if byte == b'\n' {
                if !self.skipping && !self.line.is_empty() {
                    complete.push(std::mem::take(&mut self.line));
                }
                self.line.clear();
                self.skipping = false;
            } else if self.line.len() == REQUEST_BYTES_MAX {
                self.skipping = true;
            } else if !self.skipping {
                self.line.push(byte);
            }
        }
        complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use transhume_guest::wire::{Op, Outcome};

    #[test]
    fn lines_survive_cuts_and_oversize() {
        let mut lines = Lines::default();
        assert!(lines.push(b"\n\nab").is_empty());
        assert_eq!(lines.push(b"c\nd\n"), [b"abc".to_vec(), b"d".to_vec()]);
        assert!(lines.push(&vec![b'x'; REQUEST_BYTES_MAX + 5]).is_empty());
        assert_eq!(lines.push(b"tail\nnext\n"), [b"next".to_vec()]);
    }

    #[test]
    fn a_repeated_id_is_answered_again_but_carried_out_once() {
        let path = std::env::temp_dir().join(format!("transhume-channel-{}", std::process::id()));
        let count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&count);
        let handler = move |request: &Request| {
            counter.fetch_add(1, Ordering::SeqCst);
            vec![Reply::Done {
                id: request.id.clone(),
                chunks: 0,
                done: Outcome::Pong { uptime_ms: 1 },
            }]
        };
        let port = File::create(&path).unwrap();
        let channel = Arc::new(Channel {
            port: Mutex::new(port),
            replies: Mutex::default(),
            handler: Arc::new(handler),
        });
        for id in ["a", "b"] {
            channel.carry_out_for_test(id);
        }
        channel.accept(Request {
            id: "a".into(),
            op: Op::Ping,
        });
        assert_eq!(count.load(Ordering::SeqCst), 2);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches(r#""id":"a""#).count(), 2);
        assert_eq!(text.matches(r#""id":"b""#).count(), 1);
        std::fs::remove_file(&path).unwrap();
    }

    impl Channel {
        fn carry_out_for_test(&self, id: &str) {
            self.replies.lock().unwrap().push_back(Kept {
                id: id.into(),
                lines: None,
            });
            self.carry_out(&Request {
                id: id.into(),
                op: Op::Ping,
            });
        }
    }
}
