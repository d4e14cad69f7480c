//! Counts the frames that a client sends beside its requests, so that a flood of them ends its connection; and sees what
//! `h2` lets pass, or calls by another name: a connection that does not begin with SETTINGS, trailers with pseudo
//! fields, frames of a size that their kind does not have (RFC 9113, section 4.2).
//!
//! `h2` bounds what such frames keep in memory; this bounds the work that they make. Every frame that carries neither a
//! request nor a body costs one token; tokens come back with time, far faster than any honest client spends them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::trailers::TrailerWatch;
#[cfg(doc)]
use crate::connection::READ_MAX_BYTES;

/// Frames that may come at once.
pub(crate) const BURST_FRAMES: u32 = 1_000;
/// Frames that may come in the long run.
pub(crate) const FRAMES_PER_SECOND: u32 = 200;
/// WINDOW_UPDATE frames a token pays for: a client sends up to two for each DATA frame that it takes.
const WINDOW_UPDATES_PER_TOKEN: u32 = 100;

/// DATA frames below this size are dear to `h2`, which keeps each of them as a frame until it is read …
const SMALL_DATA_BYTES: usize = 256;
/// … and gives a connection up that has more than this of them unread, each counted as [`SMALL_DATA_BYTES`], …
pub(crate) const SMALL_DATA_BUDGET_BYTES: usize = 3_000 * SMALL_DATA_BYTES;
/// … so nothing more comes in before these are read. One read ([`READ_MAX_BYTES`]) brings at most 1,639 more.
const SMALL_DATA_MAX: u32 = 1_000;

/// The small DATA frames of a connection that nobody has read yet. Clones share the count.
#[derive(Clone, Default)]
pub(crate) struct Unread(Arc<AtomicU32>);

impl Unread {
    /// A DATA frame came.
    fn came(&self, frame: FrameHeader) {
        self.0.fetch_add(u32::from(frame.is_small_data()), Ordering::Relaxed);
    }

    /// A DATA frame was read.
    pub(crate) fn read(&self, length: usize) {
        let one = u32::from(length < SMALL_DATA_BYTES);
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(one));
    }

    /// Whether it is time to wait for those who read.
    pub(crate) fn is_full(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= SMALL_DATA_MAX
    }

    /// Counts anew: streams that were dropped unread are never read.
    pub(crate) fn forget(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

const PREFACE_BYTES: usize = 24;
const HEADER_BYTES: usize = 9;
const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const PRIORITY: u8 = 0x2;
const RST_STREAM: u8 = 0x3;
const SETTINGS: u8 = 0x4;
const PING: u8 = 0x6;
const WINDOW_UPDATE: u8 = 0x8;
const SETTING_BYTES: usize = 6;
const END_STREAM: u8 = 0x1;
const PADDED: u8 = 0x8;
const PADDING_MAX_BYTES: usize = 255;
const ACK: u8 = 0x1;

/// What is wrong with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// More frames than any honest client sends.
    Flood,
    /// A frame that must not be.
    Malformed,
    /// A frame that is longer or shorter than its kind.
    Size,
}

/// Finds the headers of frames in bytes that come in any parts.
pub(crate) struct FrameReader {
    header: [u8; HEADER_BYTES],
    header_filled: usize,
    /// What is left of the payload.
    left_bytes: usize,
}

/// A frame's header (RFC 9113, section 4.1).
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameHeader {
    pub(crate) length: usize,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
}

/// What comes next of a frame.
pub(crate) enum FramePart<'a> {
    Header(FrameHeader),
    Payload(&'a [u8]),
    /// Its header is not whole yet.
    Begun,
}

impl FrameHeader {
    /// A DATA frame that is dear to `h2` for what it carries.
    pub(crate) fn is_small_data(self) -> bool {
        self.kind == DATA && self.length < SMALL_DATA_BYTES
    }

    /// A DATA frame of which its header does not tell how much it carries.
    pub(crate) fn is_padded(self) -> bool {
        self.kind == DATA && self.flags & PADDED != 0 && self.length <= PADDING_MAX_BYTES + 1
    }

    /// A DATA frame that says nothing.
    pub(crate) fn is_empty_data(self) -> bool {
        self.kind == DATA && self.length == 0 && self.flags & END_STREAM == 0
    }
}

