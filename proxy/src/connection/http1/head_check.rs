//! Reads the bytes of a head as they come, and stops at what `httparse` would let pass or wait for: lines that end in a
//! bare LF, two lengths, targets with a fragment, heads that are too large.
//!
//! It only says no to more than `httparse` does, and at once: a head that comes in parts is not waited for in vain. The
//! rest of the grammar (tokens, control characters) is `httparse`'s.

use memchr::memchr;

use crate::http1::chunk_line::BODY_MAX_BYTES;
use crate::hygiene::BadRequest;
use crate::serve::HEAD_MAX_BYTES;

/// The longest field with its name.
pub(crate) const FIELD_MAX_BYTES: usize = 8 * 1024;
/// The longest target.
pub(crate) const TARGET_MAX_BYTES: usize = 16 * 1024;
/// The longest method: longer than any that is registered.
const METHOD_MAX_BYTES: usize = 32;
/// The longest version, with its line's end and more.
const VERSION_MAX_BYTES: usize = 16;
/// The digits of the longest length, zeros before it included.
const LENGTH_MAX_DIGITS: usize = 40;

/// Completes a head that stops within the target.
const END_TARGET: &[u8] = b" HTTP/1.1\r\n\r\n";
/// Completes a head that stops at the begin of a line.
const END_FIELDS: &[u8] = b"\r\n";

/// Why a head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// It makes no sense.
    Nonsense,
    /// It is too large or has two meanings; what is there of it can be answered so.
    Fault(Cut),
}

/// A head of which a part is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    /// So many of its bytes …
    pub(super) keep: usize,
    /// … with these behind them are a whole head.
    pub(super) ending: &'static [u8],
    /// What is to be answered.
    pub(super) why: BadRequest,
}

/// Where in a head the next byte stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Method,
    Target { query: bool },
    Version,
    Fields,
}

/// What is known of a head whose end has not come.
#[derive(Debug)]
pub(super) struct HeadCheck {
    part: Part,
    /// Where that part, or the line of the fields that is under way, begins.
    begin: usize,
    /// How far it was looked at.
    at: usize,
    has_length: bool,
    is_coded: bool,
}

impl HeadCheck {
    pub(super) fn new() -> Self {
        Self { part: Part::Method, begin: 0, at: 0, has_length: false, is_coded: false }
    }

    /// Looks at what has come since the last time; `bytes` are all since the head's first. Gives its length once it is
    /// whole.
    pub(super) fn check(&mut self, bytes: &[u8]) -> Result<Option<usize>, Refused> {
        loop {
            let goes_on = match self.part {
                Part::Method => self.method(bytes)?,
                Part::Target { query } => self.target(bytes, query)?,
                Part::Version => self.version(bytes)?,
                Part::Fields => return self.fields(bytes),
            };
            if !goes_on {
                return Ok(None);
            }
        }
    }

    fn next(&mut self, part: Part, begin: usize) -> bool {
        (self.part, self.begin, self.at) = (part, begin, begin);
        true
    }

    fn method(&mut self, bytes: &[u8]) -> Result<bool, Refused> {
        let rest = &bytes[self.at..];
        let end = rest.iter().position(|byte| !byte.is_ascii_graphic());
        self.at += end.unwrap_or(rest.len());
        match end.map(|end| rest[end]) {
            _ if self.at - self.begin > METHOD_MAX_BYTES => Err(Refused::Nonsense),
            None => Ok(false),
            Some(b' ') if self.at > self.begin => Ok(self.next(Part::Target { query: false }, self.at + 1)),
            Some(_) => Err(Refused::Nonsense),
        }
    }

    fn target(&mut self, bytes: &[u8], mut query: bool) -> Result<bool, Refused> {
        let longest = self.begin + TARGET_MAX_BYTES;
        while let Some(byte) = bytes.get(self.at).copied() {
            match byte {
                b' ' => return Ok(self.next(Part::Version, self.at + 1)),
                // A `\` in a path is a `/` to some, so it is neither here.
                _ if !byte.is_ascii_graphic() || byte == b'#' || byte == b'\\' && !query => {
                    return Err(Refused::Nonsense);
                }
                _ if self.at == longest => {
                    let why = BadRequest::TargetTooLong;
                    return Err(Refused::Fault(Cut { keep: longest, ending: END_TARGET, why }));
                }
                _ => query |= byte == b'?',
            }
            self.at += 1;
        }
        self.part = Part::Target { query };
        Ok(false)
    }

    fn version(&mut self, bytes: &[u8]) -> Result<bool, Refused> {
        let end = memchr(b'\n', &bytes[self.at..]).map(|end| self.at + end);
        self.at = end.unwrap_or(bytes.len());
        match end {
            _ if self.at - self.begin > VERSION_MAX_BYTES => Err(Refused::Nonsense),
            None => Ok(false),
            Some(end) if bytes[self.begin..end].ends_with(b"\r") => Ok(self.next(Part::Fields, end + 1)),
            Some(_) => Err(Refused::Nonsense),
        }
    }

    fn fields(&mut self, bytes: &[u8]) -> Result<Option<usize>, Refused> {
        loop {
            let end = memchr(b'\n', &bytes[self.at..]).map(|end| self.at + end);
            let line = &bytes[self.begin..end.unwrap_or(bytes.len())];
            if line.len() > FIELD_MAX_BYTES || self.begin + line.len() > HEAD_MAX_BYTES - END_FIELDS.len() {
                let why = BadRequest::HeadTooLarge;
                return Err(Refused::Fault(Cut { keep: self.begin, ending: END_FIELDS, why }));
            }
            // `httparse` finds these only in a head that is whole.
            let is_folded = matches!(line.first(), Some(b' ' | b'\t'));
            let has_bare_return = memchr(b'\r', line).is_some_and(|at| at + 1 < line.len());
            if is_folded || has_bare_return {
                return Err(Refused::Nonsense);
            }
            let Some(end) = end else {
                self.at = bytes.len();
                return Ok(None);
            };
            match line.strip_suffix(b"\r").ok_or(Refused::Nonsense)? {
                [] => return self.end(end + 1).map(Some),
                field => self.field(field)?,
            }
            self.next(Part::Fields, end + 1);
        }
    }

    fn field(&mut self, field: &[u8]) -> Result<(), Refused> {
        if value_of(field, b"transfer-encoding").is_some() {
            self.is_coded = true;
        } else if let Some(value) = value_of(field, b"content-length") {
            if self.has_length || !is_length(value.trim_ascii()) {
                return Err(Refused::Nonsense);
            }
            self.has_length = true;
        }
        Ok(())
    }

    fn end(&mut self, length: usize) -> Result<usize, Refused> {
        if self.has_length && self.is_coded {
            return Err(Refused::Fault(Cut { keep: length, ending: b"", why: BadRequest::TwoLengths }));
        }
        Ok(length)
    }
}

/// The value of the field, if this is its name, in lower case.
fn value_of<'a>(field: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let begins =
        field.len() > name.len() && field[name.len()] == b':' && field[..name.len()].eq_ignore_ascii_case(name);
    begins.then(|| &field[name.len() + 1..])
}

fn is_length(digits: &[u8]) -> bool {
    let plain = !digits.is_empty() && digits.len() <= LENGTH_MAX_DIGITS && digits.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(digits).ok().filter(|_| plain).and_then(|digits| digits.parse::<u64>().ok());
    number.is_some_and(|number| number <= BODY_MAX_BYTES)
}

#[cfg(test)]
mod tests;
