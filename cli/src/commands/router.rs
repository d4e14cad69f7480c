//! `cellway router status` and `accept-routes`: a running router, by its admin listener.

use crate::output::{Failure, Format, facts, or_dash, print, talk};
use anyhow::{Context, bail, ensure};
use cellway_router::Status;
use cellway_router::drain::Drain;
use cellway_router::feed::guard::{Reason, Refusal, Word};
use clap::{Args, Subcommand};
use reqwest::{Client, Response};
use std::time::Duration;

/// Of the ports of `cellway dev` from the base on: the router's admin listener.
const ADMIN_PORT_OFFSET: u16 = 3;

/// The longest wait for an answer.
const ANSWER_MS: u64 = 5_000;

/// How long accepted routes are waited for: the router lists them again first.
const APPLIED_MS: u64 = 30_000;
/// Between two looks at them.
const LOOK_MS: u64 = 100;

/// Where the router is.
#[derive(Debug, Clone, Args)]
pub(crate) struct RouterReach {
    /// Its admin listener, as in http://127.0.0.1:8083. Without it: found by --port-base.
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// The first port of a `cellway dev` on this machine; its router's admin listener is three ports above.
    #[arg(long, value_name = "PORT", default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..=65_000))]
    port_base: u16,
    /// How the answer is printed.
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = Format::Table)]
    output: Format,
}

/// What is asked of a running router.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum RouterCommand {
    /// Show connections, requests, tunnels, holds, and how far its routes are.
    Status(RouterReach),
    /// Let a router apply routes that it refuses: those that it shows now, once.
    ///
    /// A router refuses routes of a lower revision than its own, of another cluster, and those that drop many tenants
    /// at once, and goes on serving what it has. Every reason of the refusal has to be named.
    AcceptRoutes(AcceptArgs),
}

#[derive(Debug, Clone, Args)]
#[command(after_long_help = "\
Examples:
  cellway router status                        shows what is refused, and why
  cellway router accept-routes --mass-drop     hundreds of tenants were deleted on purpose
  cellway router accept-routes --lower-revision   the store was restored from a backup")]
pub(crate) struct AcceptArgs {
    #[command(flatten)]
    reach: RouterReach,
    /// Their revision is below the table's: the store was restored from a backup, on purpose.
    #[arg(long)]
    lower_revision: bool,
    /// They are of another cluster: the routes moved to another store, on purpose.
    #[arg(long)]
    other_cluster: bool,
    /// They drop many tenants: those were deleted, on purpose.
    #[arg(long)]
    mass_drop: bool,
}

/// Runs the commands.
pub(crate) async fn run(command: RouterCommand) -> Result<(), Failure> {
    match command {
        RouterCommand::Status(reach) => {
            let status = Admin::of(&reach)?.status().await?;
            Ok(print(reach.output, &status, shown)?)
        }
        RouterCommand::AcceptRoutes(args) => Ok(accept(args).await?),
    }
}

async fn accept(args: AcceptArgs) -> anyhow::Result<()> {
    let admin = Admin::of(&args.reach)?;
    let Some(refusal) = admin.status().await?.refused else {
        bail!("the router at {} refuses no routes", admin.base);
    };
    talk(&format!("refused: {refusal}"));
    let accepted = |reason: &Reason| match reason {
        Reason::LowerRevision => args.lower_revision,
        Reason::OtherCluster => args.other_cluster,
        Reason::MassDrop => args.mass_drop,
    };
    let missing: Vec<&Reason> = refusal.reasons.iter().filter(|reason| !accepted(reason)).collect();
    if !missing.is_empty() {
        bail!("if this is meant, name {} too: {}", if missing.len() == 1 { "it" } else { "them" }, flags(&missing));
    }
    admin.accept(&Word { reasons: refusal.reasons.clone(), told: refusal.told.clone() }).await?;
    let status = admin.applied(&refusal).await?;
    print(args.reach.output, &status, shown)
}