impl FrameReader {
    /// A reader of what follows so many bytes.
    pub(crate) fn after(bytes: usize) -> Self {
        Self { header: [0; HEADER_BYTES], header_filled: 0, left_bytes: bytes }
    }

    /// Takes the next part out of `bytes`, which are not none.
    pub(crate) fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> FramePart<'a> {
        if self.left_bytes > 0 {
            let payload;
            (payload, *bytes) = bytes.split_at(self.left_bytes.min(bytes.len()));
            self.left_bytes -= payload.len();
            return FramePart::Payload(payload);
        }
        let header;
        (header, *bytes) = bytes.split_at((HEADER_BYTES - self.header_filled).min(bytes.len()));
        self.header[self.header_filled..self.header_filled + header.len()].copy_from_slice(header);
        self.header_filled += header.len();
        if self.header_filled < HEADER_BYTES {
            return FramePart::Begun;
        }
        self.header_filled = 0;
        let [a, b, c, kind, flags, stream @ ..] = self.header;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.left_bytes = length;
        FramePart::Header(FrameHeader { length, kind, flags, stream: u32::from_be_bytes(stream) & 0x7fff_ffff })
    }

    fn is_between_frames(&self) -> bool {
        self.left_bytes == 0 && self.header_filled == 0
    }
}

/// The tap of one connection. It reads frame headers, and trailers; what is a frame, and what a fault, `h2` decides.
pub(crate) struct FrameTap {
    reader: FrameReader,
    tokens: u32,
    refilled: Instant,
    window_updates: u32,
    unread: Unread,
    begun: bool,
    trailers: TrailerWatch,
    fault: Option<Fault>,
}

impl FrameTap {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            reader: FrameReader::after(PREFACE_BYTES),
            tokens: BURST_FRAMES,
            refilled: now,
            window_updates: 0,
            unread: Unread::default(),
            begun: false,
            trailers: TrailerWatch::default(),
            fault: None,
        }
    }

    /// Takes the next bytes; says what is wrong, once something is.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], now: impl Fn() -> Instant) -> Option<Fault> {
        while !bytes.is_empty() && self.fault.is_none() {
            match self.reader.next(&mut bytes) {
                FramePart::Payload(payload) => self.trailers.take(payload),
                FramePart::Header(header) => self.take_frame(header, &now),
                FramePart::Begun => {}
            }
            if self.reader.is_between_frames() && self.trailers.end() {
                self.fault = Some(Fault::Malformed);
            }
        }
        self.fault
    }

    /// Told of the small frames that are read.
    pub(crate) fn unread(&self) -> &Unread {
        &self.unread
    }

    fn take_frame(&mut self, header: FrameHeader, now: &impl Fn() -> Instant) {
        let FrameHeader { length, kind, flags, stream } = header;
        self.trailers.begin(kind, flags, stream);
        if !std::mem::replace(&mut self.begun, true) && (kind != SETTINGS || flags & ACK != 0) {
            self.fault = Some(Fault::Malformed);
            return;
        }
        if !has_its_size(kind, flags, length) {
            self.fault = Some(Fault::Size);
            return;
        }
        let useful = match kind {
            HEADERS => true,
            DATA => {
                self.unread.came(header);
                !header.is_empty_data()
            }
            WINDOW_UPDATE => {
                self.window_updates = (self.window_updates + 1) % WINDOW_UPDATES_PER_TOKEN;
                self.window_updates != 0
            }
            _ => false,
        };
        if !useful {
            self.fault = (!self.spend(now())).then_some(Fault::Flood);
        }
    }

    fn spend(&mut self, now: Instant) -> bool {
        if self.tokens == 0 {
            let passed = now.duration_since(self.refilled).min(Duration::from_secs(60));
            let earned = passed.as_millis() * u128::from(FRAMES_PER_SECOND) / 1_000;
            self.tokens = u32::try_from(earned).unwrap_or(BURST_FRAMES).min(BURST_FRAMES);
            self.refilled = now;
        }
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }
}

