//! What a move would be, before it is asked for; and how the agents of its source are asked what runs there.
//!
//! `POST /v1/moves/plan` takes what `POST /v1/moves` takes, answers with a [`MovePlanView`] and changes nothing. For it
//! the control plane asks each of the source's agents, `POST /v1/survey` at the address where they hand out data, with a
//! [`Survey`]: over TLS an agent answers the control plane and nobody else.

use crate::tenants::LongRequestsView;
use serde::{Deserialize, Serialize};

/// Where an agent answers a [`Survey`].
pub const SURVEY_PATH: &str = "/v1/survey";

/// The longest survey, and the longest answer to one.
pub const SURVEY_MAX_BYTES: usize = 4 * 1024;

/// How long the agents of a cell may take for a survey, connecting included: it is somebody at a terminal who waits.
pub const SURVEY_TIMEOUT_MS: u64 = 1_500;

/// Asks an agent how things stand with a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Survey {
    /// The tenant.
    pub tenant: String,
    /// The copy of its data that the cell serves.
    pub home: String,
}

/// How things stand with a tenant at one agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Surveyed {
    /// Requests that its gate has admitted and the app has not ended, streams aside.
    pub running_requests: u32,
    /// The age of the oldest of them.
    pub oldest_request_ms: u64,
    /// Long-lived streams: WebSockets, event streams, gRPC calls of many messages.
    pub open_streams: u32,
    /// The size of the data; nothing where the driver cannot tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_bytes: Option<u64>,
}

/// What a move would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovePlanView {
    /// Who.
    pub tenant: String,
    /// From.
    pub source: String,
    /// To.
    pub target: String,
    /// Why it would be refused; all that follows is what could be found out nevertheless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// What it would wait for before it starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// When the freeze window opens, before which the tenant would not be frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze_from_ms: Option<u64>,
    /// How the data would go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Registered gates of the source.
    pub gates: u32,
    /// Of these, the ones that have said what runs.
    pub gates_heard: u32,
    /// What runs now at the gates that were heard, and how much data there is; nothing where none was heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<Surveyed>,
    /// How many moves of this driver the predictions stand on.
    pub past_moves: u32,
    /// How long the copy would take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_ms: Option<u64>,
    /// How long requests would be held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze_ms: Option<u64>,
    /// How long they may be.
    pub freeze_budget_ms: u64,
    /// Whether the one is within the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within_budget: Option<bool>,
    /// How long the move would wait for requests that take longer,
    pub long_requests_wait_ms: u64,
    /// and what would become of them then.
    pub long_requests: LongRequestsView,
}

/// All of a cell's agents together.
pub fn together(answers: impl IntoIterator<Item = Surveyed>) -> Option<Surveyed> {
    answers.into_iter().reduce(|all, one| Surveyed {
        running_requests: all.running_requests.saturating_add(one.running_requests),
        oldest_request_ms: all.oldest_request_ms.max(one.oldest_request_ms),
        open_streams: all.open_streams.saturating_add(one.open_streams),
        // They share the data, and each may know of it.
        data_bytes: all.data_bytes.max(one.data_bytes),
    })
}

#[cfg(feature = "client")]
pub use asking::Surveyor;

#[cfg(feature = "client")]
mod asking {
    use super::{SURVEY_MAX_BYTES, SURVEY_PATH, SURVEY_TIMEOUT_MS, Survey, Surveyed};
    use rustls::ClientConfig;
    use std::net::SocketAddr;
    use std::time::Duration;

    /// Asks agents. With TLS it asks whoever is a cell by its certificate, without it only this machine.
    #[derive(Debug, Clone)]
    pub struct Surveyor {
        http: reqwest::Client,
        is_tls: bool,
    }

    impl Surveyor {
        /// See the type.
        pub fn new(tls: Option<ClientConfig>) -> Result<Self, reqwest::Error> {
            let is_tls = tls.is_some();
            Ok(Self { http: crate::http::client_builder(tls).build()?, is_tls })
        }

        /// What the agent at `endpoint` says; nothing, if it says nothing in time or nothing that makes sense.
        pub async fn ask(&self, endpoint: &str, survey: &Survey) -> Option<Surveyed> {
            if !self.is_tls && !endpoint.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_loopback()) {
                return None;
            }
            let scheme = if self.is_tls { "https" } else { "http" };
            let request = self.http.post(format!("{scheme}://{endpoint}{SURVEY_PATH}")).json(survey);
            let request = request.timeout(Duration::from_millis(SURVEY_TIMEOUT_MS));
            let mut answer = crate::http::send(request).await.ok()?.error_for_status().ok()?;
            let mut body = Vec::new();
            while let Some(part) = answer.chunk().await.ok()? {
                if body.len() + part.len() > SURVEY_MAX_BYTES {
                    return None;
                }
                body.extend_from_slice(&part);
            }
            serde_json::from_slice(&body).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_added_up_and_their_data_is_counted_once() {
        let one = |running_requests, oldest_request_ms, data_bytes| Surveyed {
            running_requests,
            oldest_request_ms,
            open_streams: 2,
            data_bytes,
        };
        let all = together([one(1, 50, Some(9)), one(3, 20, None), one(0, 0, Some(9))]);
        assert_eq!(
            all,
            Some(Surveyed { running_requests: 4, oldest_request_ms: 50, open_streams: 6, data_bytes: Some(9) })
        );
        assert_eq!(together([]), None);
    }
}
