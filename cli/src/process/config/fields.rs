//! Values that are checked as they are read, so that the error shows their line.

use cellway_api::identity::{Identity, IdentityFiles, LiveIdentity};
use cellway_api::sealing::SecretFiles;
use cellway_core::hostname::Hostname;
use cellway_core::ids::CellName;
use cellway_core::network::{InvalidNetwork, Network};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// An address to listen on. Whether it may be off this machine depends on what else the file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Address(pub(crate) SocketAddr);

impl TryFrom<String> for Address {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| format!("{text:?} is not an address such as 127.0.0.1:8080"))
    }
}

impl Address {
    /// Refuses an address off this machine.
    pub(super) fn need_loopback(self, key: &str, without: &str) -> Result<(), String> {
        match self.0.ip().is_loopback() {
            true => Ok(()),
            false => Err(format!(
                "{key}: {}: without {without} only loopback addresses (127.0.0.1, ::1) are allowed",
                self.0
            )),
        }
    }
}

/// Who a process is towards the others: `cellway ca issue` makes the files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IdentityFields {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) ca: PathBuf,
}

impl IdentityFields {
    /// Reads the files, which must be of `wanted`.
    pub(crate) fn load(self, wanted: &Identity) -> anyhow::Result<Arc<LiveIdentity>> {
        let files = IdentityFiles { certificate: self.certificate, key: self.key, ca: self.ca };
        Ok(LiveIdentity::load(files, &wanted.name(), |is| is == wanted)?)
    }
}

/// The secrets of the store's certificates, in the router's file and in the control plane's.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SecretFields {
    secret: PathBuf,
    #[serde(default)]
    previous: Option<PathBuf>,
}

impl From<SecretFields> for SecretFiles {
    fn from(fields: SecretFields) -> Self {
        Self { secret: fields.secret, previous: fields.previous }
    }
}

/// An address of this machine: this hop has no TLS, so nothing else may be listened on or connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Loopback(pub(crate) SocketAddr);

impl TryFrom<String> for Loopback {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let address: SocketAddr =
            text.parse().map_err(|_| format!("{text:?} is not an address such as 127.0.0.1:8080"))?;
        if address.ip().is_loopback() {
            return Ok(Self(address));
        }
        Err(format!("{text}: this hop has no TLS, so only loopback addresses (127.0.0.1, ::1) are allowed"))
    }
}

/// A host name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct HostField(pub(crate) Hostname);

impl TryFrom<String> for HostField {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Hostname::from_text(&text).map(Self).map_err(|error| format!("{text:?} is no host name: {error}"))
    }
}

/// A network, or a single address.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct NetworkField(pub(crate) Network);

impl TryFrom<String> for NetworkField {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|error: InvalidNetwork| error.to_string())
    }
}

/// A cell's name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct CellField(pub(crate) CellName);

impl TryFrom<String> for CellField {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        CellName::new(&text).map(Self).map_err(|error| error.to_string())
    }
}

/// The base URL of a control plane: in clear on this machine, or over TLS.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct ApiField(pub(crate) String);

impl TryFrom<String> for ApiField {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("https://") {
            let authority = rest.trim_end_matches('/');
            let good = !authority.is_empty() && !authority.contains(['/', '?', '#', '@', ' ']);
            let problem = || format!("{text:?} is not a URL such as https://10.0.0.1:8082");
            return good.then(|| Self(format!("https://{authority}"))).ok_or_else(problem);
        }
        let address = text.strip_prefix("http://").map(|rest| rest.trim_end_matches('/').to_owned());
        let address = address.ok_or_else(|| format!("{text:?} is not a URL such as http://127.0.0.1:8082"))?;
        Loopback::try_from(address).map(|Loopback(address)| Self(format!("http://{address}")))
    }
}

/// Where etcd is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EtcdFields {
    /// Its endpoints.
    pub(crate) endpoints: Vec<String>,
    /// In front of every key.
    #[serde(default)]
    pub(crate) prefix: Option<String>,
}

/// The domains that routers serve, in the router's file and in the control plane's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DomainFields {
    pub(crate) base: Vec<HostField>,
    pub(crate) reserved: BTreeSet<String>,
}

impl DomainFields {
    pub(crate) fn domains(&self) -> cellway_core::route::Domains {
        cellway_core::route::Domains {
            base: self.base.iter().map(|host| host.0.clone()).collect(),
            reserved: self.reserved.clone(),
        }
    }
}

pub(super) fn reserved_labels() -> BTreeSet<String> {
    cellway_core::route::RESERVED_LABELS.map(str::to_owned).into()
}
