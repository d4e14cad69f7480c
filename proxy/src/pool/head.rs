//! The head of a request on its way to a peer, as its owner keeps it: it is sent as often as it takes, and not copied.

use http::request::Parts;
use http::{HeaderMap, Method, Request, Uri, header};

use crate::field_lines::FieldLines;

/// The head. Its fields are those of `headers`, then the lines.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// The method.
    pub method: &'a Method,
    /// The target; its path and query are sent.
    pub target: &'a Uri,
    /// Fields.
    pub headers: &'a HeaderMap,
    /// Further fields, none of which is in `headers`.
    pub lines: Option<&'a FieldLines>,
    /// Whether the lines ask for `100 Continue`.
    pub expects: bool,
}

impl<'a> Head<'a> {
    /// A head without further lines.
    pub fn of(parts: &'a Parts) -> Self {
        let expects = parts.headers.contains_key(header::EXPECT);
        Self { method: &parts.method, target: &parts.uri, headers: &parts.headers, lines: None, expects }
    }

    /// The same as a request of its own.
    pub(super) fn to_request(self) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.target.clone();
        *request.headers_mut() = self.headers.clone();
        if let Some(lines) = self.lines {
            lines.insert_into(request.headers_mut());
        }
        request
    }
}
