//! A case over HTTP/2: frames of a client, and what must become of them.

use std::time::Duration;

use cellway_battery::frames::{Back, Http2, block, data, headers, ping, window};
use cellway_battery::{End, Family};

/// What must become of the frames. Nothing else may reach a cell, and nobody else may notice.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Want {
    /// Stream 1 is answered 200, the cell saw this line with this body, and the connection goes on.
    Served(&'static str, &'static str),
    /// The connection is ended with an error.
    ConnectionError,
    /// Stream 1 is reset or answered 4xx, and the connection goes on; or it is ended with an error.
    Refused,
    /// Stream 1 is reset or answered 4xx, and the connection goes on.
    StreamError,
    /// The connection goes on as if nothing had come.
    Nothing,
    /// The connection is ended, or goes on; a request may have reached the cell.
    Anything,
}

/// The fields of a plain request of `acme`.
pub(crate) fn plain<'a>(method: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![(":method", method), (":scheme", "http"), (":authority", "acme.cells.localhost"), (":path", path)]
}

/// The block of a plain GET.
pub(crate) fn get(path: &str) -> Vec<u8> {
    block(&plain("GET", path))
}

/// The block of a plain POST with fields of its own.
pub(crate) fn post(fields: &[(&str, &str)]) -> Vec<u8> {
    block(&[plain("POST", "/p"), fields.to_vec()].concat())
}

/// Sends `frames` after the opening, and judges.
pub(crate) async fn case(family: &mut Family, name: &str, frames: &[u8], want: Want) {
    let mut client = Http2::open(family.world.address).await;
    client.send(frames).await;
    let result = judge(family, &mut client, want).await;
    conclude(family, name, result, want).await;
}

/// The same for bytes that stand for the whole opening, too.
pub(crate) async fn case_from_the_start(family: &mut Family, name: &str, bytes: &[u8], want: Want) {
    let mut client = Http2::connect(family.world.address).await;
    client.send(bytes).await;
    let result = judge(family, &mut client, want).await;
    conclude(family, name, result, want).await;
}

/// A request is good until what is wrong with it comes: a part of it may be on its way by then.
async fn conclude(family: &mut Family, name: &str, result: Result<(), String>, want: Want) {
    match want {
        Want::Served(..) | Want::Nothing => family.by_hand(name, result).await,
        Want::ConnectionError | Want::Refused | Want::StreamError | Want::Anything => {
            family.by_hand_of_cut(name, result).await;
        }
    }
}

async fn judge(family: &Family, client: &mut Http2, want: Want) -> Result<(), String> {
    let over = |back: &Back| back.stream(1).is_over() || back.is_refused();
    let back = match want {
        Want::Nothing | Want::Anything => client.read_for(Duration::from_millis(50), over).await,
        _ => client.read_until(over).await,
    };
    let stream = back.stream(1);
    let refused = stream.reset.is_some() || stream.status.is_some_and(|status| (400..500).contains(&status));
    let (acme, beta) = family.world.received().await?;
    let requests: Vec<_> = acme.iter().flat_map(|one| &one.requests).collect();
    let nothing = acme.is_empty() && beta.is_empty();
    let cut = requests.is_empty() && beta.is_empty();
    let broken = || Err(format!("{back:?}, the cells received {acme:?} {beta:?}"));
    let good = match want {
        Want::Served(line, body) => {
            let [request] = requests[..] else { return broken() };
            stream.status == Some(200) && stream.ended && request.line == line && request.body == body.as_bytes()
        }
        Want::ConnectionError => back.is_refused() && cut,
        Want::Refused => cut && (back.is_refused() || refused),
        Want::StreamError => cut && refused && !back.is_refused(),
        Want::Nothing => nothing && !back.is_refused() && back.streams.is_empty(),
        Want::Anything => beta.is_empty(),
    };
    if !good {
        return broken();
    }
    if !back.is_refused() && !matches!(want, Want::Anything) {
        return goes_on(family, client).await;
    }
    // After its GOAWAY the other side closes, and does not wait for ever for this one to.
    if matches!(want, Want::ConnectionError)
        && client.read_for(Duration::from_secs(3), |_| false).await.end == End::Open
    {
        return Err("the connection stays open after its GOAWAY".into());
    }
    Ok(())
}

/// Whether the connection answers a ping and serves another request.
async fn goes_on(family: &Family, client: &mut Http2) -> Result<(), String> {
    let head = headers(101, false, &block(&plain("POST", "/on")));
    client.send(&[ping(b"are you?"), head, window(101, 1_000), data(101, true, "x")].concat()).await;
    let back = client.read_until(|back| back.stream(101).is_over() && !back.pongs.is_empty()).await;
    let (acme, _) = family.world.received().await?;
    let text = String::from_utf8_lossy(&back.stream(101).body).into_owned();
    // What is left is the late part of a request that was cut off.
    let asked = acme.iter().filter(|one| !one.requests.is_empty()).count();
    if text == "a|acme|POST /on|1" && asked == 1 { Ok(()) } else { Err(format!("then {back:?} {acme:?}")) }
}
