//! Reads what a cell received, with no lenience: whatever could be understood in two ways is an error.

/// A request as a cell must understand it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Method and target.
    pub line: String,
    /// The fields in order, names in lower case.
    pub fields: Vec<(String, String)>,
    /// The body, chunks joined.
    pub body: Vec<u8>,
    /// The trailers, names in lower case.
    pub trailers: Vec<(String, String)>,
}

impl Request {
    /// The values of a field.
    pub fn values(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(field, _)| field == name).map(|(_, value)| value.as_str()).collect()
    }
}

enum Framing {
    Length(usize),
    Chunked,
}

/// The first request of `bytes` and its length; `None` if it is not all there.
pub fn first(bytes: &[u8]) -> Result<Option<(Request, usize)>, String> {
    let Some((mut request, framing, mut used)) = head(bytes)? else { return Ok(None) };
    match framing {
        Framing::Length(length) => {
            let Some(body) = bytes[used..].get(..length) else { return Ok(None) };
            request.body = body.to_vec();
            used += length;
        }
        Framing::Chunked => loop {
            let Some((size, after)) = line(bytes, used)? else { return Ok(None) };
            let size = chunk_size(size)?;
            used = after;
            if size == 0 {
                let Some((trailers, after)) = fields(bytes, used)? else { return Ok(None) };
                request.trailers = trailers;
                used = after;
                break;
            }
            let Some(chunk) = bytes[used..].get(..size + 2) else { return Ok(None) };
            if !chunk.ends_with(b"\r\n") {
                return Err("a chunk is longer than it says".into());
            }
            request.body.extend_from_slice(&chunk[..size]);
            used += size + 2;
        },
    }
    Ok(Some((request, used)))
}

/// The requests of a connection, and how many bytes of an unfinished one follow.
pub fn all(bytes: &[u8]) -> Result<(Vec<Request>, usize), String> {
    let (mut requests, mut at) = (Vec::new(), 0);
    while let Some((request, used)) = first(&bytes[at..])? {
        requests.push(request);
        at += used;
    }
    Ok((requests, bytes.len() - at))
}

/// The target of the first request, once its head is there.
pub fn first_target(bytes: &[u8]) -> Result<Option<String>, String> {
    let target = |line: &str| line.split(' ').nth(1).unwrap_or_default().to_owned();
    Ok(head(bytes)?.map(|(request, _, _)| target(&request.line)))
}

fn head(bytes: &[u8]) -> Result<Option<(Request, Framing, usize)>, String> {
    let Some((start, used)) = line(bytes, 0)? else { return Ok(None) };
    let parts: Vec<&str> = start.split(' ').collect();
    let [method, target, "HTTP/1.1"] = parts[..] else { return Err(format!("not a request line: {start:?}")) };
    if !is_token(method) || target.is_empty() || !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(format!("not a request line: {start:?}"));
    }
    let Some((fields, used)) = fields(bytes, used)? else { return Ok(None) };
    let line = format!("{method} {target}");
    let request = Request { line, fields, body: Vec::new(), trailers: Vec::new() };
    if request.values("host").len() != 1 {
        return Err(format!("{} hosts", request.values("host").len()));
    }
    let framing = match (&request.values("transfer-encoding")[..], &request.values("content-length")[..]) {
        ([], []) => Framing::Length(0),
        (["chunked"], []) => Framing::Chunked,
        ([], [length]) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
            Framing::Length(length.parse().map_err(|_| format!("a length of {length:?}"))?)
        }
        (coding, length) => return Err(format!("framed by {coding:?} and {length:?}")),
    };
    Ok(Some((request, framing, used)))
}

/// Names and values of fields.
type Fields = Vec<(String, String)>;

/// Lines up to an empty one, and where what follows begins.
fn fields(bytes: &[u8], mut used: usize) -> Result<Option<(Fields, usize)>, String> {
    let mut fields = Vec::new();
    loop {
        let Some((text, after)) = line(bytes, used)? else { return Ok(None) };
        used = after;
        if text.is_empty() {
            return Ok(Some((fields, used)));
        }
        let (name, value) = text.split_once(':').ok_or_else(|| format!("not a field: {text:?}"))?;
        if !is_token(name) {
            return Err(format!("not a field: {text:?}"));
        }
        fields.push((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()));
    }
}

/// The line that begins at `from`, and where the next one begins.
fn line(bytes: &[u8], from: usize) -> Result<Option<(&str, usize)>, String> {
    let rest = &bytes[from..];
    let Some(end) = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return if rest.contains(&0) { Err("a NUL".into()) } else { Ok(None) };
    };
    match (rest[end], rest.get(end + 1)) {
        (b'\r', None) => return Ok(None),
        (b'\r', Some(b'\n')) => {}
        _ => return Err("a line that does not end in CR LF".into()),
    }
    let text = std::str::from_utf8(&rest[..end]).map_err(|_| "bytes that are no text".to_owned())?;
    if text.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
        return Err(format!("control characters: {text:?}"));
    }
    Ok(Some((text, from + end + 2)))
}

fn chunk_size(text: &str) -> Result<usize, String> {
    let digits = !text.is_empty() && text.len() <= 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let size = usize::from_str_radix(text, 16);
    size.ok().filter(|_| digits).ok_or_else(|| format!("not a chunk size: {text:?}"))
}

fn is_token(text: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_two_meanings_is_an_error() {
        let good = "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi";
        assert_eq!(all(format!("{good}{good}GET").as_bytes()).map(|(all, rest)| (all.len(), rest)), Ok((2, 3)));
        let chunked = "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx: y\r\n\r\n";
        let (request, used) = first(chunked.as_bytes()).unwrap().unwrap();
        assert_eq!((request.body.as_slice(), request.trailers.len(), used), (b"hi".as_slice(), 1, chunked.len()));
        for bad in [
            "GET /a HTTP/1.1\nhost: a\r\n\r\n",
            "GET /a HTTP/1.1\r\nhost: a\nx: y\r\n\r\n",
            "GET /a HTTP/1.1\r\nhost: a\rx: y\r\n\r\n",
            "GET /a HTTP/1.1\r\nhost: a\r\n x: y\r\n\r\n",
            "GET /a HTTP/1.1\r\nhost: a\0\r\n\r\n",
            "GET  /a HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET /a HTTP/1.0\r\nhost: a\r\n\r\n",
            "GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET /a HTTP/1.1\r\n\r\n",
            "GET /a HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
            "GET /a HTTP/1.1\r\nhost : a\r\n\r\n",
            "GET /a HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\n",
            "GET /a HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n1",
            "GET /a HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            "GET /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, chunked\r\n\r\n",
            "GET /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2;x=y\r\nhi\r\n0\r\n\r\n",
            "GET /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhix",
        ] {
            assert!(first(bad.as_bytes()).is_err() || bad.ends_with("hix"), "{bad:?}");
        }
    }
}
