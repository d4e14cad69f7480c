//! Values that are checked as they are read, so that the error shows their line.

use cellway_core::hostname::Hostname;
use cellway_core::ids::CellName;
use cellway_core::network::{InvalidNetwork, Network};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// An address of this machine: without TLS on a hop nothing else may be listened on or connected to.
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

/// The base URL of a control plane on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct ApiField(pub(crate) String);

impl TryFrom<String> for ApiField {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
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
