//! Who our processes are to each other. A name in a certificate is an identity: `router.cellway`,
//! `control-plane.cellway`, `operator.cellway`, and `<cell>.cell.cellway` for everything in a cell.
//!
//! [`LiveIdentity`] is a process's own: read from files, read again when they change, and the maker of the TLS
//! configurations that present it and demand the others'. All of it is TLS 1.3, mutual, below one private CA.

mod files;
mod live;
mod verify;

pub use files::{IdentityError, IdentityFiles};
pub use live::{EXPIRY_WARNING_S, LiveIdentity, RELOAD_EVERY_MS, trusting};
pub use rustls::ClientConfig;
pub use verify::{Callers, Servers, WrongIdentity};

use crate::certificate::CertificateFacts;
use cellway_core::ids::CellName;
use rustls::pki_types::ServerName;
use std::fmt;

/// Below it are all identities; no public CA issues for it.
const SUFFIX: &str = ".cellway";
const ROUTER: &str = "router.cellway";
const CONTROL_PLANE: &str = "control-plane.cellway";
const OPERATOR: &str = "operator.cellway";
const CELL_SUFFIX: &str = ".cell.cellway";

/// Who somebody is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// A router.
    Router,
    /// A replica of the control plane.
    ControlPlane,
    /// Something in this cell: its agents.
    Cell(CellName),
    /// A person or a program that operates the fleet.
    Operator,
}

/// Why a certificate gives no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoIdentity {
    /// It cannot be read.
    #[error("the certificate cannot be read: {0}")]
    Damaged(String),
    /// It has no name below the suffix.
    #[error("the certificate has no name below {SUFFIX}, as in {ROUTER} or cell-a{CELL_SUFFIX}")]
    Nameless,
    /// It has more than one.
    #[error("the certificate has more than one name below {SUFFIX}: {0}")]
    Ambiguous(String),
    /// The name is none of ours.
    #[error("{0:?} is no identity: {ROUTER}, {CONTROL_PLANE}, {OPERATOR} and <cell>{CELL_SUFFIX} are")]
    Unknown(String),
}

impl Identity {
    /// Its name in a certificate.
    pub fn name(&self) -> String {
        match self {
            Self::Router => ROUTER.to_owned(),
            Self::ControlPlane => CONTROL_PLANE.to_owned(),
            Self::Operator => OPERATOR.to_owned(),
            Self::Cell(cell) => format!("{cell}{CELL_SUFFIX}"),
        }
    }

    /// The identity of this name, in lower case.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            ROUTER => Some(Self::Router),
            CONTROL_PLANE => Some(Self::ControlPlane),
            OPERATOR => Some(Self::Operator),
            _ => CellName::new(name.strip_suffix(CELL_SUFFIX)?).ok().map(Self::Cell),
        }
    }

    /// Its name as TLS asks for it.
    #[expect(clippy::expect_used, reason = "fixed names and labels of at most 63 bytes are DNS names")]
    pub fn server_name(&self) -> ServerName<'static> {
        ServerName::try_from(self.name()).expect("fixed names and labels of at most 63 bytes are DNS names")
    }

    /// The identity that a certificate in DER form gives. It has exactly one: a certificate that may be two parties
    /// is a mistake. Whether the certificate can be trusted is for the handshake to say.
    pub fn of_certificate(certificate: &[u8]) -> Result<Self, NoIdentity> {
        let facts = CertificateFacts::of(certificate).map_err(|error| NoIdentity::Damaged(error.to_string()))?;
        Self::of_names(&facts.names)
    }

    fn of_names(names: &[Box<str>]) -> Result<Self, NoIdentity> {
        let ours: Vec<&str> = names.iter().map(AsRef::as_ref).filter(|name| name.ends_with(SUFFIX)).collect();
        match ours[..] {
            [] => Err(NoIdentity::Nameless),
            [name] => Self::from_name(name).ok_or_else(|| NoIdentity::Unknown(name.to_owned())),
            _ => Err(NoIdentity::Ambiguous(ours.join(", "))),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

#[cfg(test)]
mod tests;
