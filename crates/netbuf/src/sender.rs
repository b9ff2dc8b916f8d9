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
