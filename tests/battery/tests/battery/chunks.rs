//! The syntax of chunks and of what follows them.

use cellway_battery::{Expect, Family, Seen};

const NEXT: &str = "GET /next HTTP/1.1\r\nHost: acme.cells.localhost\r\n\r\n";

fn post(body: &str) -> String {
    format!("POST /c HTTP/1.1\r\nHost: acme.cells.localhost\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_arrive_as_they_were_sent_or_not_at_all() {
    let mut family = Family::start("h1 chunks").await;
    for (body, arrives) in [
        ("0\r\n\r\n", ""),
        ("2\r\nhi\r\n0\r\n\r\n", "hi"),
        ("02\r\nhi\r\n000\r\n\r\n", "hi"),
        ("1\r\nh\r\n1\r\ni\r\n0\r\n\r\n", "hi"),
        ("A\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
        ("a\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
        ("2;a=b\r\nhi\r\n0\r\n\r\n", "hi"),
        ("2;a=\"b;c\"\r\nhi\r\n0;z\r\n\r\n", "hi"),
        ("2;a\r\nhi\r\n0\r\n\r\n", "hi"),
        ("2 ;a=b\r\nhi\r\n0\r\n\r\n", "hi"),
        ("4\r\n\r\n\r\n\r\n0\r\n\r\n", "\r\n\r\n"),
        ("2\r\nhi\r\n0\r\nX-Sum: 1\r\n\r\n", "hi"),
        ("5\r\n0\r\n\r\n\r\n0\r\n\r\n", "0\r\n\r\n"),
    ] {
        let seen = vec![Seen::with("POST /c", arrives), Seen::line("GET /next")];
        family.case(body, post(body) + NEXT, Expect::Exactly(seen, &[])).await;
    }
    for bad in [
        "2\nhi\r\n0\r\n\r\n",
        "2\r\nhi\n0\r\n\r\n",
        "2\r\nhi\r\n0\n\r\n",
        "2\r\nhi\r\n0\r\n\n",
        "2\rhi\r\n0\r\n\r\n",
        "2\r\r\nhi\r\n0\r\n\r\n",
        "2\r\nhi0\r\n\r\n",
        "2\r\nhi!\r\n0\r\n\r\n",
        "2\r\nhi\r\r\n0\r\n\r\n",
        "2\r\nhiXX0\r\n\r\n",
        "3\r\nhi\r\n0\r\n\r\n",
        "1\r\nhi\r\n0\r\n\r\n",
        "0x2\r\nhi\r\n0\r\n\r\n",
        "-2\r\nhi\r\n0\r\n\r\n",
        "+2\r\nhi\r\n0\r\n\r\n",
        " 2\r\nhi\r\n0\r\n\r\n",
        "\t2\r\nhi\r\n0\r\n\r\n",
        "2h\r\nhi\r\n0\r\n\r\n",
        "2.0\r\nhi\r\n0\r\n\r\n",
        "2_0\r\nhi\r\n0\r\n\r\n",
        "g\r\nhi\r\n0\r\n\r\n",
        "\r\nhi\r\n0\r\n\r\n",
        ";a=b\r\nhi\r\n0\r\n\r\n",
        "2 2\r\nhi\r\n0\r\n\r\n",
        "2\0\r\nhi\r\n0\r\n\r\n",
        "2\x0b\r\nhi\r\n0\r\n\r\n",
        "2;a=\nb\r\nhi\r\n0\r\n\r\n",
        "2;a\nhi\r\n0\r\n\r\n",
        "2;a=\rb\r\nhi\r\n0\r\n\r\n",
        "2;a=\"\n\"\r\nhi\r\n0\r\n\r\n",
        "2;\0\r\nhi\r\n0\r\n\r\n",
        "ffffffffffffffff\r\nhi\r\n0\r\n\r\n",
        "10000000000000000\r\nhi\r\n0\r\n\r\n",
        "10000000000000002\r\nhi\r\n0\r\n\r\n",
        "80000000000000000000000000000002\r\nhi\r\n0\r\n\r\n",
        "7fffffffffffffff\r\nhi\r\n0\r\n\r\n",
        "2\r\nhi\r\n0\r\nX : y\r\n\r\n",
        "2\r\nhi\r\n0\r\n X: y\r\n\r\n",
        "2\r\nhi\r\n0\r\nX: y\n\r\n",
        "2\r\nhi\r\n0\r\nX: y\rZ: a\r\n\r\n",
        "2\r\nhi\r\n0\r\nX: y\nZ: a\r\n\r\n",
        "2\r\nhi\r\n0\r\nX: y\0\r\n\r\n",
        "2\r\nhi\r\n0\r\nX: y\r\n z\r\n\r\n",
        "2\r\nhi\r\n0\r\nX\r\n\r\n",
        "2\r\nhi\r\n0\r\n: y\r\n\r\n",
    ] {
        family.case(bad, post(bad) + NEXT, Expect::Cut(&[400])).await;
    }
    let extension = format!("2;{}\r\nhi\r\n0\r\n\r\n", "x".repeat(40_000));
    family.case("an extension of 40 KB", post(&extension) + NEXT, Expect::Cut(&[400])).await;
    let extensions = "1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nh\r\n".repeat(1_000) + "0\r\n\r\n";
    family.case("many extensions", post(&extensions) + NEXT, Expect::Cut(&[400])).await;
    let size = format!("{}2\r\nhi\r\n0\r\n\r\n", "0".repeat(40_000));
    family.case("a size of 40,000 digits", post(&size) + NEXT, Expect::Cut(&[400])).await;
    let trailers = format!("2\r\nhi\r\n0\r\nX: {}\r\n\r\n", "y".repeat(100_000));
    family.case("trailers of 100 KB", post(&trailers) + NEXT, Expect::Cut(&[400, 431])).await;
    let trailers = format!("2\r\nhi\r\n0\r\n{}\r\n", "X: y\r\n".repeat(2_000));
    family.case("2,000 trailers", post(&trailers) + NEXT, Expect::Cut(&[400, 431])).await;
    family.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_say_nothing_that_belongs_into_a_head() {
    let mut family = Family::start("h1 trailers").await;
    for name in [
        "Content-Length",
        "Transfer-Encoding",
        "Host",
        "Authorization",
        "Cookie",
        "X-Cellway-Tenant",
        "x_cellway_epoch",
        "X-Forwarded-For",
        "Forwarded",
        "Connection",
        "TE",
        "Content-Type",
        "Content-Encoding",
        "Content-Range",
        "Trailer",
        "Upgrade",
        "Keep-Alive",
        "Expect",
        "Set-Cookie",
    ] {
        let body = format!("2\r\nhi\r\n0\r\nX-Sum: 1\r\n{name}: beta.cells.localhost\r\n\r\n");
        let bytes = format!(
            "POST /c HTTP/1.1\r\nHost: acme.cells.localhost\r\nTransfer-Encoding: chunked\r\n\
             Trailer: X-Sum, {name}\r\nTE: trailers\r\n\r\n{body}"
        );
        let mut client = cellway_battery::Client::connect(family.world.address).await;
        client.send(bytes.as_bytes()).await;
        let transcript = client.read(1, &[]).await;
        let received = family.world.received().await.map(|(acme, _)| acme);
        let name = name.to_ascii_lowercase();
        let acme = received.as_deref().unwrap_or_default();
        let result = match (&transcript.statuses()[..], acme) {
            ([200], [one]) if one.requests.len() == 1 => {
                let request = &one.requests[0];
                let forbidden = request.trailers.iter().any(|(field, _)| *field == name);
                if forbidden { Err(format!("the cell got {request:?}")) } else { Ok(()) }
            }
            ([400], _) => Ok(()),
            _ => Err(format!("{transcript:?} {received:?}")),
        };
        family.by_hand(&name, result).await;
    }
    family.finish();
}
