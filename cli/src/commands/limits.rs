//! `cellway tenant limit|pause|read-only|resume`: what a tenant may use, and whether it is served.

use crate::output::{Failure, bytes, facts, or_dash, print};
use crate::reach::{Reach, tenant_id};
use cellway_api::limits::{LimitsView, ModeView, RateView, SetLimits};
use cellway_api::{ApiError, Client};
use clap::{Args, Subcommand};

/// How often a change is made anew because somebody else has changed the same limits.
const ATTEMPTS_MAX: u32 = 5;

#[derive(Debug, Args)]
#[command(after_long_help = "\
Each router keeps limits by itself: with three routers behind one address, a tenant may use up to
three times what is set. Routers follow within a second.

What is over the rate or the concurrency is answered 429 with Retry-After and the standard fields
RateLimit and RateLimit-Policy. Bandwidth is never answered with an error: bodies are slowed down.

Examples:
  cellway tenant limit set acme --requests-per-second 100 --burst 200
  cellway tenant limit set acme --concurrency 20 --bandwidth 10MiB
  cellway tenant limit show acme
  cellway tenant limit clear acme --bandwidth     lift one of them
  cellway tenant limit clear acme                 lift all of them")]
pub(super) struct LimitArgs {
    #[command(subcommand)]
    command: LimitCommand,
}

#[derive(Debug, Subcommand)]
enum LimitCommand {
    /// Limit a tenant. What is not named stays as it is.
    Set(SetArgs),
    /// Show what a tenant may use.
    Show {
        /// The tenant.
        #[arg(value_parser = tenant_id)]
        id: String,
    },
    /// Lift the limits that are named, or all. Whether the tenant is paused stays as it is.
    Clear(ClearArgs),
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(true)
    .args(["requests_per_second", "concurrency", "bandwidth_bytes_per_second", "bandwidth", "error_text"])))]
struct SetArgs {
    /// The tenant.
    #[arg(value_parser = tenant_id)]
    id: String,
    /// Requests in the long run.
    #[arg(long, value_name = "N")]
    requests_per_second: Option<u32>,
    /// Requests at once, after a time without any. Without it: as many as per second.
    #[arg(long, value_name = "N", requires = "requests_per_second")]
    burst: Option<u32>,
    /// Requests and WebSockets at a time.
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,
    /// Bytes of bodies per second, both directions together.
    #[arg(long, value_name = "N", conflicts_with = "bandwidth")]
    bandwidth_bytes_per_second: Option<u64>,
    /// The same with a unit, as in 512KiB, 10MiB or 1GiB.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    bandwidth: Option<u64>,
    /// What the tenant's error pages say below the router's own sentence, as in whom to write to.
    #[arg(long, value_name = "TEXT")]
    error_text: Option<String>,
}

