//! What can go wrong between the agent and Postgres, and whether trying again can help.

use cellway_core::ids::HomeId;
use std::io;
use std::path::PathBuf;
use tokio_postgres::error::SqlState;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PostgresError {
    /// The agent's file names no server for the cell.
    #[error("driver: postgres: servers names none for {0}: every agent needs those of both cells of a move")]
    NoServer(String),
    /// A file of the configuration cannot be used.
    #[error("{path} cannot be read")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The server cannot be reached, or does not let us in.
    #[error("the database of {cell} cannot be reached")]
    Connect {
        /// Whose.
        cell: String,
        /// Why.
        #[source]
        source: tokio_postgres::Error,
    },
    /// TLS cannot be set up.
    #[error("the certificates for the database cannot be used")]
    Tls(#[from] tokio_rustls::rustls::Error),
    /// A statement failed.
    #[error("{0}")]
    Sql(String, #[source] tokio_postgres::Error),
    /// A name would not fit.
    #[error("{0:?} is longer than Postgres allows a name to be")]
    LongName(String),
    /// The source's schema, or a server, cannot be moved from or to as it is.
    #[error("the tenant cannot be moved: {}", .0.join("; "))]
    Preflight(Vec<String>),
    /// A slot, a lock or a fence waits for somebody.
    #[error("{what} waited over {waited_ms} ms for {who}")]
    Blocked {
        /// What waited.
        what: &'static str,
        /// How long.
        waited_ms: u64,
        /// Whom it waited for.
        who: String,
    },
    /// `pg_dump` and its kind.
    #[error("{tool} failed: {why}")]
    Tool {
        /// Which.
        tool: &'static str,
        /// Its last words.
        why: String,
    },
    /// Somebody changed the schema while it was being moved.
    #[error(
        "the schema was changed during the move ({0}): changes of a schema are not replicated; move again when they are made"
    )]
    SchemaChanged(String),
    /// The target cannot apply what the source wrote.
    #[error("replication into {0} stopped at an error, which stands in the target server's log")]
    ApplyStopped(String),
    /// What arrived is not what was sent.
    #[error("the copies differ after the fence: {}", .0.join("; "))]
    Differs(Vec<String>),
    /// The mark has not arrived yet.
    #[error("the target has not reached position {0} yet")]
    NotThere(String),
    /// What a move needs is not there.
    #[error("{0}")]
    Missing(String),
    /// Somebody else's home stands where this one has to be.
    #[error("home {0} is served from the schema")]
    Occupied(HomeId),
}

impl PostgresError {
    /// Names the statement that failed.
    pub(crate) fn sql(what: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> Self {
        let what = what.into();
        move |error| Self::Sql(what, error)
    }

    /// Whether trying again cannot help.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::NoServer(_)
            | Self::LongName(_)
            | Self::Preflight(_)
            | Self::Blocked { .. }
            | Self::Tool { .. }
            | Self::SchemaChanged(_)
            | Self::ApplyStopped(_)
            | Self::Differs(_)
            | Self::Occupied(_) => true,
            Self::Sql(_, error) => error.code().is_some_and(is_final_state),
            Self::Connect { .. } | Self::Tls(_) | Self::File { .. } | Self::NotThere(_) | Self::Missing(_) => false,
        }
    }
}

/// Privileges, features and mistakes do not come or go within a move; locks, connections and resources do.
fn is_final_state(state: &SqlState) -> bool {
    let class = state.code().get(..2).unwrap_or("");
    matches!(class, "0A" | "22" | "42") && *state != SqlState::UNDEFINED_OBJECT
}
