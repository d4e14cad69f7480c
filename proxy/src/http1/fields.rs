//! The fields of a head as a map.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::forwarded::{X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO};
use crate::hygiene::{EPOCH, REQUEST_ID, TENANT};

/// Fields that whoever passes the message on is likely to add.
const ADDED_FIELDS: usize = 4;

/// The fields by their names; values are not copied.
pub(crate) fn collect<'a>(
    fields: impl ExactSizeIterator<Item = (&'a [u8], Bytes)>,
) -> Result<HeaderMap, httparse::Error> {
    let mut headers = HeaderMap::with_capacity(fields.len() + ADDED_FIELDS);
    for (name, value) in fields {
        headers
            .append(name_of(name)?, HeaderValue::from_maybe_shared(value).map_err(|_| httparse::Error::HeaderValue)?);
    }
    Ok(headers)
}

fn name_of(name: &[u8]) -> Result<HeaderName, httparse::Error> {
    /// What routers write to gates, and so is in each head that a gate reads: such names need no memory.
    static KNOWN: [HeaderName; 6] = [TENANT, EPOCH, REQUEST_ID, X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST];
    if name.starts_with(b"x-")
        && let Some(known) = KNOWN.iter().find(|known| known.as_str().as_bytes() == name)
    {
        return Ok(known.clone());
    }
    HeaderName::from_bytes(name).map_err(|_| httparse::Error::HeaderName)
}

/// Whether a field that lists names, `connection` above all, lists this one.
pub(crate) fn lists(headers: &HeaderMap, field: &HeaderName, wanted: &str) -> bool {
    listed(headers, field).any(|name| name.eq_ignore_ascii_case(wanted.as_bytes()))
}

/// What a field lists. An item need not be text.
pub(crate) fn listed<'h>(headers: &'h HeaderMap, field: &HeaderName) -> impl Iterator<Item = &'h [u8]> {
    let values = headers.get_all(field).iter().map(HeaderValue::as_bytes);
    values.flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_names_whether_these_are_known_or_not() {
        let names = [
            "x-cellway-tenant",
            "X-Cellway-Epoch",
            "x-request-id",
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-forwarded-host",
            "x-other",
            "Accept",
        ];
        let headers = collect(names.iter().map(|name| (name.as_bytes(), Bytes::from_static(b"1")))).unwrap();
        for name in names {
            assert!(headers.contains_key(name) && headers.contains_key(name.parse::<HeaderName>().unwrap()), "{name}");
        }
        assert!(headers.contains_key(TENANT) && headers.contains_key(EPOCH) && headers.contains_key(X_FORWARDED_HOST));
        assert!(collect([(b"x-a b".as_slice(), Bytes::new())].into_iter()).is_err());
    }

    #[test]
    fn what_is_listed_is_found_in_all_lines_whatever_its_case() {
        let mut headers = HeaderMap::new();
        headers.append("te", HeaderValue::from_static("deflate"));
        headers.append("te", HeaderValue::from_static("gzip , Trailers"));
        let is_listed = |wanted| lists(&headers, &http::header::TE, wanted);
        assert!(is_listed("trailers") && is_listed("deflate") && is_listed("gzip"));
        assert!(!is_listed("trailer") && !is_listed("gzip , trailers"));
        headers.append("te", HeaderValue::from_bytes(b"chunked, \xff").unwrap());
        assert!(lists(&headers, &http::header::TE, "chunked"), "what else is listed is no text");
    }
}
