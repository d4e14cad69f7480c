//! Fields of a request as they stand on the wire: written once, without a map and without a copy for each value.

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

/// What a few fields take, roughly.
const ROOM_BYTES: usize = 512;

/// Lines `name: value`, each with its end.
#[derive(Debug, Clone)]
pub struct FieldLines(BytesMut);

impl Default for FieldLines {
    fn default() -> Self {
        Self(BytesMut::with_capacity(ROOM_BYTES))
    }
}

impl FieldLines {
    /// Appends a field, the value of which `write` appends. One that could be more than one line is left out with its name:
    /// callers write what they have made themselves, of addresses, normalised names and digits.
    pub fn put(&mut self, name: &HeaderName, write: impl FnOnce(&mut BytesMut)) {
        let begin = self.0.len();
        self.0.put_slice(name.as_str().as_bytes());
        self.0.put_slice(b": ");
        let value_begin = self.0.len();
        write(&mut self.0);
        self.end(begin, value_begin);
    }

    /// [`FieldLines::put`] of a text that is there.
    pub fn put_bytes(&mut self, name: &HeaderName, value: &[u8]) {
        self.put(name, |to| to.put_slice(value));
    }

    /// [`FieldLines::put`] of a number.
    pub fn put_number(&mut self, name: &HeaderName, value: u64) {
        self.put(name, |to| put_number(to, value));
    }

    fn end(&mut self, begin: usize, value_begin: usize) {
        // All of it, whatever was found: so many bytes are looked at by one instruction.
        let breaks = |byte: u8| (byte < b' ' && byte != b'\t') || byte == 0x7f;
        let broken = self.0[value_begin..].iter().fold(false, |broken, byte| broken | breaks(*byte));
        if !broken {
            self.0.put_slice(b"\r\n");
        } else {
            self.0.truncate(begin);
        }
    }

    /// How long they are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes away what was put since they were `length` long.
    pub fn truncate(&mut self, length: usize) {
        self.0.truncate(length);
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Adds them to a map, each in place of what the map has under its name. HTTP/2 is to keep them in no table: a connection to a
    /// cell carries those of all tenants, and each value that its table has of a name is compared with the next.
    pub fn insert_into(&self, headers: &mut HeaderMap) {
        for line in self.as_bytes().split(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii_start());
            if let (Ok(name), Ok(mut value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
                value.set_sensitive(true);
                headers.insert(name, value);
            }
        }
    }
}

/// Appends a number in digits.
pub(crate) fn put_number(to: &mut BytesMut, number: impl itoa::Integer) {
    to.put_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;

    #[test]
    fn lines_say_what_a_map_of_them_says() {
        let mut lines = FieldLines::default();
        lines.put_bytes(&header::HOST, b"acme.example:8080");
        let length = lines.len();
        lines.put_number(&header::AGE, 7);
        assert_eq!(lines.as_bytes(), b"host: acme.example:8080\r\nage: 7\r\n");
        let mut headers = HeaderMap::new();
        headers.insert(header::AGE, HeaderValue::from_static("1"));
        lines.insert_into(&mut headers);
        assert!(headers.values().all(HeaderValue::is_sensitive));
        assert_eq!(
            (headers.len(), &headers["host"], &headers["age"]),
            (2, &"acme.example:8080".parse().unwrap(), &"7".parse().unwrap())
        );
        lines.truncate(length);
        assert_eq!(lines.as_bytes(), b"host: acme.example:8080\r\n");
    }

    #[test]
    fn a_value_never_becomes_a_second_line() {
        let mut lines = FieldLines::default();
        for value in ["a\r\nx-cellway-epoch: 9", "a\nb", "a\0b"] {
            lines.put_bytes(&header::AGE, value.as_bytes());
            lines.put(&header::AGE, |to| to.put_slice(value.as_bytes()));
        }
        assert!(lines.is_empty());
    }
}
