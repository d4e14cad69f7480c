//! The certificates of `dev`: a CA of its own, kept with the state, and everything below it, issued anew at each start.

use super::layout::Layout;
use crate::commands::ca::{Authority, Subject};
use cellway_api::identity::{ClientConfig, Identity, IdentityFiles, LiveIdentity, Servers};
use cellway_core::hostname::Hostname;
use cellway_core::ids::CellName;
use cellway_router::tls::CertificatePair;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How long what is issued is good for: much longer than any `dev` runs.
const DAYS: u64 = 90;

/// What everybody in `dev` is known by.
pub(super) struct Trust {
    authority: Authority,
    dir: PathBuf,
    pub(super) server: CertificatePair,
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
        let server = CertificatePair { certificate: files.certificate, key: files.key };
        Ok(Self { authority, dir, server, is_mutual })
    }

    /// The CA's certificate, for those who want to trust it.
    pub(super) fn ca(&self) -> PathBuf {
        self.authority.certificate_file()
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
