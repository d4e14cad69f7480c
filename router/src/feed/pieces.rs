//! A text of lines, read piece by piece: however long it is, it takes one piece of memory. The same text comes in the same
//! pieces each time.

use std::io::{self, Read};

/// The size of a piece, and so the longest line.
pub(crate) const PIECE_BYTES: usize = 1024 * 1024;

pub(crate) struct Pieces<R> {
    source: R,
    buffer: Vec<u8>,
    /// Of the buffer: what was handed out, and what was read.
    used: usize,
    filled: usize,
}

impl<R: Read> Pieces<R> {
    pub(crate) fn new(source: R) -> Self {
        Self { source, buffer: vec![0; PIECE_BYTES], used: 0, filled: 0 }
    }

    /// The next lines, whole; `None` at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<&[u8]>> {
        self.buffer.copy_within(self.used..self.filled, 0);
        self.filled -= self.used;
        let mut is_end = false;
        while self.filled < self.buffer.len() && !is_end {
            match self.source.read(&mut self.buffer[self.filled..]) {
                Ok(0) => is_end = true,
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let read = &self.buffer[..self.filled];
        self.used = match read.iter().rposition(|byte| *byte == b'\n') {
            _ if is_end => read.len(),
            Some(at) => at + 1,
            None => {
                let reason = format!("a line has more than {PIECE_BYTES} bytes");
                return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
            }
        };
        Ok(Some(&self.buffer[..self.used]).filter(|piece| !piece.is_empty()))
    }
}

/// Its lines, without their ends. A last one that is empty is none.
pub(crate) fn lines(piece: &[u8]) -> impl Iterator<Item = &[u8]> {
    let piece = piece.strip_suffix(b"\n").map_or(piece, |piece| piece);
    piece.split(|byte| *byte == b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_text_and_end_with_lines() {
        let line = "x".repeat(1_000);
        let mut text: String = (0..5_000).map(|number| format!("{number}{line}\n")).collect();
        text.push_str("the last");
        let mut pieces = Pieces::new(text.as_bytes());
        let (mut read, mut count) = (Vec::new(), 0);
        while let Some(piece) = pieces.next().unwrap() {
            count += lines(piece).count();
            read.extend_from_slice(piece);
        }
        assert_eq!((read == text.as_bytes(), count), (true, 5_001));
        assert!(Pieces::new(&b""[..]).next().unwrap().is_none());
        assert!(Pieces::new(&vec![b'x'; PIECE_BYTES + 1][..]).next().is_err());
    }
}
