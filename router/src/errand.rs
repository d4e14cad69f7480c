//! A request on its way: what of it stays the same over all attempts.

use std::cell::Cell;
use std::rc::Rc;

use cellway_core::cell::CellKind;
use cellway_core::hostname::Hostname;
use cellway_core::ids::{Epoch, TenantId};
use cellway_core::route::Owner;
use cellway_proxy::{ClientHalf, Pace, PooledBody, Protocol, RequestBody, Room, hygiene};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header};
use prometheus::IntGauge;

use crate::journey::Journey;
use crate::limits::Slot;
use crate::upload::{Lent, Upload};

/// The longest request id that is kept.
pub const REQUEST_ID_MAX_BYTES: usize = 128;

/// The request, cleaned.
pub(crate) struct Errand<'j> {
    /// The host that the client asked for.
    pub(crate) host: Hostname,
    pub(crate) method: Method,
    pub(crate) target: Uri,
    /// Stripped of what the client may not say, with `host`, `forwarded` and `x-request-id` as the router says.
    pub(crate) headers: HeaderMap,
    pub(crate) upload: Upload,
    /// The client's half of the tunnel, if it asks for a WebSocket.
    pub(crate) websocket: Option<ClientHalf>,
    /// Its place among those that its tenant may have at a time, if its tenant has limits.
    pub(crate) slot: Option<Slot>,
    /// What its client's connection may keep.
    pub(crate) room: Option<Room>,
    /// Bytes of the body that the last attempt has sent.
    pub(crate) sent: Rc<Cell<u64>>,
    /// What is told of it.
    pub(crate) journey: &'j mut Journey,
}

/// What came of an attempt.
#[expect(clippy::large_enum_variant, reason = "made once per attempt, and nearly always the large one")]
pub(crate) enum Outcome {
    /// The app answered.
    Answered(Response<PooledBody>),
    /// The cell says who has the tenant.
    Elsewhere(Owner),
    /// Nobody admitted the request.
    Refused,
}

impl Errand<'_> {
    /// What is spoken to the cell. Gates speak both; HTTP/1.1 costs less, and gRPC cannot be carried by it.
    pub(crate) fn protocol(&self) -> Protocol {
        if hygiene::is_grpc(&self.headers) { Protocol::Http2 } else { Protocol::Http1 }
    }

    /// The request of one attempt, and what it holds of the body.
    #[expect(clippy::expect_used, reason = "a tenant id is plain ASCII")]
    pub(crate) fn request(
        &mut self,
        kind: CellKind,
        stamp: Option<(&TenantId, Epoch)>,
    ) -> (Box<Request<RequestBody>>, Lent) {
        self.sent = Rc::default();
        let mut request = Request::new(RequestBody::empty());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.target.clone();
        *request.headers_mut() = self.headers.clone();
        let lent = self.upload.lend(&mut request, kind);
        let headers = request.headers_mut();
        if let Some((tenant, epoch)) = stamp {
            let tenant = HeaderValue::from_str(tenant.as_str()).expect("a tenant id is plain ASCII");
            headers.insert(hygiene::TENANT, tenant);
            headers.insert(hygiene::EPOCH, HeaderValue::from(epoch.0));
        }
        if self.websocket.is_some() {
            hygiene::write_websocket(headers);
        }
        if self.protocol() == Protocol::Http2 {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        let counter = Rc::clone(&self.sent);
        let pace = self.slot.as_ref().map(|slot| Box::new(slot.pace()) as Box<dyn Pace>);
        let room = self.room.clone();
        let request = request.map(|body| body.counted_by(counter).paced_by(pace).within(room));
        // It lies in the futures of all who work on it.
        (Box::new(request), lent)
    }
}

/// The id of a request: the client's, if it is sane and alone, or a new one.
#[expect(clippy::expect_used, reason = "hexadecimal digits are plain ASCII")]
pub(crate) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let mut given = headers.get_all(hygiene::REQUEST_ID).iter();
    if let (Some(id), None) = (given.next(), given.next())
        && (1..=REQUEST_ID_MAX_BYTES).contains(&id.len())
        && id.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
    {
        return id.clone();
    }
    HeaderValue::from_str(&format!("{:032x}", rand::random::<u128>())).expect("hexadecimal digits are plain ASCII")
}

/// Counts as one in a gauge for as long as it lives.
pub(crate) struct Counted(IntGauge);

impl Counted {
    pub(crate) fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