/// Whether a frame is as long as frames of its kind are; `h2` looks after the longest that any may be.
fn has_its_size(kind: u8, flags: u8, length: usize) -> bool {
    match kind {
        PRIORITY => length == 5,
        RST_STREAM | WINDOW_UPDATE => length == 4,
        SETTINGS if flags & ACK != 0 => length == 0,
        SETTINGS => length.is_multiple_of(SETTING_BYTES),
        PING => length == 8,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        bytes.resize(HEADER_BYTES + payload, 7);
        bytes
    }

    fn on(mut frame: Vec<u8>, stream: u32) -> Vec<u8> {
        frame[5..9].copy_from_slice(&stream.to_be_bytes());
        frame
    }

    fn feed_all(frames: &[Vec<u8>], step: usize) -> bool {
        let start = Instant::now();
        let mut tap = FrameTap::new(start);
        let mut bytes = vec![b'P'; PREFACE_BYTES];
        bytes.extend(frame(SETTINGS, 0, 0));
        bytes.extend(frames.concat());
        bytes.chunks(step).any(|part| tap.feed(part, || start).is_some())
    }

    #[test]
    fn a_flood_of_any_idle_frame_is_seen_however_the_bytes_are_cut() {
        for (kind, flags, payload) in [(0x6, 0, 8), (0x4, 0, 0), (0x2, 0, 5), (0x3, 0, 4), (DATA, 0, 0), (0xbe, 0, 3)] {
            let frames = vec![frame(kind, flags, payload); BURST_FRAMES as usize];
            for step in [1, 7, 4096] {
                assert!(feed_all(&frames, step), "kind {kind} by {step}");
                assert!(!feed_all(&frames[1..], step), "kind {kind} by {step} is within the burst");
            }
        }
    }

    #[test]
    fn a_connection_begins_with_its_settings() {
        for (kind, fault) in [(SETTINGS, None), (HEADERS, Some(Fault::Malformed)), (0x6, Some(Fault::Malformed))] {
            let start = Instant::now();
            let mut tap = FrameTap::new(start);
            tap.feed(&[0; PREFACE_BYTES], || start);
            assert_eq!(tap.feed(&frame(kind, 0, if kind == SETTINGS { 6 } else { 8 }), || start), fault);
        }
    }

    #[test]
    fn a_frame_has_the_size_of_its_kind() {
        for (kind, flags, good, bad) in
            [(PRIORITY, 0, 5, 4), (RST_STREAM, 0, 4, 3), (SETTINGS, 0, 12, 5), (SETTINGS, ACK, 0, 6), (PING, 0, 8, 7)]
        {
            for (size, fault) in [(good, None), (bad, Some(Fault::Size))] {
                let start = Instant::now();
                let mut tap = FrameTap::new(start);
                tap.feed(&[0; PREFACE_BYTES], || start);
                tap.feed(&frame(SETTINGS, 0, 0), || start);
                assert_eq!(tap.feed(&frame(kind, flags, size), || start), fault, "kind {kind}, {size} bytes");
            }
        }
    }

    #[test]
    fn requests_and_bodies_are_no_flood() {
        let mut frames: Vec<_> = (0..20_000_u32).map(|number| on(frame(HEADERS, 5, 30), number * 2 + 1)).collect();
        frames.extend(vec![frame(DATA, 0, 100); 20_000]);
        frames.extend(vec![frame(WINDOW_UPDATE, 0, 4); 20_000]);
        assert!(!feed_all(&frames, 4096));
    }

    #[test]
    fn small_frames_that_nobody_reads_are_counted_and_large_ones_are_not() {
        for (payload, full) in [(10, true), (SMALL_DATA_BYTES, false)] {
            let start = Instant::now();
            let mut tap = FrameTap::new(start);
            tap.feed(&[0; PREFACE_BYTES], || start);
            tap.feed(&frame(SETTINGS, 0, 0), || start);
            for _ in 0..SMALL_DATA_MAX {
                assert!(!tap.unread().is_full());
                tap.feed(&frame(DATA, 0, payload), || start);
            }
            assert_eq!(tap.unread().is_full(), full);
            tap.unread().read(payload);
            assert!(!tap.unread().is_full());
        }
    }

    #[test]
    fn tokens_come_back_with_time() {
        let start = Instant::now();
        let mut tap = FrameTap::new(start);
        tap.feed(&[0; PREFACE_BYTES], || start);
        tap.feed(&frame(SETTINGS, 0, 0), || start);
        for second in 0..60 {
            for _ in 0..FRAMES_PER_SECOND {
                let now = start + Duration::from_secs(second);
                assert_eq!(tap.feed(&frame(0x6, 0, 8), || now), None, "second {second}");
            }
        }
    }
}