#[derive(Debug, Args)]
struct ClearArgs {
    /// The tenant.
    #[arg(value_parser = tenant_id)]
    id: String,
    /// The limit of requests.
    #[arg(long)]
    requests: bool,
    /// The limit of concurrency.
    #[arg(long)]
    concurrency: bool,
    /// The limit of bandwidth.
    #[arg(long)]
    bandwidth: bool,
    /// The text on error pages.
    #[arg(long)]
    error_text: bool,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
Every request is answered 503 with Retry-After and a page that shows the message; open WebSockets
are closed. Requests that a cell has already admitted finish. Routers follow within a second.

Examples:
  cellway tenant pause acme
  cellway tenant pause acme --message 'Back at 10:00 UTC.' --retry-after-s 600
  cellway tenant resume acme")]
pub(super) struct PauseArgs {
    #[command(flatten)]
    page: PageArgs,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
GET, HEAD and OPTIONS pass. Everything else, and every WebSocket, is answered 503 with Retry-After
and a page that shows the message; open WebSockets are closed. Routers follow within a second.

This trusts the app that GET, HEAD and OPTIONS write nothing.

Examples:
  cellway tenant read-only acme --message 'We are importing your data until noon.'
  cellway tenant resume acme")]
pub(super) struct ReadOnlyArgs {
    #[command(flatten)]
    page: PageArgs,
}

#[derive(Debug, Args)]
struct PageArgs {
    /// The tenant.
    #[arg(value_parser = tenant_id)]
    id: String,
    /// What its page says. Shown as plain text.
    #[arg(long, value_name = "TEXT")]
    message: Option<String>,
    /// When clients shall come again. Without it: 30.
    #[arg(long, value_name = "SECONDS")]
    retry_after_s: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct ResumeArgs {
    /// The tenant.
    #[arg(value_parser = tenant_id)]
    id: String,
}

/// Runs `cellway tenant limit`.
pub(super) async fn limit(args: LimitArgs, client: &Client, reach: &Reach) -> Result<(), Failure> {
    let limits = match args.command {
        LimitCommand::Show { id } => client.limits(&id).await?,
        LimitCommand::Set(set) => change(client, &set.id, |limits| set_named(&set, limits)).await?,
        LimitCommand::Clear(clear) => change(client, &clear.id, |limits| clear_named(&clear, limits)).await?,
    };
    Ok(print(reach.output, &limits, limits_facts)?)
}

/// Runs `cellway tenant pause`.
pub(super) async fn pause(args: PauseArgs, client: &Client, reach: &Reach) -> Result<(), Failure> {
    switch(ModeView::Paused, args.page, client, reach).await
}

/// Runs `cellway tenant read-only`.
pub(super) async fn read_only(args: ReadOnlyArgs, client: &Client, reach: &Reach) -> Result<(), Failure> {
    switch(ModeView::ReadOnly, args.page, client, reach).await
}

/// Runs `cellway tenant resume`.
pub(super) async fn resume(args: ResumeArgs, client: &Client, reach: &Reach) -> Result<(), Failure> {
    let page = PageArgs { id: args.id, message: None, retry_after_s: None };
    switch(ModeView::Open, page, client, reach).await
}

async fn switch(mode: ModeView, page: PageArgs, client: &Client, reach: &Reach) -> Result<(), Failure> {
    let limits = change(client, &page.id, |limits| {
        (limits.mode, limits.message, limits.retry_after_s) = (mode, page.message.clone(), page.retry_after_s);
    })
    .await?;
    Ok(print(reach.output, &limits, limits_facts)?)
}

/// Reads, changes and sets, anew if somebody else was quicker.
async fn change(client: &Client, tenant: &str, make: impl Fn(&mut SetLimits)) -> Result<LimitsView, ApiError> {
    let mut attempt = 1;
    loop {
        let mut wanted = client.limits(tenant).await?.to_set();
        make(&mut wanted);
        match client.set_limits(tenant, &wanted).await {
            Err(ApiError::Refused(problem)) if problem.kind == "conflict" && attempt < ATTEMPTS_MAX => attempt += 1,
            answer => return answer,
        }
    }
}

fn set_named(set: &SetArgs, limits: &mut SetLimits) {
    if let Some(per_second) = set.requests_per_second {
        limits.requests = Some(RateView { per_second, burst: set.burst.unwrap_or(per_second) });
    }
    limits.concurrency = set.concurrency.or(limits.concurrency);
    let bandwidth = set.bandwidth_bytes_per_second.or(set.bandwidth);
    limits.bandwidth_bytes_per_second = bandwidth.or(limits.bandwidth_bytes_per_second);
    limits.error_text = set.error_text.clone().or(limits.error_text.take());
}

fn clear_named(clear: &ClearArgs, limits: &mut SetLimits) {
    let all = !(clear.requests || clear.concurrency || clear.bandwidth || clear.error_text);
    if all || clear.requests {
        limits.requests = None;
    }
    if all || clear.concurrency {
        limits.concurrency = None;
    }
    if all || clear.bandwidth {
        limits.bandwidth_bytes_per_second = None;
    }
    if all || clear.error_text {
        limits.error_text = None;
    }
}

fn limits_facts(limits: &LimitsView) -> String {
    let mut lines = vec![("mode", limits.mode.mode().to_string())];
    if limits.mode != ModeView::Open {
        lines.push(("message", or_dash(limits.message.as_ref())));
        let retry_after_s = limits.retry_after_s.unwrap_or(cellway_core::limit::RETRY_AFTER_S);
        lines.push(("retry after", format!("{retry_after_s} s")));
    }
    lines.push(("requests", or_dash(limits.requests.map(rate_text))));
    lines.push(("concurrency", or_dash(limits.concurrency)));
    let bandwidth = limits.bandwidth_bytes_per_second.map(|bandwidth| format!("{}/s", bytes(bandwidth)));
    lines.push(("bandwidth", or_dash(bandwidth)));
    lines.push(("error text", or_dash(limits.error_text.as_ref())));
    facts(&lines)
}

fn rate_text(rate: RateView) -> String {
    format!("{}/s, burst {}", rate.per_second, rate.burst)
}

/// A tenant's mode and limits in one line.
pub(super) fn summary(limits: &LimitsView) -> String {
    let requests = limits.requests.map(rate_text);
    let concurrency = limits.concurrency.map(|count| format!("{count} at a time"));
    let bandwidth = limits.bandwidth_bytes_per_second.map(|bandwidth| format!("{}/s", bytes(bandwidth)));
    let parts: Vec<String> = [requests, concurrency, bandwidth].into_iter().flatten().collect();
    or_dash((!parts.is_empty()).then(|| parts.join("; ")))
}

/// Reads a size with a unit of 1,000 or 1,024.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches("/s");
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let (number, unit) = digits.split_at(end);
    let factor = match unit.trim() {
        "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err("not a size such as 512KiB, 10MiB or 1GiB".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "not a whole number with a unit, such as 10MiB".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        limit: LimitArgs,
    }

