//! `cellway certificate`: certificates that the store keeps for all routers.

use crate::output::{Failure, Format, Table, facts, print, talk};
use crate::reach::Reach;
use anyhow::Context;
use cellway_api::certificate;
use cellway_api::certificates::{CertificateView, SealedAgain, SetCertificate};
use cellway_api::fleet::Listing;
use cellway_core::certificate::CertificateName;
use cellway_core::hostname::InvalidHostname;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// How much of a fingerprint a table shows.
const FINGERPRINT_SHOWN: usize = 16;

/// A certificate of a host, for all routers.
///
/// `--certificate` and `--key` are what is to be kept; whose certificate you call the API with is said by
/// `--my-certificate` and `--my-key`.
#[derive(Debug, Args)]
#[command(mut_arg("certificate", |arg| arg.long("my-certificate")), mut_arg("key", |arg| arg.long("my-key")))]
#[command(after_long_help = "\
The control plane checks a certificate and seals its key before it stores it; only routers with the same
secret (`tls: stored:` in their file) can open it. They use a changed certificate for new handshakes
within a second, and close no connection. A name gets what the router's own file names before what is
kept here, and that before its folder; a host's own certificate goes before a wildcard's.

Examples:
  cellway certificate set shop.example --certificate fullchain.pem --key privkey.pem
  cellway certificate set '*.cells.example' --certificate fullchain.pem --key privkey.pem
  cellway certificate list
  cellway certificate list -o json
  cellway certificate remove shop.example
  cellway certificate seal-again           after a change of the secret")]
pub(crate) struct CertificateArgs {
    #[command(flatten)]
    reach: Reach,
    #[command(subcommand)]
    command: CertificateCommand,
}

#[derive(Debug, Subcommand)]
enum CertificateCommand {
    /// Keep a certificate under a host's name, in the place of the one before.
    Set(SetArgs),
    /// List the certificates: names, ends, fingerprints. Keys are never shown.
    List,
    /// Remove a certificate. New handshakes get what else covers the host; connections go on.
    Remove {
        /// What it is kept under.
        #[arg(value_parser = certificate_name)]
        name: String,
    },
    /// Seal all keys with the control plane's secret of now, so that the previous one can be taken away.
    SealAgain,
}

#[derive(Debug, Args)]
struct SetArgs {
    /// A host that the certificate is for, or a wildcard as in '*.cells.example'. A certificate for several hosts is
    /// kept under each of them.
    #[arg(value_parser = certificate_name)]
    name: String,
    /// The chain in PEM form, the host's own certificate first.
    #[arg(id = "chain", long = "certificate", value_name = "FILE")]
    chain: PathBuf,
    /// Its private key in PEM form. It may be in the same file.
    #[arg(id = "chain_key", long = "key", value_name = "FILE")]
    chain_key: PathBuf,
}

fn certificate_name(text: &str) -> Result<String, InvalidHostname> {
    CertificateName::from_text(text).map(|name| name.to_string())
}

/// Runs `cellway certificate`.
pub(crate) async fn run(args: CertificateArgs) -> Result<(), Failure> {
    let client = args.reach.client()?;
    let output = args.reach.output;
    match args.command {
        CertificateCommand::Set(SetArgs { name, chain, chain_key }) => {
            let set = SetCertificate { certificate: pem(&chain, false)?, key: pem(&chain_key, true)? };
            Ok(print(output, &client.set_certificate(&name, &set).await?, shown)?)
        }
        CertificateCommand::List => Ok(print(output, &client.certificates().await?, table)?),
        CertificateCommand::Remove { name } => Ok(print(output, &client.remove_certificate(&name).await?, shown)?),
        CertificateCommand::SealAgain => seal_again(&client, output).await,
    }
}

/// A file's text; one with a key has to be a secret.
fn pem(path: &std::path::Path, is_key: bool) -> anyhow::Result<String> {
    let read = if is_key { certificate::read_key(path) } else { certificate::read(path) };
    String::from_utf8(read?).ok().with_context(|| format!("{} is not in PEM form", path.display()))
}

async fn seal_again(client: &cellway_api::Client, output: Format) -> Result<(), Failure> {
    let mut all = client.seal_certificates_again().await?;
    while all.left > 0 {
        talk(&format!("{} sealed, {} left", all.sealed, all.left));
        let more = client.seal_certificates_again().await?;
        all = SealedAgain { sealed: all.sealed + more.sealed, ..more };
    }
    print(output, &all, |all| {
        let mut text = facts(&[("sealed", all.sealed.to_string()), ("secret", all.sealed_with.clone())]);
        for one in &all.refused {
            text.push_str(&facts(&[("refused", format!("{}: {}", one.name, one.reason))]));
        }
        text
    })?;
    if all.refused.is_empty() { Ok(()) } else { Err(Failure::Said) }
}

fn shown(view: &CertificateView) -> String {
    facts(&[
        ("name", view.name.clone()),
        ("names covered", view.names.join(", ")),
        ("ends at", certificate::date(view.ends_at_s)),
        ("fingerprint", view.fingerprint.clone()),
        ("sealed with", view.sealed_with.clone()),
    ])
}

fn table(listing: &Listing<CertificateView>) -> String {
    let mut table = Table::new(&["NAME", "NAMES COVERED", "ENDS AT", "FINGERPRINT", "SEALED WITH"]);
    for view in &listing.items {
        let fingerprint = view.fingerprint.chars().take(FINGERPRINT_SHOWN).collect();
        let ends = certificate::date(view.ends_at_s);
        table.row([view.name.clone(), view.names.join(", "), ends, fingerprint, view.sealed_with.clone()]);
    }
    table.or("The store keeps no certificates.")
}
