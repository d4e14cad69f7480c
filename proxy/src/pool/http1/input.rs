//! The bytes of a peer that have come and are not taken yet.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use tokio_util::io::poll_read_buf;

use crate::io::Io;

/// Pieces below this size are copied, and those of less than half a buffer: each would keep all that it was read into.
const COPIED_BELOW_BYTES: usize = 2 * 1024;

/// Takes the first `length` bytes.
pub(super) fn take(input: &mut BytesMut, length: usize) -> Bytes {
    let keeps_more = length < input.capacity() / 2;
    let piece = input.split_to(length);
    if input.is_empty() {
        // Even an empty rest would keep the buffer.
        *input = BytesMut::new();
    }
    if length < COPIED_BELOW_BYTES || keeps_more { Bytes::copy_from_slice(&piece) } else { piece.freeze() }
}

/// Reads at most this many bytes more; none where the peer has ended. While there is nothing to read, no buffer is kept
/// for it.
pub(super) fn poll_read(
    io: &mut Io,
    cx: &mut Context<'_>,
    input: &mut BytesMut,
    at_most: usize,
) -> Poll<io::Result<usize>> {
    input.reserve(at_most);
    let read = poll_read_buf(Pin::new(io), cx, &mut (&mut *input).limit(at_most));
    if read.is_pending() && input.is_empty() {
        *input = BytesMut::new();
    }
    read
}
