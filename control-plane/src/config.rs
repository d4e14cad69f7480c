//! What a replica is told at its start.

use cellway_api::identity::LiveIdentity;
use cellway_api::sealing::SecretFiles;
use cellway_core::fleet::MoveBudgets;
use cellway_core::hostname::Hostname;
use cellway_core::route::{Domains, RESERVED_LABELS};
use cellway_core::tenant_move::MoveLimits;
use std::net::SocketAddr;
use std::sync::Arc;

/// The configuration of a replica.
#[derive(Debug, Clone)]
pub struct ControlPlaneConfig {
    /// Where the API listens.
    pub listen: SocketAddr,
    /// How others reach the API, as in `http://127.0.0.1:8082`; without it the listener's own address.
    pub advertise: Option<String>,
    /// Who this replica is: with it the API is served over TLS, to certificates of the same CA; without it in clear,
    /// and only on loopback.
    pub identity: Option<Arc<LiveIdentity>>,
    /// The secrets that keys of certificates are sealed with; without them no certificate is taken.
    pub certificate_secrets: Option<SecretFiles>,
    /// The domains that routers serve: what a host or a tenant's id may be.
    pub domains: Domains,
    /// Deadlines and budgets of new moves. A tenant's own freeze budget goes before the one here.
    pub move_limits: MoveLimits,
    /// How many moves may be in flight.
    pub move_budgets: MoveBudgets,
    /// This process alone can write the store (it holds the embedded store's lock), so it leads without waiting for
    /// the lease of its predecessor to end.
    pub sole_writer: bool,
    /// While this file holds the name of a state, as in `copying` or `holding data`, no move leaves that state.
    #[cfg(feature = "test-faults")]
    pub stall_file: Option<std::path::PathBuf>,
    /// While this file holds a number and `before` or `after`, that write of moves from then on is the process's last.
    #[cfg(feature = "test-faults")]
    pub crash_file: Option<std::path::PathBuf>,
}

impl ControlPlaneConfig {
    /// Whether a test keeps moves in this state.
    #[cfg(feature = "test-faults")]
    pub(crate) fn is_stalled(&self, state: &cellway_core::tenant_move::MoveState) -> bool {
        use cellway_core::tenant_move::MoveState;
        let Some(wanted) = self.stall_file.as_ref().and_then(|file| std::fs::read_to_string(file).ok()) else {
            return false;
        };
        let name = match state {
            MoveState::Holding(holding) => format!("holding {:?}", holding.stage).to_lowercase(),
            other => other.as_str().to_owned(),
        };
        wanted.trim() == name
    }

    /// A configuration with the defaults, for these base domains.
    pub fn new(listen: SocketAddr, base: Vec<Hostname>) -> Self {
        Self {
            listen,
            advertise: None,
            identity: None,
            certificate_secrets: None,
            domains: Domains { base, reserved: RESERVED_LABELS.map(str::to_owned).into() },
            move_limits: MoveLimits::default(),
            move_budgets: MoveBudgets::default(),
            sole_writer: false,
            #[cfg(feature = "test-faults")]
            stall_file: None,
            #[cfg(feature = "test-faults")]
            crash_file: None,
        }
    }
}
