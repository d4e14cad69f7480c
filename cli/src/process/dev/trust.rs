//! The certificates of `dev`: a CA of its own, kept with the state, and everything below it, issued anew at each start.

use super::layout::Layout;
use crate::commands::ca::{Authority, Subject};
use anyhow::Context;
use cellway_api::identity::{ClientConfig, Identity, IdentityFiles, LiveIdentity, Servers};
use cellway_api::sealing::SecretFiles;
use cellway_core::hostname::Hostname;
use cellway_core::ids::CellName;
use cellway_router::tls::CertificatePair;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How long what is issued is good for: much longer than any `dev` runs.
const DAYS: u64 = 90;

/// What everybody in `dev` is known by.
pub(super) struct Trust {
    authority: Authority,
    dir: PathBuf,
    pub(super) server: CertificatePair,
    secret: PathBuf,
    /// Every hop has TLS, not the browsers' alone.
    pub(super) is_mutual: bool,
}

impl Trust {
    /// Opens or makes the CA, and issues what browsers see.
    pub(super) fn prepare(layout: &Layout, base: &Hostname, is_mutual: bool) -> anyhow::Result<Self> {
        let dir = layout.tls_dir();
        let authority = Authority::open_or_create(&dir)?;
        let server = Subject::server(&[format!("*.{base}"), base.to_string()])?;
        let files = authority.issue_to(&server, DAYS, &dir)?;
        let secret = dir.join("certificates.secret");
        if !secret.exists() {
            write_secret(&secret).with_context(|| format!("{} cannot be written", secret.display()))?;
        }
        let server = CertificatePair { certificate: files.certificate, key: files.key };
        Ok(Self { authority, dir, server, secret, is_mutual })
    }

    /// The CA's certificate, for those who want to trust it.
    pub(super) fn ca(&self) -> PathBuf {
        self.authority.certificate_file()
    }

    /// What keys of the store's certificates are sealed with.
    pub(super) fn secret(&self) -> SecretFiles {
        SecretFiles { secret: self.secret.clone(), previous: None }
    }

    /// Where the operator's certificate is.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The identity of a part, where every hop has TLS.
    pub(super) fn identity(&self, identity: Identity) -> anyhow::Result<Option<Arc<LiveIdentity>>> {
        if !self.is_mutual {
            return Ok(None);
        }
        let wanted = identity.name();
        let files: IdentityFiles = self.authority.issue_to(&Subject::Identity(identity.clone()), DAYS, &self.dir)?;
        Ok(Some(LiveIdentity::load(files, &wanted, |is| *is == identity)?))
    }

    /// The identity of a cell's agent.
    pub(super) fn cell(&self, name: &CellName) -> anyhow::Result<Option<Arc<LiveIdentity>>> {
        self.identity(Identity::Cell(name.clone()))
    }

    /// How `dev` itself reaches the API.
    pub(super) fn operator(&self) -> anyhow::Result<Option<ClientConfig>> {
        let identity = self.identity(Identity::Operator)?;
        Ok(identity.map(|identity| identity.client_config(Servers::ControlPlane)))
    }

    /// The API's URL.
    pub(super) fn api(&self, layout: &Layout) -> String {
        format!("{}://{}", if self.is_mutual { "https" } else { "http" }, layout.api())
    }
}

fn write_secret(path: &Path) -> std::io::Result<()> {
    let secret = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(secret.as_bytes())
}
