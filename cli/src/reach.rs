//! Where the running system is reached: its API and its router.

use crate::output::{Failure, Format};
use anyhow::Context;
use cellway_api::Client;
use cellway_api::identity::{ClientConfig, IdentityFiles, LiveIdentity, Servers, trusting};
use cellway_core::ids::{CellName, InvalidId, MoveId, TenantId};
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

/// Of the ports from the base on: where routers answer.
const HTTP_PORT_OFFSET: u16 = 0;

/// Of the ports from the base on: where routers answer over TLS.
const HTTPS_PORT_OFFSET: u16 = 1;

/// Of the ports from the base on: where the API answers.
const API_PORT_OFFSET: u16 = 2;

const API_VARIABLE: &str = "CELLWAY_API";
const CA_VARIABLE: &str = "CELLWAY_CA";
const CERTIFICATE_VARIABLE: &str = "CELLWAY_CERTIFICATE";
const KEY_VARIABLE: &str = "CELLWAY_KEY";

/// What every command that talks to a running system takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Reach {
    /// Where the API is, as in http://127.0.0.1:8082. Without it: $CELLWAY_API, else found by --port-base.
    #[arg(long, global = true, value_name = "URL")]
    api: Option<String>,
    /// The first port of a `cellway dev` on this machine; its API answers two ports above.
    #[arg(long, global = true, value_name = "PORT", default_value_t = 8080,
          value_parser = clap::value_parser!(u16).range(1..=65_000))]
    port_base: u16,
    /// The fleet's CA, for an API at https://. Without it: $CELLWAY_CA.
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Your certificate, as from `cellway ca issue operator`. Without it: $CELLWAY_CERTIFICATE.
    #[arg(long, global = true, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// The private key of your certificate. Without it: $CELLWAY_KEY.
    #[arg(long, global = true, value_name = "FILE")]
    key: Option<PathBuf>,
    /// How the answer is printed.
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT", default_value_t = Format::Table)]
    pub(crate) output: Format,
}

impl Reach {
    /// A client of the API.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        let base = self.api_base(std::env::var(API_VARIABLE).ok());
        if !(base.starts_with("http://") || base.starts_with("https://")) {
            let problem = anyhow::anyhow!("the API's address must begin with http:// or https://, not {base:?}");
            return Err(Failure::start_up(problem));
        }
        let client = match base.starts_with("https://") {
            true => Client::with_tls(&base, self.tls().map_err(Failure::start_up)?),
            false => Client::new(&base),
        };
        client.context("no client can be made").map_err(Failure::start_up)
    }

    /// Whom an API over TLS is checked by, and who we are to it.
    fn tls(&self) -> anyhow::Result<ClientConfig> {
        let of = |flag: &Option<PathBuf>, variable: &str| {
            let named = std::env::var_os(variable).filter(|value| !value.is_empty());
            flag.clone().or(named.map(PathBuf::from))
        };
        let ca = of(&self.ca, CA_VARIABLE).context("an API at https:// needs the fleet's CA: say --ca FILE")?;
        match (of(&self.certificate, CERTIFICATE_VARIABLE), of(&self.key, KEY_VARIABLE)) {
            (Some(certificate), Some(key)) => {
                let identity = LiveIdentity::load(IdentityFiles { certificate, key, ca }, "an identity", |_| true)?;
                Ok(identity.client_config(Servers::ControlPlane))
            }
            (None, None) => Ok(trusting(&ca, Servers::ControlPlane)?),
            _ => anyhow::bail!("--certificate and --key belong together"),
        }
    }

    fn api_base(&self, variable: Option<String>) -> String {
        let given = self.api.clone().or(variable.filter(|value| !value.is_empty()));
        given.unwrap_or_else(|| format!("http://127.0.0.1:{}", self.port_base.saturating_add(API_PORT_OFFSET)))
    }

    /// Trusts a router whose certificate is of --ca.
    pub(crate) fn trusting_ca(&self) -> anyhow::Result<ClientConfig> {
        let ca = self.ca.clone().or(std::env::var_os(CA_VARIABLE).map(PathBuf::from));
        let ca = ca.context("TLS needs the CA of the router's certificate: say --ca FILE")?;
        let mut roots = RootCertStore::empty();
        for certificate in
            CertificateDer::pem_file_iter(&ca).with_context(|| format!("{} cannot be read", ca.display()))?
        {
            roots.add(certificate.with_context(|| format!("{} is no certificate", ca.display()))?)?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        Ok(builder.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth())
    }

    /// `host:port` of the router.
    pub(crate) fn router(&self, https: bool) -> String {
        let offset = if https { HTTPS_PORT_OFFSET } else { HTTP_PORT_OFFSET };
        format!("127.0.0.1:{}", self.port_base.saturating_add(offset))
    }
}

/// Checks that an argument can be a tenant's id.
pub(crate) fn tenant_id(text: &str) -> Result<String, InvalidId> {
    TenantId::new(text).map(|id| id.to_string())
}

/// Checks that an argument can be a cell's name.
pub(crate) fn cell_name(text: &str) -> Result<String, InvalidId> {
    CellName::new(text).map(|name| name.to_string())
}

/// Checks that an argument can be a move's id.
pub(crate) fn move_id(text: &str) -> Result<String, InvalidId> {
    MoveId::new(text).map(|id| id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(api: Option<&str>) -> Reach {
        Reach {
            api: api.map(str::to_owned),
            port_base: 9000,
            ca: None,
            certificate: None,
            key: None,
            output: Format::Table,
        }
    }

    #[test]
    fn the_flag_wins_over_the_variable_and_the_variable_over_the_ports() {
        let variable = || Some("http://b:1".to_owned());
        assert_eq!(reach(Some("http://a:1")).api_base(variable()), "http://a:1");
        assert_eq!(reach(None).api_base(variable()), "http://b:1");
        assert_eq!(reach(None).api_base(Some(String::new())), "http://127.0.0.1:9002");
        assert_eq!(reach(None).api_base(None), "http://127.0.0.1:9002");
        assert_eq!(reach(None).router(false), "127.0.0.1:9000");
    }
}
