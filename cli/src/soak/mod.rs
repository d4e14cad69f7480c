//! `cellway soak`: drives a running system while tenants are moved at random, and checks every promise.

mod checker;
mod connection;
mod history;
mod latency;
mod ledger;
mod movements;
mod plan;
mod prepare;
mod progress;
mod readback;
mod report;
mod requests;
mod streams;
mod tally;
mod traffic;

use crate::output::{Failure, print, talk};
use crate::reach::Reach;
use anyhow::Context;
use cellway_api::Client;
use cellway_api::fleet::TenantView;
use clap::Args;
use connection::{Connections, Tls, Transport};
use ledger::Ledger;
use movements::{Moved, Wanted};
use prepare::{Found, TENANTS_MAX};
use readback::Records;
use report::Report;
use requests::Bodies;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tally::Tally;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Between the starts of two moves, unless --duration spreads them.
const MOVE_PACE_MS: u64 = 250;

/// A run without moves lasts so long, unless --duration says otherwise.
const WITHOUT_MOVES_S: u64 = 10;

#[derive(Debug, Args)]
#[command(after_long_help = "\
Drives the demo app of a running system (by default `cellway dev`) through its router: reads, writes of known length
and chunked (90 % up to 4 KiB, 9 % up to 64 KiB, 1 % up to 4 MiB), slow uploads, WebSockets and event streams, over
keep-alive connections that all tenants share. Meanwhile tenants are moved at random. No request is ever repeated.
Afterwards every tenant's log is read back: each acknowledged write must be there once, as it was sent, in order, in
the cell and the epoch that the placements name.

Examples:
  cellway soak                                    100 moves at 200 requests/s, on `cellway dev`
  cellway soak --tenants 50 --moves 1000 --rps 500
  cellway soak --moves 40 --duration 10m          spreads the moves over the time
  cellway soak --https --http2 --ca .cellway/dev/tls/ca.crt
  cellway soak --seed 7 -o json > report.json     the same plan as any other run with this seed

Exits with 1 if a promise was broken or fewer than 95 % of the moves got past `switched`. Ctrl-C ends the traffic
and still checks what was sent.")]
pub(crate) struct SoakArgs {
    #[command(flatten)]
    reach: Reach,
    /// How many moves to start.
    #[arg(long, default_value_t = 100)]
    moves: u64,
    /// How many moves may be on their way at once.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    moves_at_once: u16,
    /// Requests started per second, whether the system keeps up or not.
    #[arg(long, default_value_t = 200.0, value_parser = rate)]
    rps: f64,
    /// At least so long, as in 90s, 10m or 1h. Default: as long as the moves take.
    #[arg(long, value_parser = duration)]
    duration: Option<Duration>,
    /// What the plan is made from. Default: another one each time, which is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Drive so many tenants; missing ones are created. Default: all that are in cells with agents.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(TENANTS_MAX)))]
    tenants: Option<u32>,
    /// WebSockets to keep open.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(..=1_000))]
    websockets: u16,
    /// Event streams to keep open.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(..=1_000))]
    feeds: u16,
    /// Send no uploads that take 30 ms to 2 s: what is held then waits for ordinary requests only.
    #[arg(long)]
    no_slow_uploads: bool,
    /// Where a router is; may be repeated: connections are spread over all, and one that refuses them is passed over.
    /// Default: by --port-base.
    #[arg(long, value_name = "HOST:PORT")]
    router: Vec<String>,
    /// Speak HTTP/2: four connections that all requests share. WebSockets and event streams stay on HTTP/1.1.
    #[arg(long)]
    http2: bool,
    /// Speak TLS, to the router's second port; --ca names whom its certificate must be of.
    #[arg(long, requires = "ca")]
    https: bool,
    /// The base domain that tenants' ids are put before.
    #[arg(long, default_value = "cells.localhost")]
    domain: String,
}

