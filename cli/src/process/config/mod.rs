//! The configuration files: one shape per role, strict. An unknown or repeated key, a wrong type or a bad value is an
//! error that shows the line.

mod agent;
mod app;
mod clients;
mod control_plane;
mod exchanges;
mod fields;
mod operation;
mod postgres;
mod router;
mod tls;

pub(crate) use agent::{AgentFile, CommandFields, DriverFile};
pub(crate) use app::AppFile;
pub(crate) use clients::NamingFile;
pub(crate) use control_plane::{ControlPlaneFile, StoreFile};
pub(crate) use fields::{EtcdFields, IdentityFields};
pub(crate) use router::{FeedFile, RouterFile};
pub(crate) use tls::TlsFile;

use crate::output::{self, Failure};
use anyhow::Context;
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// The largest configuration file.
const FILE_MAX_BYTES: u64 = 1024 * 1024;

/// Check configuration files.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Read a file as its role would, and say what is wrong with it.
    ///
    /// The file says its role in the key `role`. Nothing is started and nothing is connected to.
    Check {
        /// The file.
        file: PathBuf,
    },
}

/// A file of any role, told apart by `role`.
#[derive(Debug, Deserialize)]
struct RoleOnly {
    role: Role,
}

/// The roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    /// Follows routes, forwards requests.
    Router,
    /// API, moves.
    ControlPlane,
    /// Gate and mover of a cell.
    Agent,
    /// The demo app.
    App,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Router => "router",
            Self::ControlPlane => "control-plane",
            Self::Agent => "agent",
            Self::App => "app",
        })
    }
}

/// What a role's file has to tell.
pub(crate) trait RoleFile: DeserializeOwned {
    /// Its role.
    const ROLE: Role;
    /// The role that the file names.
    fn role(&self) -> Role;
    /// What is wrong with keys that are good one by one.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Runs `cellway config …`.
pub(crate) fn run(args: ConfigArgs) -> Result<(), Failure> {
    let ConfigCommand::Check { file } = args.command;
    let role = check(&file).map_err(Failure::start_up)?;
    output::talk(&format!("{}: a good configuration of role {role}", file.display()));
    Ok(())
}

/// Reads `file` as the role that it names.
pub(crate) fn check(file: &Path) -> anyhow::Result<Role> {
    check_text(file, &read(file)?)
}

/// Reads the text of `file` as the role that it names.
pub(crate) fn check_text(file: &Path, text: &str) -> anyhow::Result<Role> {
    let RoleOnly { role } = parse(file, text)?;
    match role {
        Role::Router => load_text::<RouterFile>(file, text).map(drop),
        Role::ControlPlane => load_text::<ControlPlaneFile>(file, text).map(drop),
        Role::Agent => load_text::<AgentFile>(file, text).map(drop),
        Role::App => load_text::<AppFile>(file, text).map(drop),
    }?;
    Ok(role)
}

/// Reads `file` as a configuration of `T`'s role.
pub(crate) fn load<T: RoleFile>(file: &Path) -> anyhow::Result<T> {
    load_text(file, &read(file)?)
}

fn load_text<T: RoleFile>(file: &Path, text: &str) -> anyhow::Result<T> {
    let loaded: T = parse(file, text)?;
    anyhow::ensure!(
        loaded.role() == T::ROLE,
        "{}: its role is {}, but {} was to be started",
        file.display(),
        loaded.role(),
        T::ROLE
    );
    loaded.check().map_err(|problem| anyhow::anyhow!("{}: {problem}", file.display()))?;
    Ok(loaded)
}

fn read(file: &Path) -> anyhow::Result<String> {
    let length = std::fs::metadata(file).with_context(|| format!("{} cannot be read", file.display()))?.len();
    anyhow::ensure!(length <= FILE_MAX_BYTES, "{}: {length} bytes, at most {FILE_MAX_BYTES}", file.display());
    std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))
}

fn parse<T: DeserializeOwned>(file: &Path, text: &str) -> anyhow::Result<T> {
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| anyhow::anyhow!("{}: {}", file.display(), readable(&error.to_string(), file)))
}

/// The parser's own words, without its advice to programmers.
fn readable(complaint: &str, file: &Path) -> String {
    complaint
        .trim_start_matches("error: ")
        .replace(", set DuplicateKeyPolicy in Options if acceptable", "")
        .replace("<input>", &file.display().to_string())
}

#[cfg(test)]
mod tests;
