//! The app of a cell: it takes a while for each request, and everything that it does is written down.

use crate::chance::Chance;
use crate::world::{Host, LONGEST_REQUEST_MS, Shared};
use anyhow::Context;
use bytes::Bytes;
use cellway_machine::Bound;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// How long a request takes, up to.
const WORK_MAX_MS: u64 = 120;

/// How long one in [`LONG_EVERY`] takes, up to.
const LONG_WORK_MAX_MS: u64 = LONGEST_REQUEST_MS - 50;
const LONG_EVERY: u64 = 8;

/// Serves as the app of a cell until it is dropped.
pub(crate) async fn serve(cell: Host, address: SocketAddr, shared: &Shared) -> anyhow::Result<()> {
    let listener = Bound::new(address)?.start()?;
    let chance = Rc::new(RefCell::new(Chance::of(shared.seed, address.ip().to_string().as_str())));
    loop {
        let (stream, _) = listener.accept().await?;
        let (shared, chance) = (shared.clone(), Rc::clone(&chance));
        tokio::task::spawn_local(async move {
            let work = service_fn(move |request| {
                let work_ms = {
                    let mut chance = chance.borrow_mut();
                    let is_long = chance.within(0..LONG_EVERY) == 0;
                    chance.within(0..if is_long { LONG_WORK_MAX_MS } else { WORK_MAX_MS })
                };
                let shared = shared.clone();
                // It goes on when whoever asked is gone.
                let work = tokio::task::spawn_local(async move { answer(cell, request, &shared, work_ms).await });
                async move { work.await.map_err(io::Error::other) }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), work).await;
        });
    }
}

async fn answer(cell: Host, request: Request<Incoming>, shared: &Shared, work_ms: u64) -> Response<Full<Bytes>> {
    let told = read(&request);
    let whole = request.into_body().collect().await;
    let (tenant, epoch, id) = match (told, whole) {
        (Ok(told), Ok(_)) => told,
        (told, _) => return refused(&format!("{told:?}")),
    };
    let begun = shared.history.begins(cell, &tenant, epoch, id);
    tokio::time::sleep(Duration::from_millis(work_ms)).await;
    drop(begun);
    Response::new(Full::from(cell.name()))
}

fn read(request: &Request<Incoming>) -> anyhow::Result<(String, u64, u64)> {
    let header = |name: &str| request.headers().get(name).context("a header is missing")?.to_str().context("not text");
    let id = request.uri().path().trim_start_matches('/').parse()?;
    Ok((header("x-cellway-tenant")?.to_owned(), header("x-cellway-epoch")?.parse()?, id))
}

fn refused(why: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(why.to_owned()));
    *response.status_mut() = http::StatusCode::BAD_REQUEST;
    response
}
