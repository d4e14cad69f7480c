//! The fields of a head as a map.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Fields that whoever passes the message on is likely to add.
const ADDED_FIELDS: usize = 4;

/// The fields by their names; values are not copied.
pub(crate) fn collect<'a>(
    fields: impl ExactSizeIterator<Item = (&'a [u8], Bytes)>,
) -> Result<HeaderMap, httparse::Error> {
    let mut headers = HeaderMap::with_capacity(fields.len() + ADDED_FIELDS);
    for (name, value) in fields {
        let name = HeaderName::from_bytes(name).map_err(|_| httparse::Error::HeaderName)?;
        headers.append(name, HeaderValue::from_maybe_shared(value).map_err(|_| httparse::Error::HeaderValue)?);
    }
    Ok(headers)
}

/// Whether a field that lists names, `connection` above all, lists this one.
pub(crate) fn lists(headers: &HeaderMap, field: &HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(field).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|name| name.trim().eq_ignore_ascii_case(wanted))
}
