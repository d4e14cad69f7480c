//! The clients: wrk for HTTP/1.1, h2load for HTTP/2.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::machine;
use crate::scenario::{Ask, Scenario, Speech, asked_hosts, host};

/// Connections of a load over HTTP/1.1.
const CONNECTIONS: usize = 64;
/// Connections of a load over HTTP/2, and requests under way on each.
const SHARED_CONNECTIONS: usize = 16;
const STREAMS: usize = 8;
/// At a rate, connections begin so far apart: h2load asks for what is due every 10 ms of a connection's life. Those that
/// began together, as handshakes happened to end, would ask together ever after.
const START_APART_MS: u32 = 3;
/// The body of a POST.
const POSTED_BYTES: usize = 16 * 1024;

/// What a load did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Done {
    /// Requests that were answered well.
    pub(crate) requests: u64,
    /// So many in a second.
    pub(crate) requests_per_s: f64,
    /// The time of half of them, at most.
    pub(crate) p50_ms: f64,
    /// The time of the hundredth that took longest, at least.
    pub(crate) p99_ms: f64,
}

/// Where a load runs.
pub(crate) struct Client<'a> {
    /// For its files.
    pub(crate) dir: &'a Path,
    /// Its core.
    pub(crate) core: usize,
}

impl Client<'_> {
    /// Asks as the scenario says for so many seconds: as much as is answered, or at a rate.
    pub(crate) fn ask(
        &self,
        scenario: &Scenario,
        at: SocketAddr,
        (seconds, rate): (u64, Option<f64>),
    ) -> anyhow::Result<Done> {
        // The name that the certificate has beside those of the tenants.
        let secure = format!("https://localhost:{}", at.port());
        let paced = |connections: usize| paced(connections, rate, seconds);
        let http1 = || [vec!["--h1".to_owned()], paced(CONNECTIONS)].concat();
        let done = match scenario.speech {
            Speech::Http1 if rate.is_some() => self.h2load(scenario, &http1(), &format!("http://{at}/1k")),
            Speech::TlsHttp1 if rate.is_some() => self.h2load(scenario, &http1(), &format!("{secure}/1k")),
            Speech::Http1 => self.wrk(scenario, &format!("http://{at}"), seconds),
            Speech::TlsHttp1 => self.wrk(scenario, &secure, seconds),
            Speech::TlsHttp2 => {
                let shared = [paced(SHARED_CONNECTIONS), vec![format!("-m{STREAMS}")]].concat();
                self.h2load(scenario, &shared, &format!("{secure}/1k"))
            }
        }?;
        anyhow::ensure!(done.requests > 0, "{}: nothing was answered", scenario.name);
        Ok(done)
    }

    fn run(&self, program: &str, args: &[String]) -> anyhow::Result<String> {
        let path = machine::program(program).with_context(|| format!("{program} is not installed"))?;
        let core = self.core.to_string();
        let ran = Command::new("taskset").args(["-c", &core]).arg(path).args(args).output();
        let ran = ran.with_context(|| format!("{program} cannot be started"))?;
        let printed = String::from_utf8_lossy(&ran.stdout).into_owned();
        if !ran.status.success() {
            bail!("{program} failed: {}{printed}", String::from_utf8_lossy(&ran.stderr));
        }
        Ok(printed)
    }

    fn wrk(&self, scenario: &Scenario, url: &str, seconds: u64) -> anyhow::Result<Done> {
        let script = self.script(scenario)?.display().to_string();
        let fixed = ["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{seconds}s"), "-s", &script, url];
        let printed = self.run("wrk", &fixed.map(str::to_owned))?;
        let line = printed.lines().find_map(|line| line.strip_prefix(FIGURES)).context("wrk told nothing")?;
        let told: Told = serde_json::from_str(line).with_context(|| format!("what wrk told: {line}"))?;
        // One that refuses is cheap.
        anyhow::ensure!(told.failed == 0, "{}: {} requests failed", scenario.name, told.failed);
        let requests_per_s = told.requests as f64 * 1e6 / told.duration_us.max(1.0);
        let (p50_ms, p99_ms) = (told.p50_us / 1e3, told.p99_us / 1e3);
        Ok(Done { requests: told.requests, requests_per_s, p50_ms, p99_ms })
    }

    /// A script by which wrk asks for one tenant after the other and tells its figures.
    fn script(&self, scenario: &Scenario) -> anyhow::Result<PathBuf> {
        let hosts = self.dir.join(format!("hosts-{}.txt", scenario.name));
        let mut lines = String::new();
        let mut asked = asked_hosts(scenario.tenants).take(scenario.asked);
        asked.try_for_each(|tenant| writeln!(lines, "{}", host(tenant)))?;
        fs::write(&hosts, lines)?;
        let (method, path, body) = match scenario.ask {
            Ask::Small => ("GET", "/1k", "nil".to_owned()),
            Ask::Large => ("GET", "/100k", "nil".to_owned()),
            Ask::Post => ("POST", "/16k", format!("string.rep(\"x\", {POSTED_BYTES})")),
        };
        let close = if scenario.reconnects { "headers[\"Connection\"] = \"close\"" } else { "" };
        let script = self.dir.join(format!("{}.lua", scenario.name));
        let text = format!(
            "local requests, at = {{}}, 0\n\
             function init()\n  for host in io.lines({hosts:?}) do\n    \
             local headers = {{[\"Host\"] = host, [\"User-Agent\"] = \"wrk\", [\"Accept\"] = \"*/*\"}}\n    {close}\n    \
             requests[#requests + 1] = wrk.format({method:?}, {path:?}, headers, {body})\n  end\nend\n\
             function request()\n  at = at % #requests + 1\n  return requests[at]\nend\n\
             function done(summary, latency)\n  local e = summary.errors\n  \
             local failed = e.connect + e.read + e.write + e.status + e.timeout\n  \
             io.write(string.format('{FIGURES}{{\"requests\":%d,\"duration_us\":%d,\"failed\":%d,\"p50_us\":%d,\"p99_us\":%d}}\\n',\n    \
             summary.requests, summary.duration, failed, latency:percentile(50), latency:percentile(99)))\nend\n"
        );
        fs::write(&script, text)?;
        Ok(script)
    }

    fn h2load(&self, scenario: &Scenario, how: &[String], url: &str) -> anyhow::Result<Done> {
        let log = self.dir.join("h2load.log");
        let _ = fs::remove_file(&log);
        let first = asked_hosts(scenario.tenants).next().context("a tenant")?;
        let mut args = how.to_vec();
        args.extend([
            "-t1".to_owned(),
            format!("--log-file={}", log.display()),
            format!("--header=:authority: {}", host(first)),
            url.to_owned(),
        ]);
        let printed = self.run("h2load", &args)?;
        let requests = count(&printed, "succeeded").context("h2load told no requests")?;
        let failed = count(&printed, "failed").unwrap_or(0) + count(&printed, "errored").unwrap_or(0);
        let other = printed.lines().find(|line| line.starts_with("status codes:")).unwrap_or_default();
        anyhow::ensure!(failed == 0 && other.contains(" 0 4xx, 0 5xx"), "h2load: {printed}");
        let log = fs::read_to_string(&log).context("h2load's log")?;
        let mut times: Vec<u64> = log.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse().ok()).collect();
        times.sort_unstable();
        let at_ms = |hundredth: usize| times.get(times.len() * hundredth / 100).copied().unwrap_or(0) as f64 / 1e3;
        let requests_per_s = pace(&printed).context("h2load told no pace")?;
        Ok(Done { requests, requests_per_s, p50_ms: at_ms(50), p99_ms: at_ms(99) })
    }
}

