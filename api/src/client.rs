//! The one typed client of the API: for the CLI, the agents and the tests.

use crate::agent::{FactsHeard, FactsUp, LoadUp, Register, Registered, STREAM_LINE_MAX_BYTES};
use crate::certificates::{CertificateView, SealedAgain, SetCertificate};
use crate::fleet::*;
use crate::http::{NoAnswer, send};
use crate::limits::{LimitsView, SetLimits};
use crate::plan::MovePlanView;
use crate::problem::Problem;
use futures_util::StreamExt;
use reqwest::{Method, Response};
use rustls::ClientConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// The longest wait for a connection.
const CONNECT_TIMEOUT_MS: u64 = 2_000;

/// The longest wait for a whole answer, streams aside.
const ANSWER_TIMEOUT_MS: u64 = 10_000;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The API refused it.
    #[error("{0}")]
    Refused(Problem),
    /// The API could not be reached, or broke off.
    #[error("the API at {base} cannot be reached")]
    Unreachable {
        /// Where it should be.
        base: String,
        /// Why.
        #[source]
        source: NoAnswer,
    },
    /// The answer is not of the API.
    #[error("what answers at {base} is not the cellway API (status {status})")]
    Foreign {
        /// Where it should be.
        base: String,
        /// What it answered.
        status: u16,
    },
    /// A line of a stream is too long or broken.
    #[error("the stream from the API is broken: {0}")]
    BrokenStream(String),
}

/// A client of one API address.
#[derive(Debug, Clone)]
pub struct Client {
    base: String,
    http: reqwest::Client,
}

impl Client {
    /// A client of the API at `base`, as in `http://127.0.0.1:8082`, without TLS.
    pub fn new(base: &str) -> Result<Self, ApiError> {
        Self::build(base, None)
    }

    /// A client of the API at `base`, as in `https://10.0.0.1:8082`: see
    /// [`LiveIdentity::client_config`](crate::identity::LiveIdentity::client_config).
    pub fn with_tls(base: &str, tls: ClientConfig) -> Result<Self, ApiError> {
        Self::build(base, Some(tls))
    }

    fn build(base: &str, tls: Option<ClientConfig>) -> Result<Self, ApiError> {
        let base = base.trim_end_matches('/').to_owned();
        let http = crate::http::client_builder(tls)
            .connect_timeout(Duration::from_millis(CONNECT_TIMEOUT_MS))
            .build()
            .map_err(|source| ApiError::Unreachable { base: base.clone(), source: source.into() })?;
        Ok(Self { base, http })
    }

    /// Where the API is.
    pub fn base(&self) -> &str {
        &self.base
    }

