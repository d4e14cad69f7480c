//! The parts of the router's file about clients: who may speak for them, how they name tenants, what cookies they get.

use super::fields::NetworkField;
use cellway_core::network::Networks;
use cellway_core::route::PathPrefix;
use cellway_router::{CookiePolicy, Forwarding, NamingHeader, TenantNaming, TrustedField};
use serde::Deserialize;

/// Which field trusted proxies write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum TrustedFieldFile {
    /// `X-Forwarded-For` and `X-Forwarded-Proto`.
    #[default]
    XForwardedFor,
    /// `Forwarded`.
    Forwarded,
}

/// What becomes of cookies that go beyond a tenant's own hosts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CookiesFile {
    /// They pass.
    Pass,
    /// They are taken out.
    Deny,
    /// They stay with the host that set them.
    #[default]
    Narrow,
}

impl From<CookiesFile> for CookiePolicy {
    fn from(file: CookiesFile) -> Self {
        match file {
            CookiesFile::Pass => Self::Pass,
            CookiesFile::Deny => Self::Deny,
            CookiesFile::Narrow => Self::Narrow,
        }
    }
}

/// How trusted peers name a tenant otherwise than by its host.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NamingFile {
    trusted: Vec<NetworkField>,
    #[serde(default)]
    header: Option<NamingHeaderField>,
    #[serde(default)]
    path_prefix: Option<PathPrefixField>,
    #[serde(default)]
    strip_path_prefix: bool,
}

impl NamingFile {
    pub(crate) fn naming(self) -> TenantNaming {
        TenantNaming {
            trusted: networks(&self.trusted),
            header: self.header.map(|header| header.0),
            path_prefix: self.path_prefix.map(|prefix| prefix.0),
            strip_path_prefix: self.strip_path_prefix,
        }
    }
}

/// Who is believed about clients, and how cells are told.
pub(crate) fn forwarding(trusted: &[NetworkField], field: TrustedFieldFile, x_forwarded: bool) -> Forwarding {
    let field = match field {
        TrustedFieldFile::XForwardedFor => TrustedField::XForwardedFor,
        TrustedFieldFile::Forwarded => TrustedField::Forwarded,
    };
    Forwarding { trusted: networks(trusted), field, x_forwarded }
}

pub(super) fn networks(fields: &[NetworkField]) -> Networks {
    fields.iter().map(|network| network.0).collect()
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct NamingHeaderField(NamingHeader);

impl TryFrom<String> for NamingHeaderField {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|error: cellway_router::InvalidNamingHeader| error.to_string())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct PathPrefixField(PathPrefix);

impl TryFrom<String> for PathPrefixField {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        PathPrefix::new(&text).map(Self).map_err(|error| error.to_string())
    }
}
