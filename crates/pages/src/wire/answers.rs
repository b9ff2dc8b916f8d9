//! What the target sends back: what it holds, what it lacks, how far it is.

use super::encoder::Core;
use super::error::EncodeError;
use super::frame::{self, Reader};
use crate::content::{ContentId, Knowledge, Standing};

impl Core {
    /// Takes one frame. Supplied pages are appended to `out`, what QEMU said to `returned`.
    pub(super) fn back_frame(
        &mut self,
        kind: u8,
        body: &[u8],
        knowledge: &mut Knowledge,
        out: &mut Vec<u8>,
        returned: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let damaged = || EncodeError::Frame(kind);
        let mut reader = Reader(body);
        match kind {
            frame::RETURN => {
                returned.extend_from_slice(body);
                return Ok(());
            }
            frame::RESET => knowledge.forget_held(),
            frame::HOLDS => reader
                .ids()
                .ok_or_else(damaged)?
                .for_each(|id| knowledge.held(id)),
            frame::DROPPED => reader
                .ids()
                .ok_or_else(damaged)?
                .for_each(|id| knowledge.forget(id)),
            frame::NEED => {
                for id in reader.ids().ok_or_else(damaged)? {
                    self.supply(id, out)?;
                }
            }
            frame::ACK => self.window.acknowledged(reader.u32().ok_or_else(damaged)?)?,
            _ => return Err(damaged()),
        }
        if reader.is_empty() { Ok(()) } else { Err(damaged()) }
    }

    fn supply(&mut self, id: ContentId, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let (page, standing) = self.window.supply(id).ok_or(EncodeError::Need)?;
        // The target waited for it in vain: a store too small, or a stream that broke.
        self.counts_on_promises &= standing == Standing::Held;
        frame::frame(out, frame::SUPPLY, |body| {
            body.extend_from_slice(&id.0);
            body.extend_from_slice(page);
        });
        self.account.supplied_pages += 1;
        Ok(())
    }
}
