//! The bytes of a peer that have come and are not taken yet.

use std::io;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::io::poll_read_buf;

use crate::io::Io;

/// A rest below this size is copied, once, out of a buffer that is much larger.
const COPIED_BELOW_BYTES: usize = 2 * 1024;

/// What is read at once where a head is expected: a usual one, with as much of a body as TLS brings at once. It lies on the
/// stack.
pub(crate) const HEAD_READ_BYTES: usize = 20 * 1024;

/// Bytes, and what they were read into. An empty one keeps nothing.
#[derive(Default)]
pub(crate) struct Input {
    bytes: BytesMut,
    buffer_bytes: usize,
}

impl Input {
    /// An empty one, and what appends the next part of `bytes` at each call; says whether there was one.
    pub(crate) fn in_parts(bytes: &[u8], part_bytes: usize) -> (Self, impl FnMut(&mut Self) -> bool) {
        let mut parts = bytes.chunks(part_bytes.max(1));
        let more = move |input: &mut Self| {
            let part = parts.next();
            part.iter().for_each(|part| input.append(part));
            part.is_some()
        };
        (Self::default(), more)
    }

    /// Takes the first `length` bytes.
    pub(crate) fn take(&mut self, length: usize) -> Bytes {
        // It would keep all of the buffer that it was read into.
        let copied = length < self.buffer_bytes / 2;
        let piece = self.bytes.split_to(length);
        self.shrink();
        if copied { Bytes::copy_from_slice(&piece) } else { piece.freeze() }
    }

    /// Takes the first `length` bytes as they lie. The rest stays where it is: it is about to be taken.
    pub(crate) fn split(&mut self, length: usize) -> Bytes {
        let piece = self.bytes.split_to(length).freeze();
        if self.bytes.is_empty() {
            self.shrink();
        }
        piece
    }

    /// Takes all that has come.
    pub(crate) fn take_all(&mut self) -> Bytes {
        self.split(self.bytes.len())
    }

    pub(crate) fn skip(&mut self, length: usize) {
        self.bytes.advance(length);
        self.shrink();
    }

    /// The memory that it keeps.
    pub(crate) fn held_bytes(&self) -> usize {
        self.buffer_bytes
    }

    /// Reads at most this many bytes more; none where the peer has ended.
    pub(crate) fn poll_read(&mut self, io: &mut Io, cx: &mut Context<'_>, at_most: usize) -> Poll<io::Result<usize>> {
        // No buffer for what may not come.
        ready!(io.poll_may_read(cx))?;
        self.reserve(at_most);
        let read = poll_read_buf(Pin::new(io), cx, &mut (&mut self.bytes).limit(at_most));
        self.shrink();
        Poll::Ready(ready!(read))
    }

    /// Reads at most this many bytes where a head is expected, and says how much. Who waits for one keeps no buffer.
    pub(crate) fn poll_read_head(
        &mut self,
        io: &mut Io,
        cx: &mut Context<'_>,
        at_most: usize,
    ) -> Poll<io::Result<usize>> {
        let mut bytes = [MaybeUninit::uninit(); HEAD_READ_BYTES];
        let length = at_most.min(bytes.len());
        io.poll_read_into(cx, &mut bytes[..length], |read| self.append(read))
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.reserve(bytes.len());
        self.bytes.put_slice(bytes);
    }

    fn reserve(&mut self, length: usize) {
        self.bytes.reserve(length);
        self.buffer_bytes = self.buffer_bytes.max(self.bytes.capacity());
    }

    fn shrink(&mut self) {
        let length = self.bytes.len();
        if length == 0 || length < COPIED_BELOW_BYTES && self.buffer_bytes > 2 * COPIED_BELOW_BYTES {
            // Even an empty rest would keep the buffer.
            self.bytes = BytesMut::from(&self.bytes[..]);
            self.buffer_bytes = self.bytes.capacity();
        }
    }
}

impl Deref for Input {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_piece_or_rest_does_not_keep_a_large_buffer() {
        let mut input = Input::default();
        input.append(&[b'x'; 64 * 1024]);
        let begin = input.as_ptr();
        let buffer = begin..begin.wrapping_add(input.held_bytes());
        let small = input.take(2);
        assert!(!buffer.contains(&small.as_ptr()));
        assert_eq!(input.held_bytes(), 64 * 1024, "a large rest is left where it is");
        let large = input.take(input.len() - 2);
        assert!(buffer.contains(&large.as_ptr()));
        assert!(!buffer.contains(&input.as_ptr()));
        assert_eq!((&input[..], input.held_bytes()), (b"xx".as_slice(), 2));
        input.skip(2);
        assert_eq!(input.held_bytes(), 0);
    }

    #[test]
    fn a_piece_of_less_than_half_of_what_is_there_is_copied() {
        let mut input = Input::default();
        input.append(&[b'x'; 16 * 1024]);
        let begin = input.as_ptr();
        let piece = input.take(7 * 1024);
        assert!(!(begin..begin.wrapping_add(16 * 1024)).contains(&piece.as_ptr()));
    }
}
