//! Looks into trailers for pseudo fields, which `h2` drops in silence: a request that carries them is malformed
//! (RFC 9113, 8.1), and who drops them differs from who does not.

/// The longest block that is looked at: `h2` refuses longer ones by itself.
const BLOCK_MAX_BYTES: usize = 64 * 1024;
/// The names of the pseudo fields in HPACK's static table.
const STATIC_PSEUDO: std::ops::RangeInclusive<usize> = 1..=14;
/// A colon in HPACK's Huffman code, which has seven bits.
const HUFFMAN_COLON: u8 = 0x5c;

const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// The watch over one connection's trailers.
#[derive(Default)]
pub(super) struct TrailerWatch {
    /// The highest stream that has begun: a second head on one that has is its trailers.
    highest: u32,
    block: Vec<u8>,
    /// Of the frame that is coming.
    flags: u8,
    kind: u8,
    collecting: bool,
}

impl TrailerWatch {
    /// A frame begins.
    pub(super) fn begin(&mut self, kind: u8, flags: u8, stream: u32) {
        match kind {
            HEADERS => {
                self.collecting = stream <= self.highest;
                self.highest = self.highest.max(stream);
                self.block.clear();
            }
            CONTINUATION => {}
            _ => self.collecting = false,
        }
        (self.kind, self.flags) = (kind, flags);
    }

    /// Bytes of the frame.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        if self.collecting {
            let room = BLOCK_MAX_BYTES.saturating_sub(self.block.len()).min(bytes.len());
            self.block.extend_from_slice(&bytes[..room]);
        }
    }

    /// The frame has ended; whether it ends trailers with pseudo fields.
    pub(super) fn end(&mut self) -> bool {
        if !self.collecting {
            return false;
        }
        if self.kind == HEADERS {
            let padding = if self.flags & PADDED != 0 { self.block.first().copied().map_or(0, usize::from) } else { 0 };
            let from = usize::from(self.flags & PADDED != 0) + if self.flags & PRIORITY != 0 { 5 } else { 0 };
            self.block.truncate(self.block.len().saturating_sub(padding));
            self.block.drain(..from.min(self.block.len()));
        }
        self.flags & END_HEADERS != 0 && has_pseudo(&std::mem::take(&mut self.block))
    }
}

/// Whether a block names a pseudo field, in its own bytes or by the static table. What it takes from the dynamic table
/// is not seen; what is no block at all, `h2` refuses.
fn has_pseudo(mut block: &[u8]) -> bool {
    loop {
        let Some(first) = block.first().copied() else { return false };
        let (bits, literal) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        let Some((index, rest)) = integer(block, bits) else { return false };
        block = rest;
        let resizes = bits == 5;
        if !resizes && STATIC_PSEUDO.contains(&index) {
            return true;
        }
        if literal && index == 0 {
            let Some((name, huffman, rest)) = string(block) else { return false };
            block = rest;
            let begins = name.first().copied().unwrap_or_default();
            if begins == b':' && !huffman || begins >> 1 == HUFFMAN_COLON && huffman {
                return true;
            }
        }
        if literal {
            let Some((_, _, rest)) = string(block) else { return false };
            block = rest;
        }
    }
}

/// An integer whose first `bits` bits are in the first byte (RFC 7541, 5.1).
fn integer(bytes: &[u8], bits: u32) -> Option<(usize, &[u8])> {
    let (first, mut rest) = bytes.split_first()?;
    let full = (1_usize << bits) - 1;
    let mut number = usize::from(*first) & full;
    if number < full {
        return Some((number, rest));
    }
    for shift in [0, 7, 14, 21] {
        let (byte, after) = rest.split_first()?;
        rest = after;
        number += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((number, rest));
        }
    }
    None
}

/// A string, and whether it is in Huffman's code.
fn string(bytes: &[u8]) -> Option<(&[u8], bool, &[u8])> {
    let huffman = bytes.first()? & 0x80 != 0;
    let (length, rest) = integer(bytes, 7)?;
    let (text, rest) = rest.split_at_checked(length)?;
    Some((text, huffman, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pseudo_fields_are_seen_however_they_are_written() {
        for (block, wanted) in [
            (b"\x00\x05x-sum\x011".as_slice(), false),
            (b"\x20\x00\x05x-sum\x011\x82", true),
            (b"\x00\x05:path\x02/y", true),
            (b"\x00\x85\xb9\x00\x00\x00\x00\x02/y", true),
            (b"\x44\x02/y", true),
            (b"\x04\x02/y", true),
            (b"\x14\x02/y", true),
            (b"\x0f\x01\x011", false),
            (b"\x40\x05x-sum\x01:\xbe", false),
            (b"\x00\x05x-s", false),
            (b"\xff\xff\xff\xff\xff\xff", false),
            (b"", false),
        ] {
            assert_eq!(has_pseudo(block), wanted, "{block:?}");
        }
    }

    #[test]
    fn only_a_second_head_is_trailers() {
        let mut watch = TrailerWatch::default();
        let mut feed = |kind, flags, stream, payload: &[u8]| {
            watch.begin(kind, flags, stream);
            payload.chunks(1).for_each(|part| watch.take(part));
            watch.end()
        };
        assert!(!feed(HEADERS, END_HEADERS, 3, b"\x82\x84"));
        assert!(!feed(0, 0, 3, b"\x82\x84"));
        assert!(feed(HEADERS, END_HEADERS | PADDED, 3, b"\x02\x82\0\0"));
        assert!(!feed(HEADERS, 0, 5, b"\x82"));
        assert!(!feed(HEADERS, 0, 5, b"\x00\x05x-s"));
        assert!(!feed(CONTINUATION, 0, 5, b"um\x01"));
        assert!(feed(CONTINUATION, END_HEADERS, 5, b"1\x84"));
    }
}