    fn set(line: &str) -> Option<SetArgs> {
        match Line::try_parse_from(line.split_whitespace()).ok()?.limit.command {
            LimitCommand::Set(set) => Some(set),
            _ => None,
        }
    }

    #[test]
    fn what_is_not_named_stays_as_it_is() {
        let before = SetLimits {
            mode: ModeView::Paused,
            requests: Some(RateView { per_second: 1, burst: 2 }),
            concurrency: Some(3),
            ..SetLimits::default()
        };
        let mut limits = before.clone();
        set_named(&set("limit set acme --bandwidth 10MiB").expect("valid"), &mut limits);
        assert_eq!(limits, SetLimits { bandwidth_bytes_per_second: Some(10 << 20), ..before.clone() });
        set_named(&set("limit set acme --requests-per-second 50").expect("valid"), &mut limits);
        assert_eq!(limits.requests, Some(RateView { per_second: 50, burst: 50 }));
        let clear = |requests| ClearArgs {
            id: "acme".into(),
            requests,
            concurrency: false,
            bandwidth: false,
            error_text: false,
        };
        clear_named(&clear(true), &mut limits);
        assert_eq!((limits.requests, limits.concurrency), (None, Some(3)));
        clear_named(&clear(false), &mut limits);
        assert_eq!(limits, SetLimits { mode: ModeView::Paused, ..SetLimits::default() });
    }

    #[test]
    fn a_set_that_sets_nothing_or_twice_is_wrong_usage() {
        for line in [
            "limit set acme",
            "limit set acme --burst 3",
            "limit set acme --bandwidth 1MiB --bandwidth-bytes-per-second 1",
            "limit set acme --bandwidth 10",
            "limit set acme --bandwidth 1.5MiB",
            "limit set acme --concurrency -1",
        ] {
            assert!(set(line).is_none(), "{line}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("10MiB"), Ok(10 << 20));
        assert_eq!(size("3 MB/s"), Ok(3_000_000));
        assert!(size("99999999999GiB").is_err());
    }
}