impl SoakArgs {
    fn transport(&self) -> anyhow::Result<Transport> {
        let tls = match self.https {
            true => Some(Tls {
                config: Arc::new(self.reach.trusting_ca()?),
                server_name: self
                    .domain
                    .clone()
                    .try_into()
                    .context("--domain is no name that a certificate can cover")?,
            }),
            false => None,
        };
        let routers = match self.router.as_slice() {
            [] => vec![self.reach.router(self.https)],
            routers => routers.to_vec(),
        };
        Ok(Transport { routers, http2: self.http2, tls })
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= 100_000.0 => Ok(rate),
        _ => Err("a number of requests per second, above 0 and at most 100000".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit_s) = match text.trim_end_matches(|c: char| c.is_ascii_alphabetic()) {
        number if number.len() == text.len() => (number, 1),
        number => match &text[number.len()..] {
            "s" => (number, 1),
            "m" => (number, 60),
            "h" => (number, 3_600),
            unit => return Err(format!("{unit:?} is no unit: use s, m or h")),
        },
    };
    let number: u64 = number.parse().map_err(|_| "write it as 90s, 10m or 1h".to_owned())?;
    Ok(Duration::from_secs(number.saturating_mul(unit_s)))
}

/// A tenant that is driven.
#[derive(Debug)]
struct DrivenTenant {
    id: String,
    host: String,
    /// As it was before the run.
    first: TenantView,
    moving: AtomicBool,
}

impl DrivenTenant {
    fn is_moving(&self) -> bool {
        self.moving.load(Ordering::Relaxed)
    }
}

/// One run: everything that its parts share.
struct Run {
    /// Begins the ids of all that it writes; never the same twice.
    id: String,
    seed: u64,
    tenants: Vec<DrivenTenant>,
    connections: Connections,
    ledger: Ledger,
    bodies: Bodies,
    tally: Tally,
    began: Instant,
    stop: CancellationToken,
}

impl Run {
    fn new(seed: u64, found: Vec<Found>, connections: Connections) -> Self {
        let counts: Vec<i64> = found.iter().map(|one| one.entries).collect();
        let tenants = found.into_iter().map(|one| DrivenTenant {
            id: one.view.id.clone(),
            host: one.host,
            first: one.view,
            moving: AtomicBool::new(false),
        });
        Self {
            id: format!("soak-{:016x}", rand::random::<u64>()),
            seed,
            tenants: tenants.collect(),
            connections,
            ledger: Ledger::new(&counts),
            bodies: Bodies::new(seed),
            tally: Tally::default(),
            began: Instant::now(),
            stop: CancellationToken::new(),
        }
    }

    /// How far into the run it is.
    fn clock(&self) -> String {
        format!("{:.1} s", self.began.elapsed().as_secs_f64())
    }
}

/// Runs `cellway soak`.
pub(crate) async fn run(args: SoakArgs) -> Result<(), Failure> {
    let client = args.reach.client()?;
    let seed = args.seed.unwrap_or_else(rand::random);
    let transport = args.transport().map_err(Failure::start_up)?;
    let routers = transport.routers.clone();
    let router = routers.join(" and ");
    let connections = Connections::new(transport);
    let wanted = prepare::Wanted { tenants: args.tenants, moves: args.moves > 0, domain: &args.domain };
    let found = prepare::prepare(&client, &connections, &routers, &wanted).await.map_err(Failure::start_up)?;

    let run = Arc::new(Run::new(seed, found, connections));
    talk(&format!("run {}, seed {seed}: {} tenants through {router}", run.id, run.tenants.len()));
    let (moved, interrupted) = drive(&run, &client, &args).await;
    let took = run.began.elapsed();

    talk("reading every log back");
    let records = Records::read(&client, &moved.moves).await?;
    readback::check_all(&run, &records).await;
    let report = Report::new(&run, &moved, &records, took, interrupted);
    let printed = print(args.reach.output, &report, Report::as_text);
    // Also where nobody reads the report.
    if report.broken_promises.is_empty() { Ok(printed?) } else { Err(Failure::Said) }
}

/// Sends and moves until the moves have ended and the time is over, or until somebody interrupts it. When this returns
/// nothing is in flight any more.
async fn drive(run: &Arc<Run>, client: &Client, args: &SoakArgs) -> (Moved, bool) {
    let without_moves = Duration::from_secs(if args.moves == 0 { WITHOUT_MOVES_S } else { 0 });
    let at_least = args.duration.unwrap_or(without_moves);
    let pace = match (args.duration, u32::try_from(args.moves)) {
        (Some(duration), Ok(moves)) if moves > 0 => duration / moves,
        _ => Duration::from_millis(MOVE_PACE_MS),
    };
    let wanted = Wanted { moves: args.moves, at_once: args.moves_at_once.into(), pace };

    let tasks = TaskTracker::new();
    tasks.spawn(traffic::send_requests(Arc::clone(run), args.rps));
    if !args.no_slow_uploads {
        tasks.spawn(traffic::send_slow_uploads(Arc::clone(run)));
        tasks.spawn(traffic::send_brief_uploads(Arc::clone(run)));
    }
    tasks.spawn(streams::keep_open(Arc::clone(run), args.websockets.into(), args.feeds.into()));
    let shown = Arc::clone(run);
    tasks.spawn(async move { progress::show(&shown, wanted, at_least).await });
    let interruption = CancellationToken::new();
    let (stop, interrupted) = (run.stop.clone(), interruption.clone());
    let watching = tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            interrupted.cancel();
            stop.cancel();
        }
    });

    let moved = movements::drive(run, client, wanted).await;
    let _ = run.stop.run_until_cancelled(tokio::time::sleep_until(run.began + at_least)).await;
    run.stop.cancel();
    tasks.close();
    tasks.wait().await;
    watching.abort();
    (moved, interruption.is_cancelled())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        let seconds = |text| duration(text).map(|duration| duration.as_secs()).ok();
        assert_eq!(["90", "90s", "2m", "1h"].map(seconds), [Some(90), Some(90), Some(120), Some(3_600)]);
        assert_eq!(["", "m", "1d", "-1s", "1.5m"].map(seconds), [None; 5]);
    }

    #[test]
    fn a_rate_is_a_positive_number() {
        assert_eq!(rate("0.5"), Ok(0.5));
        assert!(["0", "-1", "NaN", "inf", "x"].iter().all(|text| rate(text).is_err()));
    }
}
