//! Watches the bytes of a server connection for a request that states its length twice, by `Content-Length` and by
//! `Transfer-Encoding`: hyper lets the second win and hides the first, and who sits in front may read it otherwise.
//!
//! The tap only says no to more than hyper does. Where it cannot follow the bytes it falls silent, and hyper, which
//! decides what a message is, ends the connection by its own rules.

/// The longest field name of interest, its colon and a length of 20 digits, with room for blanks.
const LINE_KEPT_BYTES: usize = 64;

enum State {
    /// Before or inside a head.
    Head,
    /// Inside a body; this many bytes are left of it.
    Body(u64),
    ChunkSize,
    /// Inside a chunk and the line end after it.
    Chunk(u64),
    Trailers,
    /// The bytes make no sense to the tap.
    Lost,
}

/// The tap of one connection.
pub(crate) struct HeadTap {
    state: State,
    line: Vec<u8>,
    line_bytes: usize,
    in_head: bool,
    content_length: Option<u64>,
    chunked: bool,
    heads: u64,
}

impl HeadTap {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Head,
            line: Vec::with_capacity(LINE_KEPT_BYTES),
            line_bytes: 0,
            in_head: false,
            content_length: None,
            chunked: false,
            heads: 0,
        }
    }

    /// Takes the next bytes; gives the number (from 0) of a request that states its length twice.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Option<u64> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Lost => return None,
                State::Body(left) | State::Chunk(left) => {
                    let skipped = (*left).min(bytes.len() as u64);
                    *left -= skipped;
                    let finished = *left == 0;
                    bytes = bytes.get(usize::try_from(skipped).unwrap_or(usize::MAX)..).unwrap_or_default();
                    if finished {
                        let chunk = matches!(self.state, State::Chunk(_));
                        self.state = if chunk { State::ChunkSize } else { State::Head };
                    }
                }
                State::Head | State::ChunkSize | State::Trailers => {
                    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
                        self.keep(bytes);
                        return None;
                    };
                    let (line, rest) = bytes.split_at(end + 1);
                    self.keep(line);
                    bytes = rest;
                    if let Some(number) = self.end_line() {
                        self.state = State::Lost;
                        return Some(number);
                    }
                }
            }
        }
        None
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LINE_KEPT_BYTES.saturating_sub(self.line.len()).min(bytes.len());
        self.line.extend_from_slice(&bytes[..room]);
        self.line_bytes = self.line_bytes.saturating_add(bytes.len());
    }

    fn end_line(&mut self) -> Option<u64> {
        let mut line = std::mem::take(&mut self.line);
        let whole = std::mem::take(&mut self.line_bytes);
        let empty = matches!(line.as_slice(), b"\n" | b"\r\n");
        let ambiguous = match self.state {
            State::Head if empty && !self.in_head => None,
            State::Head if empty => self.end_head(),
            State::Head if self.in_head => {
                self.take_field(&line);
                None
            }
            State::Head => {
                self.in_head = true;
                None
            }
            State::ChunkSize => {
                self.state = chunk_after(&line, whole);
                None
            }
            State::Trailers if empty => {
                self.state = State::Head;
                None
            }
            State::Trailers | State::Body(_) | State::Chunk(_) | State::Lost => None,
        };
        line.clear();
        self.line = line;
        ambiguous
    }

    fn take_field(&mut self, line: &[u8]) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return };
        let (name, value) = line.split_at(colon);
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            let digits = value.get(1..).unwrap_or_default().trim_ascii();
            let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
            // An unreadable length is refused by hyper; until then it only must not read as absent.
            self.content_length = Some(number.unwrap_or(u64::MAX));
        }
    }

    fn end_head(&mut self) -> Option<u64> {
        let number = self.heads;
        self.heads += 1;
        self.in_head = false;
        let (length, chunked) = (self.content_length.take(), std::mem::take(&mut self.chunked));
        if length.is_some() && chunked {
            return Some(number);
        }
        self.state = match length {
            _ if chunked => State::ChunkSize,
            None | Some(0) => State::Head,
            Some(length) => State::Body(length),
        };
        None
    }
}

fn chunk_after(line: &[u8], whole: usize) -> State {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let ended = line.get(digits).is_some_and(|byte| matches!(byte, b';' | b'\r' | b'\n' | b' ' | b'\t'));
    let size = std::str::from_utf8(&line[..digits]).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
    match size {
        Some(0) if ended => State::Trailers,
        Some(size) if ended && whole >= line.len() => State::Chunk(size.saturating_add(2)),
        _ => State::Lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_ambiguous(bytes: &[u8], step: usize) -> Option<u64> {
        let mut tap = HeadTap::new();
        bytes.chunks(step).find_map(|part| tap.feed(part))
    }

    #[test]
    fn a_request_with_two_lengths_is_found_wherever_it_stands() {
        let both = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-encoding: chunked\r\n\r\n";
        let turned = "POST / HTTP/1.1\r\nTRANSFER-ENCODING: chunked\r\ncontent-length: 0\r\n\r\n";
        let plain = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let length = "POST / HTTP/1.1\r\nContent-Length: 30\r\n\r\nContent-Length: 1\r\n\r\n012345678";
        let chunks = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1b;x=y\r\nTransfer-Encoding: chunked\n\r\n\
                      0\r\nContent-Length: 1\r\n\r\n";
        for step in [1, 2, 3, 7, 1000] {
            for (text, expected) in [
                (both.to_owned(), Some(0)),
                (turned.to_owned(), Some(0)),
                (format!("{plain}{both}"), Some(1)),
                (format!("{length}{chunks}\r\n{plain}{turned}"), Some(3)),
                (format!("{plain}{length}{chunks}{plain}"), None),
            ] {
                assert_eq!(first_ambiguous(text.as_bytes(), step), expected, "{text:?} by {step}");
            }
        }
    }

    #[test]
    fn bytes_that_are_no_requests_keep_no_memory() {
        let mut tap = HeadTap::new();
        for _ in 0..1000 {
            assert_eq!(tap.feed(&[b'x'; 4096]), None);
        }
        assert!(tap.line.capacity() <= 2 * LINE_KEPT_BYTES);
    }
}