/// What tells h2load how many connections are to ask for how long: as much as is answered, or at a rate of all together.
fn paced(connections: usize, rate: Option<f64>, seconds: u64) -> Vec<String> {
    match rate {
        Some(rate) => vec![
            format!("-c{connections}"),
            format!("--rps={}", rate / connections as f64),
            format!("-n{}", (rate * seconds as f64).round()),
            "-r1".to_owned(),
            format!("--rate-period={START_APART_MS}ms"),
        ],
        None => vec![format!("-c{connections}"), format!("-D{seconds}")],
    }
}

/// Begins the line that a script of wrk tells its figures in.
const FIGURES: &str = "figures: ";

#[derive(Deserialize)]
struct Told {
    requests: u64,
    duration_us: f64,
    failed: u64,
    p50_us: f64,
    p99_us: f64,
}

/// The number before a word in h2load's line of requests.
fn count(printed: &str, word: &str) -> Option<u64> {
    let line = printed.lines().find(|line| line.starts_with("requests:"))?;
    let part = line.split(',').find(|part| part.trim_end().ends_with(word))?;
    part.split_whitespace().rev().nth(1)?.parse().ok()
}

/// The requests per second that h2load tells.
fn pace(printed: &str) -> Option<f64> {
    let line = printed.lines().find(|line| line.starts_with("finished in"))?;
    line.split(',').find_map(|part| part.trim().strip_suffix(" req/s"))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_at_a_rate_begin_apart() {
        assert_eq!(paced(16, Some(3200.0), 2), ["-c16", "--rps=200", "-n6400", "-r1", "--rate-period=3ms"]);
        assert_eq!(paced(16, None, 2), ["-c16", "-D2"]);
    }

    #[test]
    fn what_h2load_tells_is_read() {
        let printed = "requests: 1000 total, 1010 started, 1000 done, 998 succeeded, 1 failed, 1 errored, 0 timeout\n";
        assert_eq!(count(printed, "succeeded"), Some(998));
        assert_eq!(count(printed, "failed"), Some(1));
        assert_eq!(count(printed, "lost"), None);
        assert_eq!(pace("finished in 1.04s, 24187.88 req/s, 25.34MB/s\n"), Some(24187.88));
        assert_eq!(pace(printed), None);
    }
}
