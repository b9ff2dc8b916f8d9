//! What rank 0 of the ring says of its laps, over a socket in this guest: `begin`, then `right` or
//! `wrong`. The ring keeps time itself.

use std::fs;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use transhume_guest::app::OPERATION_MS_MAX;
use transhume_guest::latency::Turns;

use super::Trouble;

/// The ring's program knows it, too.
const SOCKET: &str = "/run/transhume-laps";
const BEGIN: &[u8] = b"begin";
const RIGHT: &[u8] = b"right";
const WORD_BYTES_MAX: usize = 16;

/// Hears of laps.
pub struct Client {
    socket: UnixDatagram,
}

impl Client {
    pub fn new() -> io::Result<Self> {
        Client::at(Path::new(SOCKET))
    }

    fn at(path: &Path) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Client {
            socket: UnixDatagram::bind(path)?,
        })
    }

    /// The next word.
    fn word(&self, deadline: Instant, what: &str) -> Result<Vec<u8>, Trouble> {
        let failed = |_| Trouble::Failed(format!("{what} within {OPERATION_MS_MAX} ms"));
        let left = deadline.saturating_duration_since(Instant::now());
        let mut word = [0; WORD_BYTES_MAX];
        // A timeout of 0 would be none.
        let left = left.max(Duration::from_millis(1));
        let heard = self
            .socket
            .set_read_timeout(Some(left))
            .and_then(|()| self.socket.recv(&mut word));
        heard.map(|length| word[..length].to_vec()).map_err(failed)
    }
}

impl super::Client for Client {
    /// Ends of laps that were given up are skipped.
    fn turn(&mut self, _turns: &mut Turns) -> Result<(), Trouble> {
        let deadline = super::deadline();
        while self.word(deadline, "no lap began")? != BEGIN {}
        Ok(())
    }

    fn operate(&mut self, deadline: Instant) -> Result<(), Trouble> {
        match self.word(deadline, "the token did not come back")?.as_slice() {
            RIGHT => Ok(()),
            other => Err(Trouble::Wrong(format!(
                "the token came back {}",
                String::from_utf8_lossy(other)
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Client as _;
    use super::*;

    #[test]
    fn laps_are_right_wrong_or_do_not_end() {
        let path = std::env::temp_dir().join(format!("transhume-laps-{}", std::process::id()));
        let mut client = Client::at(&path).unwrap();
        let ring = UnixDatagram::unbound().unwrap();
        let say = |words: &[&str]| {
            for word in words {
                ring.send_to(word.as_bytes(), &path).unwrap();
            }
        };
        let mut turns = Turns::new(1);
        say(&["right", "begin", "right", "begin", "wrong", "begin"]);
        let soon = Instant::now() + Duration::from_secs(20);
        client.turn(&mut turns).unwrap();
        assert_eq!(client.operate(soon), Ok(()));
        client.turn(&mut turns).unwrap();
        assert!(matches!(client.operate(soon), Err(Trouble::Wrong(_))));
        client.turn(&mut turns).unwrap();
        assert!(matches!(client.operate(Instant::now()), Err(Trouble::Failed(_))));
        fs::remove_file(&path).unwrap();
    }
}
