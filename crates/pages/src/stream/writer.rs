//! Tokens back to bytes.

use super::{BlockTable, FLAG_CONTINUE, FLAG_PAGE, FLAG_ZERO, PageHead, Token};

/// Writes tokens as QEMU wrote them.
pub struct Writer;

impl Writer {
    /// Appends a token; false (nothing appended) if its block is not in the table.
    pub fn write(token: Token<'_>, blocks: &BlockTable, out: &mut Vec<u8>) -> bool {
        match token {
            Token::Bytes(bytes) => out.extend_from_slice(bytes),
            Token::Page { head, data } => {
                if !Self::head(head, FLAG_PAGE, blocks, out) {
                    return false;
                }
                out.extend_from_slice(data);
            }
            Token::Zero { head, fill } => {
                if !Self::head(head, FLAG_ZERO, blocks, out) {
                    return false;
                }
                out.push(fill);
            }
        }
        true
    }

    fn head(head: PageHead, kind: u64, blocks: &BlockTable, out: &mut Vec<u8>) -> bool {
        let Some(name) = blocks.name(head.block) else {
            return false;
        };
        let flags = if head.continued {
            kind | FLAG_CONTINUE
        } else {
            kind
        };
        out.extend_from_slice(&(head.offset | flags).to_be_bytes());
        if !head.continued {
            out.push(name.len() as u8);
            out.extend_from_slice(name);
        }
        true
    }
}
