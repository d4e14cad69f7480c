//! Runs a command against a fleet of real processes on a real etcd: `cellway-fleet COMMAND…`, with `{port_base}` in the
//! arguments replaced. Without a command it stays up until Ctrl-C.

#![allow(clippy::print_stderr, reason = "it talks to who started it")]

use cellway_end_to_end::fleet::Fleet;
use std::process::{Command, ExitCode};

const TENANTS: [&str; 12] = [
    "acme",
    "globex",
    "initech",
    "umbrella",
    "hooli",
    "soylent",
    "stark",
    "wayne",
    "wonka",
    "tyrell",
    "cyberdyne",
    "vandelay",
];

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let fleet = Fleet::start(&TENANTS).await;
    let base = fleet.ports.base.to_string();
    let words: Vec<String> = std::env::args().skip(1).map(|word| word.replace("{port_base}", &base)).collect();
    let Some((program, args)) = words.split_first() else {
        eprintln!("the fleet is up: --port-base {base}");
        tokio::signal::ctrl_c().await?;
        return Ok(ExitCode::SUCCESS);
    };
    let status = Command::new(program).args(args).status()?;
    drop(fleet);
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)))
}
