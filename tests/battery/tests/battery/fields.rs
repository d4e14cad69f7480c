//! Which fields of a client reach a cell, and which of a cell reach a client.

use cellway_battery::{Client, Family, Step};

/// What the cell gets of a request with these fields; `None` if it gets none.
async fn at_cell(family: &Family, fields: &str) -> Result<Option<cellway_battery::wire::Request>, String> {
    let mut client = Client::connect(family.world.address).await;
    client.send(format!("GET /f HTTP/1.1\r\nHost: acme.cells.localhost\r\n{fields}\r\n").as_bytes()).await;
    let transcript = client.read(1, &[]).await;
    let (mut acme, beta) = family.world.received().await?;
    match (&transcript.statuses()[..], acme.len(), beta.len()) {
        ([200], 1, 0) if acme[0].requests.len() == 1 => Ok(Some(acme.remove(0).requests.remove(0))),
        ([400 | 431], 0, 0) => Ok(None),
        _ => Err(format!("{transcript:?} {acme:?} {beta:?}")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_cannot_take_away_or_forge_what_the_router_says() {
    let mut family = Family::start("h1 fields to cells").await;
    for fields in [
        "Connection: host, content-length, x-cellway-tenant\r\n",
        "Connection: x-cellway-tenant, x-cellway-epoch, x-request-id, forwarded\r\n",
        "Connection: close, x-cellway-tenant\r\n",
        "Connection: X-Cellway-Tenant\r\nConnection: Host\r\n",
        "X-Cellway-Tenant: beta\r\nX-Cellway-Epoch: 99\r\n",
        "x_cellway_tenant: beta\r\nx-cellway_tenant: beta\r\nx_cellway-epoch: 9\r\n",
        "X-CELLWAY-TENANT: beta\r\nX-Cellway-Tenant: gamma\r\n",
        "X-Cellway-Verdict: fenced\r\nX-Cellway-Cost: 7\r\nX-Cellway-Anything: 1\r\n",
        "Forwarded: for=9.9.9.9\r\nX-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Host: beta\r\nX-Forwarded-Proto: https\r\n",
        "X_Forwarded_For: 9.9.9.9\r\nX-Real-IP: 9.9.9.9\r\nX_Real_IP: 9.9.9.9\r\n",
        "Content_Length: 5\r\nTransfer_Encoding: chunked\r\nX_Request_Id: 5\r\n",
        "X-Request-Id: bad id\r\n",
        "X-Request-Id: a\r\nX-Request-Id: b\r\n",
        "Connection: transfer-encoding, te, upgrade\r\nTE: gzip\r\n",
    ] {
        let result = match at_cell(&family, fields).await {
            Ok(None) => Err("refused".into()),
            Err(why) => Err(why),
            Ok(Some(request)) => {
                let once = |name: &str, wanted: &str| request.values(name) == [wanted];
                let forbidden: Vec<&str> = request
                    .fields
                    .iter()
                    .map(|(name, _)| name.as_str())
                    .filter(|name| {
                        let plain = name.replace('_', "-");
                        let ours = ["x-cellway-tenant", "x-cellway-epoch", "forwarded", "x-request-id"];
                        let reserved = plain.starts_with("x-cellway-")
                            || [
                                "content-length",
                                "transfer-encoding",
                                "x-real-ip",
                                "x-request-id",
                                "connection",
                                "te",
                                "upgrade",
                            ]
                            .contains(&plain.as_str());
                        reserved && !ours.contains(name)
                    })
                    .collect();
                let stamped = once("x-cellway-tenant", "acme") && once("x-cellway-epoch", "1");
                let named = once("host", "acme.cells.localhost") && request.values("x-request-id").len() == 1;
                let forwarded = request.values("forwarded");
                let honest = forwarded.len() == 1 && forwarded[0].starts_with("for=127.0.0.1");
                let spoofed = request.fields.iter().any(|(_, value)| value.contains("9.9.9.9"));
                if forbidden.is_empty() && stamped && named && honest && !spoofed {
                    Ok(())
                } else {
                    Err(format!("{request:?}"))
                }
            }
        };
        family.by_hand(fields, result).await;
    }
    family.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_of_one_hop_stay_on_it_and_others_pass() {
    let mut family = Family::start("h1 fields of a hop").await;
    for (fields, gone, kept) in [
        ("Connection: X-Own\r\nX-Own: 1\r\nX-Other: 2\r\n", "x-own", "x-other"),
        (
            "Connection: keep-alive, X-Own\r\nKeep-Alive: timeout=5\r\nX-Own: 1\r\nX-Other: 2\r\n",
            "keep-alive",
            "x-other",
        ),
        ("Connection: ,,X-Own,,\r\nX-Own: 1\r\nX-Other: 2\r\n", "x-own", "x-other"),
        ("Connection: x-own\tX-Other\r\nX-Other: 2\r\n", "connection", "x-other"),
        ("Proxy-Connection: keep-alive\r\nX-Other: 2\r\n", "proxy-connection", "x-other"),
        ("Proxy-Authorization: Basic x\r\nX-Other: 2\r\n", "proxy-authorization", "x-other"),
        ("TE: trailers\r\nX-Other: 2\r\n", "te", "x-other"),
        (
            "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\nX-Other: 2\r\n",
            "http2-settings",
            "x-other",
        ),
        ("Upgrade: h2c\r\nX-Other: 2\r\n", "upgrade", "x-other"),
        ("Expect: 100-continue\r\nX-Other: 2\r\n", "expect", "x-other"),
        ("Connection: cookie\r\nX-Other: 2\r\n", "connection", "x-other"),
        ("Cookie: a=1; b=2\r\nX-Own: 1\r\n", "none", "cookie"),
        ("Authorization: Bearer x\r\n", "none", "authorization"),
        ("X-Empty:\r\n", "none", "x-empty"),
        ("X-Odd: \"a, b\"; c=\t'd'\r\n", "none", "x-odd"),
        ("Range: bytes=0-1\r\nIf-Match: \"x\"\r\n", "none", "range"),
        ("X_App: kept\r\n", "none", "x_app"),
    ] {
        let result = match at_cell(&family, fields).await {
            Ok(Some(request)) if request.values(gone).is_empty() && request.values(kept).len() == 1 => Ok(()),
            other => Err(format!("{other:?}")),
        };
        family.by_hand(fields, result).await;
    }
    let result = match at_cell(&family, "X-Twice: a\r\nX-Twice: b, c\r\n").await {
        Ok(Some(request)) if request.values("x-twice") == ["a", "b, c"] => Ok(()),
        other => Err(format!("{other:?}")),
    };
    family.by_hand("a field sent twice", result).await;
    family.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cell_cannot_speak_for_the_router() {
    let mut family = Family::start("h1 fields to clients").await;
    for (number, (fields, gone)) in [
        ("X-Cellway-Verdict: fenced\r\n", "x-cellway-verdict"),
        ("x_cellway_verdict: fenced\r\n", "x_cellway_verdict"),
        ("X-Cellway-Cost: 7\r\n", "x-cellway-cost"),
        ("Connection: X-Own\r\nX-Own: 1\r\n", "x-own"),
        ("Keep-Alive: timeout=5\r\n", "keep-alive"),
        ("Proxy-Authenticate: Basic\r\n", "proxy-authenticate"),
        ("Proxy-Connection: close\r\n", "proxy-connection"),
        ("Upgrade: h2c\r\n", "upgrade"),
        ("Trailer: X-Sum\r\nTE: trailers\r\n", "te"),
        ("Connection: close\r\n", "connection"),
    ]
    .into_iter()
    .enumerate()
    {
        let target = format!("/answer-{number}");
        let answer =
            format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-App: 1\r\nX-Request-Id: forged\r\n{fields}\r\nok");
        family.world.acme.answer(&target, vec![Step::say(&answer)]);
        let mut client = Client::connect(family.world.address).await;
        client.send(cellway_battery::world::get("acme", &target).as_bytes()).await;
        let transcript = client.read(1, &[]).await;
        let _ = family.world.received().await;
        let answer = transcript.answers.first();
        let good = answer.is_some_and(|answer| {
            let kept = answer.field("x-app") == Some("1") && answer.text() == "ok";
            kept && answer.field(gone).is_none() && answer.field("x-request-id") != Some("forged")
        });
        family.by_hand(fields, if good { Ok(()) } else { Err(format!("{transcript:?}")) }).await;
    }
    family.finish();
}
