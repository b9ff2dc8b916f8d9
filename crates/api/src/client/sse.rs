//! The lines of a stream of server-sent events, cut out of whatever pieces they arrive in.

/// Longest line. The longest event, of a move that begins with thousands of VMs, is below.
pub(crate) const LINE_BYTES_MAX: usize = 1 << 20;

/// What has come of a line that is not complete.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    begun: Vec<u8>,
}

/// A line without an end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Lines {
    /// Takes the next bytes; gives the data of each line that is complete with them.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, TooLong> {
        let mut data = Vec::new();
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.add(&rest[..end])?;
            data.extend(data_of(&self.begun).map(<[u8]>::to_vec));
            self.begun.clear();
            rest = &rest[end + 1..];
        }
        self.add(rest)?;
        Ok(data)
    }

    fn add(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        if self.begun.len() + bytes.len() > LINE_BYTES_MAX {
            return Err(TooLong);
        }
        self.begun.extend_from_slice(bytes);
        Ok(())
    }
}

/// Other fields, comments (signs of life) and the empty lines between events say nothing more.
fn data_of(line: &[u8]) -> Option<&[u8]> {
    let data = line.strip_prefix(b"data:")?;
    let data = data.strip_suffix(b"\r").unwrap_or(data);
    Some(data.strip_prefix(b" ").unwrap_or(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] = b"id: 1\ndata: {\"a\":1}\n\n:\n\nid: 2\r\ndata:{}\r\n\r\n";

    #[test]
    fn pieces_of_any_size_give_the_same_lines() {
        for size in 1..=STREAM.len() {
            let mut lines = Lines::default();
            let pieces = STREAM.chunks(size).flat_map(|piece| lines.take(piece).unwrap());
            let data: Vec<Vec<u8>> = pieces.collect();
            assert_eq!(data, [b"{\"a\":1}".to_vec(), b"{}".to_vec()], "pieces of {size}");
        }
    }

    #[test]
    fn a_line_without_an_end_is_not_kept() {
        let mut lines = Lines::default();
        let piece = vec![b'x'; LINE_BYTES_MAX];
        assert_eq!(lines.take(&piece), Ok(Vec::new()));
        assert_eq!(lines.take(b"x"), Err(TooLong));
        let mut lines = Lines::default();
        assert_eq!(lines.take(&vec![b'x'; LINE_BYTES_MAX + 1]), Err(TooLong));
    }
}