fn flags(reasons: &[&Reason]) -> String {
    let flags = reasons.iter().map(|reason| format!("--{}", reason.name().replace('_', "-")));
    flags.collect::<Vec<_>>().join(" ")
}

struct Admin {
    base: String,
    http: Client,
}

impl Admin {
    fn of(reach: &RouterReach) -> anyhow::Result<Self> {
        let by_port = || format!("http://127.0.0.1:{}", reach.port_base.saturating_add(ADMIN_PORT_OFFSET));
        let base = reach.admin.as_deref().map_or_else(by_port, |url| url.trim_end_matches('/').to_owned());
        ensure!(base.starts_with("http://"), "the admin listener's address must begin with http://, not {base:?}");
        let http = Client::builder().no_proxy().timeout(Duration::from_millis(ANSWER_MS)).build()?;
        Ok(Self { base, http })
    }

    async fn status(&self) -> anyhow::Result<Status> {
        let answer = self.heard(self.http.get(format!("{}/status", self.base)).send().await).await?;
        answer.json().await.with_context(|| format!("what answers at {} is not a router of this version", self.base))
    }

    async fn accept(&self, word: &Word) -> anyhow::Result<()> {
        let url = format!("{}/routes/accept", self.base);
        self.heard(self.http.post(url).json(word).send().await).await.map(drop)
    }

    async fn heard(&self, answer: reqwest::Result<Response>) -> anyhow::Result<Response> {
        let answer = answer.with_context(|| {
            format!("no router's admin listener answers at {}; say where it is with --admin", self.base)
        })?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let said = answer.text().await.unwrap_or_default();
        bail!("{status} from {}: {}", self.base, said.trim_end())
    }

    /// Waits until the routes are applied, or refused again.
    async fn applied(&self, accepted: &Refusal) -> anyhow::Result<Status> {
        for _ in 0..APPLIED_MS / LOOK_MS {
            tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
            let status = self.status().await?;
            match &status.refused {
                None => return Ok(status),
                Some(refusal) if refusal != accepted => bail!("listed again, they are refused again: {refusal}"),
                Some(_) => {}
            }
        }
        bail!("accepted, but the source has not told its routes again within {APPLIED_MS} ms")
    }
}

fn shown(status: &Status) -> String {
    let yes_or_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let routes = match (status.loaded, status.synced) {
        (false, _) => "none yet".to_owned(),
        (true, true) => "in step".to_owned(),
        (true, false) => "stale".to_owned(),
    };
    let refused = status.refused.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string);
    let drain = status.drain.as_ref().map_or_else(|| "none".to_owned(), drain_shown);
    let predecessors: Vec<String> = status
        .predecessors
        .iter()
        .map(|one| format!("process {} ({}): {}", one.process, one.version, drain_shown(&one.drain)))
        .collect();
    let predecessors = if predecessors.is_empty() { "none".to_owned() } else { predecessors.join("; ") };
    facts(&[
        ("version", status.version.clone()),
        ("draining", yes_or_no(status.draining)),
        ("connections", status.connections.to_string()),
        ("requests open", status.requests_open.to_string()),
        ("tunnels", status.tunnels_open.to_string()),
        ("held", status.held.to_string()),
        ("routes", routes),
        ("cluster", or_dash(status.cluster.as_ref())),
        ("revision", status.revision.to_string()),
        ("feed heard", format!("{:.1} s ago", status.feed_silence_seconds)),
        ("tenants", status.tenants.to_string()),
        ("hosts", status.hosts.to_string()),
        ("cells", status.cells.to_string()),
        ("refused", refused),
        ("own drain", drain),
        ("replaced", predecessors),
    ])
}

fn drain_shown(drain: &Drain) -> String {
    let Drain { connections, streams, tenants, seconds_left } = drain;
    format!("{connections} connections, {streams} streams of {tenants} tenants, {seconds_left:.0} s left")
}
