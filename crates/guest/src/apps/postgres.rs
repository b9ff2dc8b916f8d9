//! A client of PostgreSQL: trusted, by simple queries (its documentation, "Frontend/Backend
//! Protocol", version 3). Only what the checker asks is understood.

use std::net::SocketAddrV4;
use std::time::Instant;

use transhume_guest::app::ClusterStats;
use transhume_guest::settings::Settings;

use super::connection::{Connection, Server};
use super::written::Written;
use super::{Trouble, replica};

const PORT: u16 = 5432;
const VERSION_3: i32 = 196_608;
const PARAMETERS: &[u8] = b"user\0postgres\0database\0postgres\0\0";
const TABLE: &str = "CREATE TABLE IF NOT EXISTS checks (who int PRIMARY KEY, number bigint)";

/// Writes on the primary, which waits for the standby; reads on that.
pub struct Client {
    index: u16,
    primary: Server,
    standby: Server,
    /// This VM's own, where it is a standby.
    own: Option<Server>,
    has_table: bool,
    written: Written,
    reads: bool,
    receiver: Receiver,
}

/// What was seen of the process that receives the primary's log.
#[derive(Default)]
struct Receiver {
    process: Option<String>,
    restarts: u64,
}

impl Receiver {
    fn saw(&mut self, process: Option<String>) {
        // One that is gone counts when its successor is there.
        let Some(process) = process else { return };
        let before = self.process.replace(process);
        self.restarts += u64::from(before.is_some() && before != self.process);
    }
}

impl Client {
    pub fn new(settings: &Settings) -> Self {
        let server = |ip| Server::new(SocketAddrV4::new(ip, PORT), greet);
        Client {
            index: settings.index,
            primary: server(settings.peers[0]),
            standby: server(replica(settings)),
            own: (settings.index > 0).then(|| server(settings.ip)),
            has_table: false,
            written: Written::default(),
            reads: false,
            receiver: Receiver::default(),
        }
    }
}

impl super::Client for Client {
    fn operate(&mut self, deadline: Instant) -> Result<(), Trouble> {
        if !self.has_table {
            self.primary.ask(deadline, |primary| query(primary, TABLE))?;
            self.has_table = true;
        }
        let reads = self.reads;
        self.reads = !reads;
        let who = self.index;
        if reads {
            let text = format!("SELECT number FROM checks WHERE who = {who}");
            let value = self.standby.ask(deadline, |standby| query(standby, &text))?;
            return self.written.read(value.map(|value| number(&value)).transpose()?);
        }
        let primary = &mut self.primary;
        self.written.write(|number| {
            let text = format!(
                "INSERT INTO checks VALUES ({who}, {number}) ON CONFLICT (who) DO UPDATE SET number = {number}"
            );
            primary.ask(deadline, |primary| query(primary, &text)).map(drop)
        })
    }

    fn watch(&mut self, deadline: Instant) -> Result<(), Trouble> {
        if let Some(own) = &mut self.own {
            let text = "SELECT pid FROM pg_stat_wal_receiver";
            self.receiver.saw(own.ask(deadline, |own| query(own, text))?);
        }
        Ok(())
    }

    fn cluster(&self) -> ClusterStats {
        ClusterStats {
            link_breaks: self.receiver.restarts,
            ..ClusterStats::default()
        }
    }
}

fn number(value: &str) -> Result<u64, Trouble> {
    value
        .parse()
        .map_err(|_| Trouble::Wrong(format!("the value `{value}` is no number")))
}

fn greet(server: &mut Connection) -> Result<(), Trouble> {
    let length = 8 + PARAMETERS.len() as i32;
    let mut startup = Vec::new();
    startup.extend(length.to_be_bytes());
    startup.extend(VERSION_3.to_be_bytes());
    startup.extend(PARAMETERS);
    server.write(&startup)?;
    until_ready(server).map(drop)
}

