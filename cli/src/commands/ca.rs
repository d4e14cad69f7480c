//! `cellway ca`: a private CA in a directory, and the certificates below it.

mod authority;

pub(crate) use authority::{Authority, Subject};

use crate::output::{Failure, Format, facts, print, talk};
use authority::Issued;
use cellway_api::identity::Identity;
use cellway_core::ids::CellName;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::path::PathBuf;

/// How long a certificate is good for unless asked otherwise: browsers take no server's for longer than 398 days.
const DAYS: u16 = 365;

/// The longest life of a certificate.
const DAYS_MAX: i64 = 3_650;

/// Make a private CA, and issue certificates: identities for cellway's own processes, and servers' for routers.
#[derive(Debug, Args)]
#[command(after_long_help = "\
A name in a certificate is an identity: router.cellway, control-plane.cellway, operator.cellway, <cell>.cell.cellway.
Whoever holds the CA's key can be anybody: keep DIR/ca.key away from the machines that only need certificates.

Examples:
  cellway ca init --dir ca
  cellway ca issue --dir ca control-plane
  cellway ca issue --dir ca router --out /etc/cellway/identity
  cellway ca issue --dir ca cell cell-a --days 90
  cellway ca issue --dir ca operator                    then: export CELLWAY_CA=ca/ca.crt \\
                                                          CELLWAY_CERTIFICATE=ca/operator.crt CELLWAY_KEY=ca/operator.key
  cellway ca issue --dir ca server '*.cells.localhost' cells.localhost 127.0.0.1

To renew one, issue it again to the same place: running processes notice within seconds and close no connection.")]
pub(crate) struct CaArgs {
    /// Where the CA is kept.
    #[arg(long, global = true, value_name = "DIR", default_value = "ca")]
    dir: PathBuf,
    /// How the answer is printed. Keys never are.
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT", default_value_t = Format::Table)]
    output: Format,
    #[command(subcommand)]
    command: CaCommand,
}

#[derive(Debug, Subcommand)]
enum CaCommand {
    /// Make a CA: ca.crt and ca.key (readable by you alone), good for ten years. One that is there is never replaced.
    Init,
    /// Issue a certificate and its key, replacing the ones of an earlier issue.
    Issue(IssueArgs),
}

#[derive(Debug, Args)]
struct IssueArgs {
    /// Where the certificate, its key and a copy of ca.crt go; without it, beside the CA.
    #[arg(long, global = true, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How long it is good for, but never past the CA's own end.
    #[arg(long, global = true, default_value_t = DAYS, value_parser = clap::value_parser!(u16).range(1..=DAYS_MAX))]
    days: u16,
    #[command(subcommand)]
    whose: Whose,
}

#[derive(Debug, Subcommand)]
enum Whose {
    /// For routers: router.crt, router.key.
    Router,
    /// For replicas of the control plane: control-plane.crt, control-plane.key.
    ControlPlane,
    /// For people and programs that operate the fleet: operator.crt, operator.key.
    Operator,
    /// For the agents of a cell: NAME.crt, NAME.key.
    Cell {
        /// The cell.
        #[arg(value_parser = CellName::new)]
        name: CellName,
    },
    /// For what browsers see: named after the first host, with `_` for `*`, as a router's folder of certificates
    /// needs it.
    Server {
        /// Host names, wildcards of one label (*.cells.example) and IP addresses.
        #[arg(required = true, value_name = "HOST")]
        hosts: Vec<String>,
    },
}

/// What was made.
#[derive(Debug, Serialize)]
struct Made {
    names: Vec<String>,
    certificate: PathBuf,
    key: PathBuf,
    ca: PathBuf,
    days: u64,
}

/// Runs `cellway ca …`.
pub(crate) fn run(args: CaArgs) -> Result<(), Failure> {
    let made = match args.command {
        CaCommand::Init => {
            let authority = Authority::create(&args.dir)?;
            talk("Keep ca.key secret: whoever holds it can be any part of the fleet.");
            Made {
                names: vec![authority.name()],
                certificate: authority.certificate_file(),
                key: authority.key_file(),
                ca: authority.certificate_file(),
                days: authority.days_left(),
            }
        }
        CaCommand::Issue(issue) => {
            let authority = Authority::open(&args.dir).map_err(Failure::start_up)?;
            let subject = subject(issue.whose).map_err(Failure::start_up)?;
            let out = issue.out.unwrap_or(args.dir);
            let issued = authority.issue(&subject, u64::from(issue.days))?;
            made(issued.write(&out)?, issued)
        }
    };
    Ok(print(args.output, &made, |made| {
        facts(&[
            ("names", made.names.join(", ")),
            ("certificate", made.certificate.display().to_string()),
            ("key", made.key.display().to_string()),
            ("ca", made.ca.display().to_string()),
            ("good for", format!("{} days", made.days)),
        ])
    })?)
}

fn made(files: cellway_api::identity::IdentityFiles, issued: Issued) -> Made {
    Made { names: issued.names, certificate: files.certificate, key: files.key, ca: files.ca, days: issued.days }
}

fn subject(whose: Whose) -> anyhow::Result<Subject> {
    Ok(match whose {
        Whose::Router => Subject::Identity(Identity::Router),
        Whose::ControlPlane => Subject::Identity(Identity::ControlPlane),
        Whose::Operator => Subject::Identity(Identity::Operator),
        Whose::Cell { name } => Subject::Identity(Identity::Cell(name)),
        Whose::Server { hosts } => Subject::server(&hosts)?,
    })
}
