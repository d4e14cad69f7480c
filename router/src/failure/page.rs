//! The answers of the router itself: a page for people, problem details (RFC 9457) for programs that ask for JSON.

use std::fmt::Write;
use std::sync::Arc;

use cellway_proxy::ResponseBody;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use crate::limits::Limited;

/// Who is answered: the request's id, what it accepts, and whose pages they are.
pub(crate) struct Asker {
    pub(crate) id: HeaderValue,
    /// Its lines of `Accept`: the first one, beside which most have none, and the others.
    accepts: (Option<HeaderValue>, Vec<HeaderValue>),
    /// The tenant's limits, which may have words for its pages.
    pub(crate) limited: Option<Arc<Limited>>,
}

#[derive(Serialize)]
struct ProblemDetails<'a> {
    title: &'a str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    request_id: &'a str,
}

impl Asker {
    /// Whoever sent a head with these fields.
    pub(crate) fn of(headers: &HeaderMap, id: HeaderValue) -> Self {
        let mut lines = headers.get_all(header::ACCEPT).iter().cloned();
        Self { id, accepts: (lines.next(), lines.collect()), limited: None }
    }

    fn wants_json(&self) -> bool {
        wants_json(self.accepts.0.iter().chain(&self.accepts.1))
    }

    /// An answer with `sentence`, and with the tenant's own text below it: that of its maintenance, or of its errors.
    pub(super) fn answer(&self, status: StatusCode, sentence: &str, is_maintenance: bool) -> Response<ResponseBody> {
        let words = self.limited.as_ref().and_then(|limited| limited.words());
        let words = words.as_ref();
        let text = match is_maintenance {
            true => words.and_then(|words| words.message.as_deref()),
            false => words.and_then(|words| words.error_text.as_deref()),
        };
        let id = self.id.to_str().unwrap_or_default();
        let (media, body) = if self.wants_json() {
            let details = ProblemDetails { title: sentence, status: status.as_u16(), detail: text, request_id: id };
            ("application/problem+json", serde_json::to_string(&details).unwrap_or_default())
        } else {
            ("text/html; charset=utf-8", page(status, sentence, text, id))
        };
        let mut response = Response::new(ResponseBody::full(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

fn page(status: StatusCode, sentence: &str, text: Option<&str>, id: &str) -> String {
    let text = text.map(|text| format!("<p>{}</p>", escaped(text))).unwrap_or_default();
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{status}</title>\
         <style>body{{font:1rem/1.5 system-ui;max-width:36rem;margin:15vh auto;padding:0 1rem}}\
         small{{color:#777}}</style><h1>{}</h1><p>{}</p>{text}<p><small>Request {id}</small></p></html>\n",
        status.as_u16(),
        escaped(sentence),
    )
}

/// Text as HTML shows it, with its line breaks.
fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' | '<' | '>' | '"' | '\'' => {
                let _ = write!(html, "&#{};", u32::from(character));
            }
            '\n' => html.push_str("<br>"),
            other => html.push(other),
        }
    }
    html
}

/// Whether a client accepts JSON and no page. Browsers name `text/html`; who names nothing gets the page.
fn wants_json<'a>(accepts: impl Iterator<Item = &'a HeaderValue>) -> bool {
    let mut json = false;
    for value in accepts {
        for range in value.to_str().unwrap_or_default().split(',') {
            let media = range.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            if media == "text/html" {
                return false;
            }
            json |= media == "application/json" || media.ends_with("+json");
        }
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(values: &[&'static str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::ACCEPT, HeaderValue::from_static(value));
        }
        Asker::of(&headers, HeaderValue::from_static("id")).wants_json()
    }

    #[test]
    fn json_is_for_those_that_ask_for_it_and_for_no_page() {
        assert!(accepts(&["application/json"]));
        assert!(accepts(&["application/problem+json;q=0.9, */*"]));
        assert!(accepts(&["*/*", "Application/JSON"]));
        assert!(!accepts(&[]));
        assert!(!accepts(&["*/*"]));
        assert!(!accepts(&["text/html,application/xhtml+xml,application/json"]));
        assert!(!accepts(&["application/json", "text/html;q=0.1"]));
    }

    #[test]
    fn no_text_becomes_markup() {
        let shown = page(StatusCode::OK, "a", Some("<script>alert('x')</script>\n\"&"), "id");
        assert!(shown.contains("&#60;script&#62;alert(&#39;x&#39;)&#60;/script&#62;<br>&#34;&#38;"), "{shown}");
        assert!(!shown.contains("<script"));
    }
}
