//! Whom a request is for: `Host` in all its forms.

use cellway_battery::{Expect, Family};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_has_one_readable_host() {
    let mut family = Family::start("h1 hosts").await;
    let bytes = |host: &str| format!("GET /a HTTP/1.1\r\n{host}\r\n");
    for good in [
        "Host: acme.cells.localhost\r\n",
        "host:acme.cells.localhost\r\n",
        "HOST:   acme.cells.localhost  \r\n",
        "Host: \tacme.cells.localhost\t\r\n",
        "Host: ACME.Cells.LOCALHOST\r\n",
        "Host: acme.cells.localhost.\r\n",
        "Host: acme.cells.localhost:80\r\n",
        "Host: acme.cells.localhost:8080\r\n",
        "Host: acme.cells.localhost.:65535\r\n",
        "X: y\r\nHost: acme.cells.localhost\r\nY: z\r\n",
    ] {
        family.case(good, bytes(good), Expect::served("GET /a")).await;
    }
    for bad in [
        "",
        "Host:\r\n",
        "Host: \r\n",
        "Host: acme.cells.localhost\r\nHost: acme.cells.localhost\r\n",
        "Host: acme.cells.localhost\r\nHost: beta.cells.localhost\r\n",
        "Host: beta.cells.localhost\r\nX: y\r\nhOST: acme.cells.localhost\r\n",
        "Host: acme.cells.localhost\r\nHost:\r\n",
        "Host:\r\nHost: acme.cells.localhost\r\n",
        "Host: acme.cells.localhost, beta.cells.localhost\r\n",
        "Host: acme.cells.localhost,beta.cells.localhost\r\n",
        "Host: acme.cells.localhost beta.cells.localhost\r\n",
        "Host: acme.cells.localhost;beta.cells.localhost\r\n",
        "Host: acme.cells.localhost:80@beta.cells.localhost\r\n",
        "Host: acme.cells.localhost@beta.cells.localhost\r\n",
        "Host: beta@acme.cells.localhost\r\n",
        "Host: user:secret@acme.cells.localhost\r\n",
        "Host: acme.cells.localhost:http\r\n",
        "Host: acme.cells.localhost:-80\r\n",
        "Host: acme.cells.localhost:+80\r\n",
        "Host: acme.cells.localhost:0x50\r\n",
        "Host: acme.cells.localhost:80:80\r\n",
        "Host: acme.cells.localhost:65536\r\n",
        "Host: acme.cells.localhost:99999999999\r\n",
        "Host: acme.cells.localhost: 80\r\n",
        "Host: acme.cells.localhost :80\r\n",
        "Host: :80\r\n",
        "Host: http://acme.cells.localhost\r\n",
        "Host: //acme.cells.localhost\r\n",
        "Host: acme.cells.localhost/\r\n",
        "Host: acme.cells.localhost/a\r\n",
        "Host: acme.cells.localhost?a\r\n",
        "Host: acme.cells.localhost#a\r\n",
        "Host: acme.cells.localhost\\a\r\n",
        "Host: acme.cells.localhost%00\r\n",
        "Host: acme%2ecells.localhost\r\n",
        "Host: acme..cells.localhost\r\n",
        "Host: .acme.cells.localhost\r\n",
        "Host: acme.cells.localhost..\r\n",
        "Host: .\r\n",
        "Host: -acme.cells.localhost\r\n",
        "Host: *.cells.localhost\r\n",
        "Host: \"acme.cells.localhost\"\r\n",
        "Host: acme.cells.localhost\0\r\n",
        "Host: acme.cells.localhost\0.evil\r\n",
        "Host: acme\0.cells.localhost\r\n",
        "Host: acme.cells.localhost\x0b\r\n",
        "Host: acme.cells.localhost\x7f\r\n",
        "Host: acme.cells.localhost\r\n x\r\n",
        "Host: acme.cells.localhost\n\r\n",
        "Host : acme.cells.localhost\r\n",
        "Host\t: acme.cells.localhost\r\n",
        " Host: acme.cells.localhost\r\n",
        "Host acme.cells.localhost\r\n",
        "Host: 127.0.0.1\r\n",
        "Host: 127.0.0.1:80\r\n",
        "Host: 127.1\r\n",
        "Host: 2130706433\r\n",
        "Host: 0x7f000001\r\n",
        "Host: [::1]\r\n",
        "Host: [::1]:80\r\n",
        "Host: ::1\r\n",
        "Host: [::ffff:127.0.0.1]\r\n",
        "Host: [v1.x]\r\n",
        "Host: [acme.cells.localhost]\r\n",
        "Host: xn--.cells.localhost\r\n",
    ] {
        family.case(bad, bytes(bad), Expect::refused(&[400])).await;
    }
    let label = format!("Host: {}.cells.localhost\r\n", "a".repeat(64));
    family.case("a long label", bytes(&label), Expect::refused(&[400])).await;
    let name = format!("Host: {}cells.localhost\r\n", "a.".repeat(130));
    family.case("a long name", bytes(&name), Expect::refused(&[400])).await;
    let name = format!("Host: {}\r\n", "a".repeat(7_000));
    family.case("a longer name", bytes(&name), Expect::refused(&[400])).await;
    let mut unicode = b"GET /a HTTP/1.1\r\nHost: \xc3\xa4cme.cells.localhost\r\n\r\n".to_vec();
    family.case("a name in UTF-8", &unicode, Expect::refused(&[400])).await;
    unicode[23..25].copy_from_slice(b"\xe4c");
    family.case("a name in Latin-1", &unicode, Expect::refused(&[400])).await;
    family.case("HTTP/1.0 without a host", "GET /a HTTP/1.0\r\n\r\n", Expect::refused(&[400])).await;
    let old = "GET /a HTTP/1.0\r\nHost: acme.cells.localhost\r\n\r\n";
    let mut client = cellway_battery::Client::connect(family.world.address).await;
    client.send(old.as_bytes()).await;
    let transcript = client.read(1, &[]).await;
    let received = family.world.received().await;
    let arrived = received.as_ref().is_ok_and(|(acme, _)| acme.len() == 1);
    let good = transcript.statuses() == [200] && transcript.end == cellway_battery::End::Closed && arrived;
    family.by_hand("HTTP/1.0", if good { Ok(()) } else { Err(format!("{transcript:?} {received:?}")) }).await;
    family.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_nobody_has_reaches_nobody() {
    let mut family = Family::start("h1 unknown hosts").await;
    for host in [
        "nobody.cells.localhost",
        "a.acme.cells.localhost",
        "cells.localhost",
        "acmecells.localhost",
        "example.com",
        "acme.cells.localhost.example.com",
        "acme_.cells.localhost",
        "_acme.cells.localhost",
        "localhost",
        "www.cells.localhost",
    ] {
        let mut client = cellway_battery::Client::connect(family.world.address).await;
        client.send(format!("GET /a HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await;
        let transcript = client.read(1, &[]).await;
        let seen = family.world.received().await;
        let nothing = seen.as_ref().is_ok_and(|(acme, beta)| acme.is_empty() && beta.is_empty());
        let good = transcript.statuses() == [404] && nothing;
        family.by_hand(host, if good { Ok(()) } else { Err(format!("{transcript:?} {seen:?}")) }).await;
    }
    family.finish();
}
