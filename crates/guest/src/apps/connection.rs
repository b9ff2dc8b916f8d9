//! A connection to a server that is asked one thing after the other, each with a deadline.

use std::io::{self, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use transhume_guest::app::OPERATION_MS_MAX;

use super::Trouble;

/// A longer answer is refused.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// What is said first on a new connection.
pub type Greeting = fn(&mut Connection) -> Result<(), Trouble>;

/// A server, connected to when it is first asked, and again after a trouble.
pub struct Server {
    address: SocketAddrV4,
    greeting: Greeting,
    open: Option<Connection>,
}

impl Server {
    pub fn new(address: SocketAddrV4, greeting: Greeting) -> Self {
        Server {
            address,
            greeting,
            open: None,
        }
    }

    /// Has `ask` speak with the server; a trouble names it.
    pub fn ask<T>(
        &mut self,
        deadline: Instant,
        ask: impl FnOnce(&mut Connection) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let answered = self.connection(deadline).and_then(|mut connection| {
            let answer = ask(&mut connection)?;
            self.open = Some(connection);
            Ok(answer)
        });
        answered.map_err(|trouble| match trouble {
            Trouble::Failed(text) => Trouble::Failed(format!("{}: {text}", self.address)),
            Trouble::Wrong(text) => Trouble::Wrong(format!("{}: {text}", self.address)),
        })
    }

    fn connection(&mut self, deadline: Instant) -> Result<Connection, Trouble> {
        if let Some(mut connection) = self.open.take() {
            connection.deadline = deadline;
            return Ok(connection);
        }
        let stream = TcpStream::connect_timeout(&self.address.into(), left(deadline)?).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let mut connection = Connection {
            stream,
            deadline,
            read: Vec::new(),
        };
        (self.greeting)(&mut connection)?;
        Ok(connection)
    }
}

/// One connection.
pub struct Connection {
    stream: TcpStream,
    deadline: Instant,
    /// What came and was not taken yet.
    read: Vec<u8>,
}

impl Connection {
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        let left = left(self.deadline)?;
        let written = self
            .stream
            .set_write_timeout(Some(left))
            .and_then(|()| self.stream.write_all(bytes));
        written.map_err(failed)
    }

    /// The next line, without its end.
    pub fn line(&mut self) -> Result<String, Trouble> {
        loop {
            if let Some(end) = self.read.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            self.fill()?;
        }
    }

    /// The next so many bytes.
    pub fn bytes(&mut self, count: usize) -> Result<Vec<u8>, Trouble> {
        if count > ANSWER_BYTES_MAX {
            return Err(too_long());
        }
        while self.read.len() < count {
            self.fill()?;
        }
        Ok(self.read.drain(..count).collect())
    }

    fn fill(&mut self) -> Result<(), Trouble> {
        if self.read.len() > ANSWER_BYTES_MAX {
            return Err(too_long());
        }
        let left = left(self.deadline)?;
        let mut buffer = [0; 4096];
        let read = self
            .stream
            .set_read_timeout(Some(left))
            .and_then(|()| self.stream.read(&mut buffer));
        match read.map_err(failed)? {
            0 => Err(Trouble::Failed("the connection was closed".to_owned())),
            length => {
                self.read.extend_from_slice(&buffer[..length]);
                Ok(())
            }
        }
    }
}

fn left(deadline: Instant) -> Result<Duration, Trouble> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(no_end()) } else { Ok(left) }
}

fn failed(error: io::Error) -> Trouble {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => no_end(),
        _ => Trouble::Failed(error.to_string()),
    }
}

fn no_end() -> Trouble {
    Trouble::Failed(format!("no answer within {OPERATION_MS_MAX} ms"))
}

fn too_long() -> Trouble {
    Trouble::Failed(format!("an answer of more than {ANSWER_BYTES_MAX} bytes"))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::net::{Ipv4Addr, SocketAddr, TcpListener};
    use std::thread;

    /// A server that answers each connection with these bytes, whatever it is asked.
    pub fn serving(answers: Vec<Vec<u8>>) -> SocketAddrV4 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let SocketAddr::V4(address) = listener.local_addr().unwrap() else {
            panic!("an IPv4 address")
        };
        thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                stream.write_all(&answer).unwrap();
            }
        });
        address
    }

    /// Long enough for a slow machine.
    pub fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn a_closed_connection_is_a_trouble_and_the_next_question_has_a_new_one() {
        let address = serving(vec![b"half".to_vec(), b"whole\r\n".to_vec()]);
        let mut server = Server::new(address, |_| Ok(()));
        let Err(Trouble::Failed(text)) = server.ask(soon(), Connection::line) else {
            panic!("half a line is no answer")
        };
        assert!(text.starts_with(&address.to_string()), "{text}");
        assert_eq!(server.ask(soon(), Connection::line).unwrap(), "whole");
    }

    #[test]
    fn a_server_that_is_silent_or_says_too_much_fails() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let SocketAddr::V4(silent) = listener.local_addr().unwrap() else {
            panic!("an IPv4 address")
        };
        let mut server = Server::new(silent, |_| Ok(()));
        let deadline = Instant::now() + Duration::from_millis(50);
        let silence = server.ask(deadline, Connection::line);
        assert!(matches!(silence, Err(Trouble::Failed(text)) if text.contains("no answer within")));
        let mut server = Server::new(serving(vec![vec![b'x'; 80 * 1024]]), |_| Ok(()));
        let endless = server.ask(soon(), Connection::line);
        assert!(matches!(endless, Err(Trouble::Failed(text)) if text.contains("more than")));
        assert!(server.ask(soon(), |c| c.bytes(usize::MAX)).is_err());
    }
}