    async fn send(&self, method: Method, path: &str, body: Option<&impl Serialize>) -> Result<Response, ApiError> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let request = request.timeout(Duration::from_millis(ANSWER_TIMEOUT_MS));
        self.checked(send(request).await).await
    }

    async fn checked(&self, answer: Result<Response, NoAnswer>) -> Result<Response, ApiError> {
        let answer = answer.map_err(|source| self.unreachable(source))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status().as_u16();
        match answer.json::<Problem>().await {
            Ok(problem) => Err(ApiError::Refused(problem)),
            Err(_) => Err(ApiError::Foreign { base: self.base.clone(), status }),
        }
    }

    fn unreachable(&self, source: NoAnswer) -> ApiError {
        ApiError::Unreachable { base: self.base.clone(), source: source.without_url() }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.read(self.send(Method::GET, path, None::<&()>).await?).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ApiError> {
        self.read(self.send(Method::POST, path, Some(body)).await?).await
    }

    async fn read<T: DeserializeOwned>(&self, answer: Response) -> Result<T, ApiError> {
        let status = answer.status().as_u16();
        answer.json().await.map_err(NoAnswer::from).map_err(|source| match source.is_decode() {
            true => ApiError::Foreign { base: self.base.clone(), status },
            false => self.unreachable(source),
        })
    }

    /// All tenants.
    pub async fn tenants(&self) -> Result<Listing<TenantView>, ApiError> {
        self.get("/v1/tenants").await
    }

    /// One tenant.
    pub async fn tenant(&self, id: &str) -> Result<TenantView, ApiError> {
        self.get(&format!("/v1/tenants/{}", segment(id))).await
    }

    /// Creates a tenant.
    pub async fn create_tenant(&self, tenant: &CreateTenant) -> Result<TenantView, ApiError> {
        self.post("/v1/tenants", tenant).await
    }

    /// Changes how a tenant is moved.
    pub async fn change_tenant(&self, id: &str, change: &ChangeTenant) -> Result<TenantView, ApiError> {
        self.post(&format!("/v1/tenants/{}", segment(id)), change).await
    }

    /// What a tenant may use.
    pub async fn limits(&self, tenant: &str) -> Result<LimitsView, ApiError> {
        self.get(&format!("/v1/tenants/{}/limits", segment(tenant))).await
    }

    /// Sets a tenant's limits, all at once.
    pub async fn set_limits(&self, tenant: &str, limits: &SetLimits) -> Result<LimitsView, ApiError> {
        let path = format!("/v1/tenants/{}/limits", segment(tenant));
        self.read(self.send(Method::PUT, &path, Some(limits)).await?).await
    }

    /// Lifts all limits of a tenant, and opens it.
    pub async fn clear_limits(&self, tenant: &str) -> Result<LimitsView, ApiError> {
        let path = format!("/v1/tenants/{}/limits", segment(tenant));
        self.read(self.send(Method::DELETE, &path, None::<&()>).await?).await
    }

    /// Claims a host.
    pub async fn claim_host(&self, claim: &ClaimHost) -> Result<HostView, ApiError> {
        self.post("/v1/hosts", claim).await
    }

    /// All certificates of the store.
    pub async fn certificates(&self) -> Result<Listing<CertificateView>, ApiError> {
        self.get("/v1/certificates").await
    }

    /// Keeps a certificate under a name, in the place of the one before.
    pub async fn set_certificate(&self, name: &str, set: &SetCertificate) -> Result<CertificateView, ApiError> {
        let path = format!("/v1/certificates/{}", segment(name));
        self.read(self.send(Method::PUT, &path, Some(set)).await?).await
    }

    /// Removes a certificate, and answers what it was.
    pub async fn remove_certificate(&self, name: &str) -> Result<CertificateView, ApiError> {
        let path = format!("/v1/certificates/{}", segment(name));
        self.read(self.send(Method::DELETE, &path, None::<&()>).await?).await
    }

    /// Seals keys with the secret that seals now, as many as one call may.
    pub async fn seal_certificates_again(&self) -> Result<SealedAgain, ApiError> {
        self.post("/v1/certificate-seals", &()).await
    }

    /// All cells.
    pub async fn cells(&self) -> Result<Listing<CellView>, ApiError> {
        self.get("/v1/cells").await
    }

    /// Creates a cell.
    pub async fn create_cell(&self, cell: &CreateCell) -> Result<CellView, ApiError> {
        self.post("/v1/cells", cell).await
    }

    /// Changes a cell's condition.
    pub async fn change_cell(&self, name: &str, change: &ChangeCell) -> Result<CellView, ApiError> {
        self.post(&format!("/v1/cells/{}", segment(name)), change).await
    }

    /// All moves, the newest last.
    pub async fn moves(&self) -> Result<Listing<MoveView>, ApiError> {
        self.get("/v1/moves").await
    }

    /// One move.
    pub async fn a_move(&self, id: &str) -> Result<MoveView, ApiError> {
        self.get(&format!("/v1/moves/{}", segment(id))).await
    }

    /// Starts a move.
    pub async fn create_move(&self, wanted: &CreateMove) -> Result<MoveView, ApiError> {
        self.post("/v1/moves", wanted).await
    }

    /// What a move would be. Nothing is changed.
    pub async fn plan_move(&self, wanted: &CreateMove) -> Result<MovePlanView, ApiError> {
        self.post("/v1/moves/plan", wanted).await
    }

    /// Undoes a move; past its commit: starts the move back, which is the answer.
    pub async fn undo_move(&self, id: &str, undo: &UndoMove) -> Result<MoveView, ApiError> {
        self.post(&format!("/v1/moves/{}/undo", segment(id)), undo).await
    }

    /// Puts a move's freeze windows aside.
    pub async fn freeze_now(&self, id: &str, wanted: &FreezeNow) -> Result<MoveView, ApiError> {
        self.post(&format!("/v1/moves/{}/freeze-now", segment(id)), wanted).await
    }

    /// What a tenant resolves to.
    pub async fn lookup_tenant(&self, tenant: &str) -> Result<LookupView, ApiError> {
        self.get(&format!("/v1/lookup?tenant={}", segment(tenant))).await
    }

    /// What a host resolves to, and why.
    pub async fn lookup_host(&self, host: &str) -> Result<LookupView, ApiError> {
        self.get(&format!("/v1/lookup?host={}", segment(host))).await
    }

    /// All findings.
    pub async fn findings(&self) -> Result<Listing<FindingView>, ApiError> {
        self.get("/v1/findings").await
    }

    /// How the emergency brake is.
    pub async fn brake(&self) -> Result<BrakeView, ApiError> {
        self.get("/v1/brake").await
    }

    /// Puts the emergency brake on, or takes it off.
    pub async fn set_brake(&self, wanted: &SetBrake) -> Result<BrakeView, ApiError> {
        self.read(self.send(Method::PUT, "/v1/brake", Some(wanted)).await?).await
    }

    /// Hands in alerts.
    pub async fn alerts(&self, body: &AlertmanagerBody) -> Result<Listing<FindingView>, ApiError> {
        self.post("/v1/alerts", body).await
    }

    /// An agent's instance registers or says that it has started again.
    pub async fn register(&self, cell: &str, register: &Register) -> Result<Registered, ApiError> {
        self.post(&format!("/v1/cells/{}/instances", segment(cell)), register).await
    }

    /// An agent's instance leaves for good.
    pub async fn leave(&self, cell: &str, instance: &str) -> Result<(), ApiError> {
        let path = format!("/v1/cells/{}/instances/{}/leave", segment(cell), segment(instance));
        self.send(Method::POST, &path, None::<&()>).await.map(|_| ())
    }

    /// An agent states facts.
    pub async fn facts(&self, cell: &str, facts: &FactsUp) -> Result<FactsHeard, ApiError> {
        self.post(&format!("/v1/cells/{}/facts", segment(cell)), facts).await
    }

    /// An agent reports its load.
    pub async fn load(&self, cell: &str, load: &LoadUp) -> Result<(), ApiError> {
        let path = format!("/v1/cells/{}/load", segment(cell));
        self.send(Method::POST, &path, Some(load)).await.map(|_| ())
    }

    /// An agent's stream of placements and orders, all read at `registered_at` (see [`Registered::revision`]) or later.
    /// It has no time-out: the reader judges silence.
    pub async fn stream(&self, cell: &str, instance: &str, registered_at: u64) -> Result<LineStream, ApiError> {
        let (cell, instance) = (segment(cell), segment(instance));
        let path = format!("/v1/cells/{cell}/stream?instance={instance}&registered_at={registered_at}");
        let answer = self.checked(send(self.http.get(format!("{}{path}", self.base))).await).await?;
        Ok(LineStream { base: self.base.clone(), chunks: answer.bytes_stream().boxed(), buffer: Vec::new() })
    }
}

/// Percent-encodes everything that is not unreserved (RFC 3986), so that any text is one segment or one value.
fn segment(text: &str) -> String {
    use std::fmt::Write;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

/// A long answer of JSON lines.
pub struct LineStream {
    base: String,
    chunks: futures_util::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    buffer: Vec<u8>,
}

impl LineStream {
    /// The next line; `None` at the end.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ApiError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let parsed = serde_json::from_slice(&line);
                return parsed.map(Some).map_err(|error| ApiError::BrokenStream(error.to_string()));
            }
            if self.buffer.len() > STREAM_LINE_MAX_BYTES {
                return Err(ApiError::BrokenStream(format!("a line is over {STREAM_LINE_MAX_BYTES} bytes long")));
            }
            match self.chunks.next().await {
                Some(Ok(chunk)) => self.buffer.extend_from_slice(&chunk),
                Some(Err(source)) => {
                    return Err(ApiError::Unreachable { base: self.base.clone(), source: source.without_url().into() });
                }
                None => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_is_one_path_segment() {
        assert_eq!(segment("acme"), "acme");
        assert_eq!(segment("../x?y=ä"), "..%2Fx%3Fy%3D%C3%A4");
    }
}
