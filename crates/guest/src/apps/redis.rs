//! A client of Redis by its own protocol (RESP 2). Only what the checker asks is understood.

use std::net::SocketAddrV4;
use std::time::Instant;

use transhume_guest::app::{ClusterStats, OPERATION_MS_MAX};
use transhume_guest::settings::Settings;

use super::connection::{Connection, Server};
use super::written::Written;
use super::{Trouble, replica};

const PORT: u16 = 6379;

/// Writes on the primary, and waits for the replicas; reads on one of those.
pub struct Client {
    key: String,
    replicas: usize,
    primary: Server,
    replica: Server,
    written: Written,
    reads: bool,
    /// Counted where the primary is.
    watches: bool,
    cluster: ClusterStats,
}

#[derive(Debug, PartialEq, Eq)]
enum Reply {
    Simple(String),
    Integer(i64),
    Bulk(Option<Vec<u8>>),
}

impl Client {
    pub fn new(settings: &Settings) -> Self {
        let server = |ip| Server::new(SocketAddrV4::new(ip, PORT), |_| Ok(()));
        Client {
            key: format!("check-{}", settings.index),
            replicas: settings.peers.len() - 1,
            primary: server(settings.peers[0]),
            replica: server(replica(settings)),
            written: Written::default(),
            reads: false,
            watches: settings.index == 0,
            cluster: ClusterStats::default(),
        }
    }
}

impl super::Client for Client {
    fn operate(&mut self, deadline: Instant) -> Result<(), Trouble> {
        let reads = self.reads;
        self.reads = !reads;
        let key = &self.key;
        if reads {
            return match self
                .replica
                .ask(deadline, |replica| command(replica, &["GET", key]))?
            {
                Reply::Bulk(value) => self.written.read(value.map(|value| number(&value)).transpose()?),
                other => Err(unexpected(&other)),
            };
        }
        let (primary, replicas) = (&mut self.primary, self.replicas);
        self.written.write(|number| {
            primary.ask(deadline, |primary| {
                match command(primary, &["SET", key, &number.to_string()])? {
                    Reply::Simple(_) => {}
                    other => return Err(unexpected(&other)),
                }
                let (all, limit) = (replicas.to_string(), OPERATION_MS_MAX.to_string());
                match command(primary, &["WAIT", &all, &limit])? {
                    Reply::Integer(reached) if reached == replicas as i64 => Ok(()),
                    Reply::Integer(reached) => Err(Trouble::Failed(format!(
                        "{reached} of {replicas} replicas have it"
                    ))),
                    other => Err(unexpected(&other)),
                }
            })
        })
    }

    fn watch(&mut self, deadline: Instant) -> Result<(), Trouble> {
        if !self.watches {
            return Ok(());
        }
        let info = self
            .primary
            .ask(deadline, |primary| command(primary, &["INFO", "stats"]))?;
        let Reply::Bulk(Some(info)) = info else {
            return Err(unexpected(&info));
        };
        self.cluster = resyncs(&String::from_utf8_lossy(&info));
        Ok(())
    }

    fn cluster(&self) -> ClusterStats {
        self.cluster
    }
}

/// A replica that lost its link asks for what it missed, or for everything.
fn resyncs(info: &str) -> ClusterStats {
    let count = |name: &str| {
        let line = info
            .lines()
            .find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|count| count.parse().ok()).unwrap_or(0)
    };
    let full: u64 = count("sync_full");
    ClusterStats {
        link_breaks: full + count("sync_partial_ok"),
        full_copies: full,
        ..ClusterStats::default()
    }
}

fn number(value: &[u8]) -> Result<u64, Trouble> {
    let text = String::from_utf8_lossy(value);
    text.parse()
        .map_err(|_| Trouble::Wrong(format!("the value `{text}` is no number")))
}

fn unexpected(reply: &Reply) -> Trouble {
    Trouble::Failed(format!("answered {reply:?}"))
}

fn command(server: &mut Connection, words: &[&str]) -> Result<Reply, Trouble> {
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request += &format!("${}\r\n{word}\r\n", word.len());
    }
    server.write(request.as_bytes())?;
    reply(server)
}

fn reply(server: &mut Connection) -> Result<Reply, Trouble> {
    let line = server.line()?;
    let number = |text: &str| {
        text.parse::<i64>()
            .map_err(|_| Trouble::Failed(format!("`{line}` has no number")))
    };
    if let Some(text) = line.strip_prefix('+') {
        return Ok(Reply::Simple(text.to_owned()));
    }
    if let Some(text) = line.strip_prefix(':') {
        return Ok(Reply::Integer(number(text)?));
    }
    if let Some(text) = line.strip_prefix('$') {
        let Ok(length) = usize::try_from(number(text)?) else {
            return Ok(Reply::Bulk(None));
        };
        let value = server.bytes(length)?;
        server.line()?;
        return Ok(Reply::Bulk(Some(value)));
    }
    Err(Trouble::Failed(line))
}

#[cfg(test)]
mod tests {
    use super::super::connection::tests::{serving, soon};
    use super::*;

    fn replies(text: &str, count: usize) -> Vec<Result<Reply, Trouble>> {
        let mut server = Server::new(serving(vec![text.as_bytes().to_vec()]), |_| Ok(()));
        let read = server.ask(soon(), |server| Ok((0..count).map(|_| reply(server)).collect()));
        read.unwrap()
    }

    #[test]
    fn replies_are_told_apart() {
        let read = replies("+OK\r\n:2\r\n$-1\r\n$4\r\n1\r\n2\r\n-READONLY no\r\n:x\r\n", 6);
        assert_eq!(read[0], Ok(Reply::Simple("OK".to_owned())));
        assert_eq!(read[1], Ok(Reply::Integer(2)));
        assert_eq!(read[2], Ok(Reply::Bulk(None)));
        assert_eq!(read[3], Ok(Reply::Bulk(Some(b"1\r\n2".to_vec()))));
        assert_eq!(read[4], Err(Trouble::Failed("-READONLY no".to_owned())));
        assert!(read[5].is_err());
    }

    #[test]
    fn resyncs_are_counted_whole_and_in_part() {
        let info = "# Stats\r\nsync_full:2\r\nsync_partial_ok:3\r\nsync_partial_err:1\r\n";
        let cluster = resyncs(info);
        assert_eq!((cluster.link_breaks, cluster.full_copies), (5, 2));
        assert_eq!(resyncs(""), ClusterStats::default());
    }
}
