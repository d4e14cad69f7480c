//! The request line: methods, targets, versions.

use cellway_battery::{Expect, Family};

const HOST: &str = "Host: acme.cells.localhost\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_line_has_one_form() {
    let mut family = Family::start("h1 request lines").await;
    for (line, statuses) in [
        ("GET  /a HTTP/1.1", [400, 400].as_slice()),
        ("GET /a  HTTP/1.1", &[400]),
        ("GET\t/a HTTP/1.1", &[400]),
        ("GET /a\tHTTP/1.1", &[400]),
        ("GET /a HTTP/1.1 ", &[400]),
        ("GET /a HTTP/1.1\t", &[400]),
        (" GET /a HTTP/1.1", &[400]),
        ("GET /a b HTTP/1.1", &[400]),
        ("GET /a HTTP/1.1 x", &[400]),
        ("GET /a", &[400]),
        ("GET", &[400]),
        ("GET /a HTTP/", &[400, 505]),
        ("GET /a HTTP/1", &[400, 505]),
        ("GET /a HTTP/1.", &[400, 505]),
        ("GET /a HTTP/1.2", &[400, 505]),
        ("GET /a HTTP/1.10", &[400, 505]),
        ("GET /a HTTP/01.1", &[400, 505]),
        ("GET /a HTTP/1.01", &[400, 505]),
        ("GET /a HTTP/0.9", &[400, 505]),
        ("GET /a HTTP/2.0", &[400, 505]),
        ("GET /a HTTP/2", &[400, 505]),
        ("GET /a HTTP/3.0", &[400, 505]),
        ("GET /a HTTP/9.9", &[400, 505]),
        ("GET /a http/1.1", &[400, 505]),
        ("GET /a Http/1.1", &[400, 505]),
        ("GET /a HTTPS/1.1", &[400, 505]),
        ("GET /a HTTP /1.1", &[400, 505]),
        ("GET /a HTTP/1.1\x0b", &[400, 505]),
        ("GET /a ICY/1.1", &[400, 505]),
        ("G(T /a HTTP/1.1", &[400, 501]),
        ("G\0T /a HTTP/1.1", &[400, 501]),
        ("GET: /a HTTP/1.1", &[400, 501]),
        ("\"GET\" /a HTTP/1.1", &[400, 501]),
        ("GET \0/a HTTP/1.1", &[400]),
        ("/a HTTP/1.1", &[400]),
        ("HTTP/1.1 200 OK", &[400]),
    ] {
        family.case(line, format!("{line}\r\n{HOST}\r\n"), Expect::refused(statuses)).await;
    }
    family.case("HTTP/0.9", "GET /a\r\n", Expect::refused(&[400])).await;
    family.case("HTTP/0.9 and a bare LF", "GET /a\n", Expect::refused(&[400])).await;
    for method in ["PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "QUERY", "get", "Get", "M-SEARCH"] {
        let line = format!("{method} /a");
        let expect = if method.chars().any(char::is_lowercase) {
            Expect::Either(&[400, 501, 405])
        } else {
            Expect::served(&line)
        };
        family.case(method, format!("{line} HTTP/1.1\r\n{HOST}\r\n"), expect).await;
    }
    let head = format!("HEAD /a HTTP/1.1\r\n{HOST}\r\n");
    family.case("HEAD", head, Expect::served("HEAD /a")).await;
    for refused in ["CONNECT acme.cells.localhost:443", "CONNECT /a", "CONNECT acme.cells.localhost", "CONNECT *"] {
        let bytes = format!("{refused} HTTP/1.1\r\n{HOST}\r\n");
        family.case(refused, bytes, Expect::refused(&[400, 405, 501])).await;
    }
    let trace = format!("TRACE /a HTTP/1.1\r\n{HOST}Cookie: secret\r\n\r\n");
    family.case("TRACE", trace, Expect::Either(&[405, 501, 400])).await;
    family.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_reaches_the_cell_as_it_is_or_not_at_all() {
    let mut family = Family::start("h1 targets").await;
    for same in [
        "/",
        "//",
        "//a//b",
        "/a/../b",
        "/../../etc",
        "/./a",
        "/a/.",
        "/%2e%2e/b",
        "/%2F",
        "/%00",
        "/%0d%0aX:%20y",
        "/a%20b",
        "/%",
        "/%zz",
        "/%C3%A9",
        "/a;b=c",
        "/a,b",
        "/a:b",
        "/a@b",
        "/?a=b&c=d",
        "/?",
        "/??",
        "/a?b?c",
        "/a?b=/../c",
        "/~a",
        "/a!$&'()*+,;=:@",
        "/a?x=|",
        "/a?x={y}",
        "/a|b",
        "//beta.cells.localhost/a",
        "/http://beta.cells.localhost/",
        "/a?x=[1]",
        "/a.b_c-d",
        "/*",
    ] {
        let bytes = format!("GET {same} HTTP/1.1\r\n{HOST}\r\n");
        family.case(same, bytes, Expect::served(&format!("GET {same}"))).await;
    }
    for bad in [
        "/a#b",
        "/#",
        "#",
        "/a?b#c",
        "a",
        "a/b",
        "?a=b",
        "",
        "*",
        "*/",
        "**",
        "/a\\b",
        "\\a",
        "/\\beta.cells.localhost",
        "acme.cells.localhost",
        "acme.cells.localhost:80",
        "acme.cells.localhost/a",
        "//",
        "../a",
        ".",
        "%2fa",
        "@",
        ":",
        ":80",
        "://a",
        "http:",
        "http:/",
        "http://",
        "http:///a",
        "http:a",
        "http:/acme.cells.localhost/",
        "http://beta.cells.localhost/",
        "http://beta.cells.localhost:80/",
        "http://acme.cells.localhost:81/",
        "http://user@acme.cells.localhost/",
        "http://user:secret@acme.cells.localhost/",
        "http://@acme.cells.localhost/",
        "http://acme.cells.localhost@beta.cells.localhost/",
        "http://acme.cells.localhost#@beta.cells.localhost/",
        "http://acme.cells.localhost/a#b",
        "http://acme.cells.localhost\\a",
        "http://[::1]/",
        "http://127.0.0.1/",
        "http://acme.cells.localhost:x/",
        "http://acme.cells.localhost:99999/",
        "http://acme.cells.localhost:-1/",
        "http://acme.cells.localhost,beta.cells.localhost/",
        "ftp://acme.cells.localhost/",
        "ws://acme.cells.localhost/",
        "file:///etc/passwd",
        "gopher://acme.cells.localhost/",
        "javascript:alert(1)",
        "httpx://acme.cells.localhost/",
        "http://acme.cells.localhost%00/",
        "http://acme.cells.localhost%2f.evil/",
        "http://.acme.cells.localhost/",
        "http://acme..cells.localhost/",
        "http//acme.cells.localhost/",
        "http:\\\\acme.cells.localhost\\",
    ] {
        if bad != "//" {
            let bytes = format!("GET {bad} HTTP/1.1\r\n{HOST}\r\n");
            family.case(bad, bytes, Expect::refused(&[400])).await;
        }
    }
    for (target, line) in [
        ("http://acme.cells.localhost/a", "GET /a"),
        ("http://acme.cells.localhost", "GET /"),
        ("http://acme.cells.localhost?x", "GET /?x"),
        ("http://acme.cells.localhost/?x=http://beta.cells.localhost/", "GET /?x=http://beta.cells.localhost/"),
        ("HTTP://ACME.cells.localhost/a", "GET /a"),
        ("https://acme.cells.localhost/a", "GET /a"),
    ] {
        let bytes = format!("GET {target} HTTP/1.1\r\n{HOST}\r\n");
        family.case(target, bytes, Expect::served(line)).await;
    }
    let options = format!("OPTIONS * HTTP/1.1\r\n{HOST}\r\n");
    family.case("OPTIONS *", options, Expect::served("OPTIONS *")).await;
    for bytes in [b"GET /\xe9 HTTP/1.1\r\n".as_slice(), b"GET /\xc3\xa9 HTTP/1.1\r\n", b"GET /?\xff HTTP/1.1\r\n"] {
        let bytes = [bytes, HOST.as_bytes(), b"\r\n"].concat();
        family.case("a target that is not ASCII", bytes, Expect::refused(&[400])).await;
    }
    family.case("DEL", format!("GET /\x7f HTTP/1.1\r\n{HOST}\r\n"), Expect::refused(&[400])).await;
    for odd in ["/\"", "/<a>", "/^", "/`"] {
        family.case(odd, format!("GET {odd} HTTP/1.1\r\n{HOST}\r\n"), Expect::Either(&[400])).await;
    }
    family.finish();
}
