//! The source's end of a tunnel: records as they lie in the spool, answers as they come. Never
//! waits.

use std::io;
use std::net::TcpStream;

use crate::channel::Channel;
use crate::limits::ANSWERS_AT_ONCE_MAX;
use crate::spool::Spool;
use crate::tunnel::{ANSWER_BYTES, Answer};

pub(crate) struct Sender {
    channel: Channel,
    /// Offset in the spool up to which records are sent.
    sent: usize,
    answer: [u8; ANSWER_BYTES],
    answer_bytes: usize,
}

impl Sender {
    /// Sends from `sent` on, an offset in the spool.
    pub(crate) fn new(channel: Channel, sent: usize) -> Self {
        Self {
            channel,
            sent,
            answer: [0; ANSWER_BYTES],
            answer_bytes: 0,
        }
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        self.channel.stream()
    }

    /// Whether something is there that was not sent yet.
    pub(crate) fn behind(&self, spool: &Spool) -> bool {
        self.waiting_bytes(spool) > 0 || self.channel.has_unwritten()
    }

    /// Whether answers are here already that the kernel tells nothing of.
    pub(crate) fn has_unread(&self) -> bool {
        self.channel.has_unread()
    }

    /// Bytes of the spool that were not sent yet.
    pub(crate) fn waiting_bytes(&self, spool: &Spool) -> usize {
        spool.tail().saturating_sub(self.sent)
    }

    /// Sends what the spool holds, as much as goes without waiting.
    pub(crate) fn send(&mut self, spool: &Spool) -> io::Result<()> {
        self.channel.flush()?;
        while self.sent < spool.tail() {
            match self.channel.write(spool.stretch(self.sent)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => self.sent += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes the answers that have come; whoever sends without end keeps nobody here.
    pub(crate) fn receive(&mut self, answers: &mut Vec<Answer>) -> io::Result<()> {
        while answers.len() < ANSWERS_AT_ONCE_MAX {
            match self.channel.read(&mut self.answer[self.answer_bytes..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.answer_bytes += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
            if self.answer_bytes == ANSWER_BYTES {
                self.answer_bytes = 0;
                answers.push(Answer::parse(self.answer).ok_or(io::ErrorKind::InvalidData)?);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;

    /// A target that answers without end keeps its own tunnel busy, and nobody else's.
    #[test]
    fn answers_are_taken_by_so_many_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut target = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (source, _) = listener.accept().unwrap();
        let all = 2 * ANSWERS_AT_ONCE_MAX + 7;
        for number in 0..all {
            target
                .write_all(&Answer::Delivered(number as u64).bytes())
                .unwrap();
        }
        // Loopback: what is written is there.
        source.set_nonblocking(true).unwrap();
        let mut sender = Sender::new(Channel::clear(source), 0);
        let mut taken = Vec::new();
        for wanted in [ANSWERS_AT_ONCE_MAX, ANSWERS_AT_ONCE_MAX, 7, 0] {
            let mut answers = Vec::new();
            sender.receive(&mut answers).unwrap();
            assert_eq!(answers.len(), wanted);
            taken.extend(answers);
        }
        let all: Vec<Answer> = (0..all as u64).map(Answer::Delivered).collect();
        assert_eq!(taken, all, "each once, in its order");
    }
}