/// Carries out one statement; the first value of its first row.
fn query(server: &mut Connection, text: &str) -> Result<Option<String>, Trouble> {
    let length = 4 + text.len() as i32 + 1;
    let mut message = vec![b'Q'];
    message.extend(length.to_be_bytes());
    message.extend(text.as_bytes());
    message.push(0);
    server.write(&message)?;
    until_ready(server)
}

fn until_ready(server: &mut Connection) -> Result<Option<String>, Trouble> {
    let mut first = None;
    loop {
        let kind = server.bytes(1)?[0];
        let length = int(&server.bytes(4)?, 0).unwrap_or(0);
        let body = server.bytes(usize::try_from(length - 4).unwrap_or(usize::MAX))?;
        match kind {
            b'Z' => return Ok(first),
            b'E' => return Err(Trouble::Failed(fields(&body))),
            b'R' if int(&body, 0) != Some(0) => {
                return Err(Trouble::Failed("asks for a password".to_owned()));
            }
            b'D' => first = first.or(value(&body)),
            // Parameters, notices, descriptions of rows, ends of commands.
            _ => {}
        }
    }
}

fn int(bytes: &[u8], at: usize) -> Option<i32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(i32::from_be_bytes(bytes.try_into().ok()?))
}

/// The first column of a row: behind the number of columns, its length and its text.
fn value(row: &[u8]) -> Option<String> {
    let length = usize::try_from(int(row, 2)?).ok()?;
    let text = row.get(6..6 + length)?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// An error in words: its fields, each behind one byte that says what it is.
fn fields(body: &[u8]) -> String {
    let text = |kind: u8| {
        let field = body
            .split(|&byte| byte == 0)
            .find(|field| field.first() == Some(&kind))?;
        Some(String::from_utf8_lossy(&field[1..]).into_owned())
    };
    text(b'M').unwrap_or_else(|| "an error without words".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::connection::tests::{serving, soon};
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut message = vec![kind];
        message.extend((4 + body.len() as i32).to_be_bytes());
        message.extend(body);
        message
    }

    fn answered(messages: &[Vec<u8>]) -> Result<Option<String>, Trouble> {
        let mut server = Server::new(serving(vec![messages.concat()]), |_| Ok(()));
        server.ask(soon(), |server| query(server, "SELECT 1"))
    }

    #[test]
    fn the_first_value_of_the_first_row_is_read() {
        let row = |text: &str| {
            let mut body = vec![0, 1];
            body.extend((text.len() as i32).to_be_bytes());
            body.extend(text.as_bytes());
            message(b'D', &body)
        };
        let ready = message(b'Z', b"I");
        let rows = [message(b'T', b"\0\0"), row("42"), row("43"), ready.clone()];
        assert_eq!(answered(&rows), Ok(Some("42".to_owned())));
        assert_eq!(answered(&[message(b'C', b"INSERT 0 1\0"), ready]), Ok(None));
    }

    #[test]
    fn errors_are_told_in_the_servers_words_and_hostile_lengths_refused() {
        let error = message(b'E', b"SFATAL\0C57P03\0Mthe database system is starting up\0\0");
        let Err(Trouble::Failed(text)) = answered(&[error]) else {
            panic!("an error is no answer")
        };
        assert!(text.ends_with("is starting up"), "{text}");
        assert!(answered(&[message(b'R', &[0, 0, 0, 5])]).is_err(), "a password");
        assert!(answered(&[vec![b'D', 0xff, 0xff, 0xff, 0xff]]).is_err());
        assert_eq!(value(&[0, 1, 0, 0, 0, 9, b'x']), None);
    }

    #[test]
    fn a_receiver_with_another_number_was_started_anew() {
        let mut receiver = Receiver::default();
        for (process, restarts) in [(Some("7"), 0), (Some("7"), 0), (None, 0), (Some("9"), 1)] {
            receiver.saw(process.map(str::to_owned));
            assert_eq!(receiver.restarts, restarts);
        }
    }
}
