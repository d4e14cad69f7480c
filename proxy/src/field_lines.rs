//! Fields of a request as they stand on the wire: written once, without a map and without a copy for each value.

use std::io::Write;
use std::net::IpAddr;

use bytes::BufMut;
use cellway_core::hostname::Hostname;
use cellway_core::ids::TenantId;
use http::{HeaderMap, HeaderName, HeaderValue};

/// What a few fields take, roughly.
const ROOM_BYTES: usize = 512;

/// Lines `name: value`, each with its end.
#[derive(Debug, Clone)]
pub struct FieldLines(Vec<u8>);

impl Default for FieldLines {
    fn default() -> Self {
        Self(Vec::with_capacity(ROOM_BYTES))
    }
}

impl FieldLines {
    /// Appends a field, the value of which `write` appends.
    pub fn put(&mut self, name: &HeaderName, write: impl FnOnce(&mut FieldText<'_>)) {
        self.0.extend_from_slice(name.as_str().as_bytes());
        self.0.extend_from_slice(b": ");
        write(&mut FieldText(&mut self.0));
        self.0.extend_from_slice(b"\r\n");
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

/// The value of a field as it is written. It takes only what cannot break a line, which the types of all but the program's own
/// words say: so no value becomes two.
pub struct FieldText<'l>(&'l mut Vec<u8>);

impl FieldText<'_> {
    /// Words of the program.
    pub fn words(&mut self, words: &'static str) {
        debug_assert!(!words.contains(|character: char| character.is_ascii_control()), "they would break the line");
        self.0.extend_from_slice(words.as_bytes());
    }

    /// A value that was read, or made, as one.
    pub fn value(&mut self, value: &HeaderValue) {
        self.0.extend_from_slice(value.as_bytes());
    }

    /// A number in digits.
    pub fn number(&mut self, number: impl itoa::Integer) {
        put_number(self.0, number);
    }

    /// An address without brackets.
    pub fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => {
                for (at, octet) in address.octets().into_iter().enumerate() {
                    if at > 0 {
                        self.0.push(b'.');
                    }
                    self.number(octet);
                }
            }
            // A buffer that grows takes any text.
            IpAddr::V6(address) => drop(write!(self.0, "{address}")),
        }
    }

    /// A host.
    pub fn host(&mut self, host: &Hostname) {
        self.0.extend_from_slice(host.as_str().as_bytes());
    }

    /// A tenant.
    pub fn tenant(&mut self, tenant: &TenantId) {
        self.0.extend_from_slice(tenant.as_str().as_bytes());
    }
}

/// Appends a number in digits.
pub(crate) fn put_number(to: &mut impl BufMut, number: impl itoa::Integer) {
    to.put_slice(itoa::Buffer::new().format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;

    #[test]
    fn lines_say_what_a_map_of_them_says() {
        let mut lines = FieldLines::default();
        let host = Hostname::from_text("acme.example").unwrap();
        lines.put(&header::HOST, |to| {
            to.host(&host);
            to.words(":");
            to.number(8080);
        });
        let length = lines.len();
        lines.put(&header::AGE, |to| to.number(7));
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
    fn values_are_written_as_they_read() {
        let mut lines = FieldLines::default();
        lines.put(&header::VIA, |to| {
            to.address("192.0.2.1".parse().unwrap());
            to.words(" ");
            to.address("2001:db8::1".parse().unwrap());
            to.words(" ");
            to.tenant(&TenantId::new("acme").unwrap());
            to.words(" ");
            to.value(&HeaderValue::from_static("a b"));
        });
        assert_eq!(lines.as_bytes(), b"via: 192.0.2.1 2001:db8::1 acme a b\r\n");
    }
}
